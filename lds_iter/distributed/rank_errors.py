"""The words of a rank when another one does not come."""

from __future__ import annotations

from lds_iter.errors import RankError

ANEW = "Make the process group anew before you use it again (destroy_process_group, or a restart)."

LONGER = "For a longer wait type torch.distributed.init_process_group(..., timeout=...)."

IN_STEP = (
    "Every rank makes the same calls in the same order: `solve`, `.backward()`, and in a callback `progress.states` "
    "and `progress.update`. A method chooses the structure of its transitions by what all ranks know "
    "(`lin.over_time.largest`), not by the numbers of its own rows."
)


def useless() -> RankError:
    """The error for a group whose ranks are not in step any more."""
    return RankError(f"An earlier solve on the process group of `mesh` ended with an error. {ANEW}", None)


def failed(name: str, rank: int, cause: str) -> RankError:
    """The error for a rank that has said that it failed.

    Args:
        name: of the call.
        rank: which one.
        cause: its error.
    """
    return RankError(
        f"Rank {rank} of `mesh` has ended {name}, and all ranks end with it. Its error: {cause}\nIts traceback is in "
        f"its own output. {ANEW}",
        rank,
    )


def out_of_step(texts: list[str]) -> ValueError | None:
    """The error for ranks that send different messages; None where they do not.

    Args:
        texts: of every rank, its message in words.
    """
    for rank, text in enumerate(texts):
        if text != texts[0]:
            return ValueError(
                f"The ranks of `mesh` are not in step: rank 0 sends {texts[0]}, and rank {rank} sends {text}. {IN_STEP}"
            )
    return None


def timed_out(why: str) -> bool:
    """Whether torch says that the timeout of a group has passed."""
    return "timed out" in why.lower()


def missing(name: str, mine: int, gone: list[int], why: str) -> RankError:
    """The error for ranks that did not send a message.

    Args:
        name: of the call.
        mine: the rank of this process.
        gone: the ranks that do not answer; may be empty.
        why: the words of torch.
    """
    said = f"torch says: {(why.splitlines() or ['nothing'])[0]}"
    if mine in gone:
        return RankError(
            f"Rank {mine} of `mesh`, this one, let the others wait in {name} for longer than the timeout of their "
            f"group, so they have ended. {LONGER} {ANEW} {said}",
            mine,
        )
    whom = f"Rank {' and rank '.join(map(str, gone))}" if gone else "A rank"
    late = timed_out(why)
    return RankError(
        f"{whom} of `mesh` did not send a message that rank {mine} waits for in {name}. In order of likelihood: "
        f"{'; '.join(_causes(name, late))}; the network is down. {LONGER if late else ANEW} {said}",
        gone[0] if gone else None,
    )


def _causes(name: str, late: bool) -> list[str]:
    """Why a rank does not come, most likely first. `late`: the timeout has passed; else its connections are closed."""
    killed = "its process was killed (out of memory, a scheduler), or has ended"
    busy = "it hangs, or is busy, in `f` for example"
    absent = f"it has not called {name}, as every rank must"
    if name == BACKWARD:
        absent += " (a rank whose loss does not depend on its states adds `0 * solution.states.sum()`)"
    if not late:
        return [killed, absent]
    return [busy, absent, killed] if name == SOLVE else [absent, busy, killed]


SOLVE, BACKWARD, ESTIMATE = "`solve`", "`.backward()`", "`error_estimate()`"
"""The calls that ranks make together. The checks at the beginning of `solve` are `solve`'s, too."""
