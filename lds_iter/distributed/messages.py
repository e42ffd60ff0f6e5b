"""Messages that all ranks send together, and that say what they hold.

gloo ends a process, with no error that Python sees, where a message is larger than the room made for it. So no rank may
send a message of a size that the others do not expect. All ranks have seen which message followed which so far, and
expect the same one to follow again:

- A message begins with a name, the hash of some words: the call that it belongs to, dtypes and shapes.
- A rank that has another message to send than the expected one first sends a blank one, of the expected size, with the
  new name. All ranks see all names. Where these are the same, the message itself follows.
- Where they differ, the ranks tell each other their words, and all end with the same error.

Iterations repeat the same messages, so blanks are sent in the first one alone. With nccl the host must not wait for the
names; there the ranks compare their words once, before the first message of each name.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

from lds_iter.distributed.call import SharedCall
from lds_iter.distributed.rank_errors import IN_STEP, out_of_step
from lds_iter.distributed.waiting import finished, patient_gather

NAME_BYTES = 8
"""Bytes of a message's name."""

WORDS_BYTES = 512
"""Bytes of the words that ranks compare."""


@dataclass
class Messages:
    """The messages of one call, such as a solve or its backward pass.

    Attributes:
        call: whose messages they are.
        last: the name of the last one.
        expected: by the name of a message, the name and the bytes of the one that followed it last.
    """

    call: SharedCall
    last: bytes = b""
    expected: dict[bytes, tuple[bytes, int]] = field(default_factory=dict, repr=False)

    def all_gather(self, message: Tensor, what: str, *, patient: bool = False) -> Tensor:
        """The bytes of all ranks, `(ranks, n)`.

        Args:
            message: uint8, `(n)`.
            what: what it holds, in words that are the same on all ranks.
            patient: wait for ranks that compile kernels, see `patient_gather`.

        Raises:
            ValueError: on every rank, where the ranks do not send the same.
            RankError: when a rank has failed or is gone.
        """
        words = f"{what} in {self.call.name}"
        return self._named(message, words, lambda given: all_gathered(self.call, given, words, patient=patient))

    def pass_on(self, message: Tensor, what: str, target: int | None, source: int | None) -> Tensor | None:
        """Give bytes to one rank, and get those of another; None without a source. See `all_gather`."""
        size, words = dist.get_world_size(self.call.group), f"{what} in {self.call.name}"

        def send(given: Tensor) -> Tensor:
            sent, received = ([len(given) * (rank == other) for rank in range(size)] for other in (target, source))
            answer = given.new_empty(sum(received))
            work = dist.all_to_all_single(
                answer, given[: sum(sent)], received, sent, group=self.call.group, async_op=True
            )
            finished(work, self.call, words)
            return answer.view(-1, len(given))

        found = self._named(message, words, send, source)
        return None if source is None else found[0]

    def _named(
        self, message: Tensor, words: str, send: Callable[[Tensor], Tensor], source: int | None = None
    ) -> Tensor:
        """Send a message under its name, and take the names off those that come, `(k, n)`."""
        name = _name_of(words)
        if not self.call.waits_on_host:
            if name not in self.expected:
                self._compare(words, message.device)
                self.expected[name] = name, 0
            return send(message)
        known, size = self.expected.get(self.last, (b"", 0))
        label = torch.frombuffer(bytearray(name), dtype=torch.uint8).to(message.device)

        def sent(content: Tensor) -> Tensor:
            answers = send(torch.cat([label, content]))
            if bool((answers[:, :NAME_BYTES] != label).any()):
                self._end(words, message.device, source)
            return answers[:, NAME_BYTES:]

        if known != name:
            sent(message.new_zeros(size))
            self.expected[self.last] = name, len(message)
        self.last = name
        return sent(message)

    def _end(self, words: str, device: torch.device, source: int | None) -> None:
        """Raise, because the ranks are not in step. `source`: the only other rank that sent something, if only one."""
        if source is None:
            self._compare(words, device)
        whom = "Another rank" if source is None else f"Rank {source}"  # the end of long words is not compared
        raise ValueError(
            f"{whom} of `mesh` sends something else than rank {self.call.rank} waits for: {words}. {IN_STEP}"
        )

    def _compare(self, words: str, device: torch.device) -> None:
        """Raise on every rank where the words of two ranks differ."""
        message = torch.frombuffer(bytearray(words.encode()[:WORDS_BYTES].ljust(WORDS_BYTES)), dtype=torch.uint8)
        found = all_gathered(self.call, message.to(device), words)
        error = out_of_step([bytes(row.tolist()).decode(errors="replace").rstrip() for row in found])
        if error is not None:
            raise error


def all_gathered(call: SharedCall, message: Tensor, words: str, *, patient: bool = False) -> Tensor:
    """The bytes of all ranks, `(ranks, n)`, without a name; all give as many."""
    answers = message.new_empty(dist.get_world_size(call.group), len(message))
    rooms = list(answers.unbind())
    if patient and call.waits_on_host:  # with nccl the stream waits, and torch's watchdog ends it
        patient_gather(call, rooms, message, words)
    else:
        finished(dist.all_gather(rooms, message, group=call.group, async_op=True), call, words)
    return answers


@functools.lru_cache(maxsize=1024)
def _name_of(words: str) -> bytes:
    return hashlib.blake2b(words.encode(), digest_size=NAME_BYTES).digest()
