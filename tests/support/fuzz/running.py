"""Run cases by their seeds: one, a stretch of them, or many on several processes."""

import random
import traceback
import warnings
from dataclasses import dataclass
from typing import Any

import torch

from fuzz import cases, hostile, laws, refused
from fuzz.draw import Draw

SHARES = {"solve": 0.62, "gradient": 0.14, "hostile": 0.16, "refused": 0.08}
"""Parts of the seeds that go to each kind of case."""

ALONE = 3
"""In every third case the elements of the batch are solved one by one, too; it costs as much as all the rest."""

UNKNOWN_STRUCTURE = ("knows the gains of the structures", "does not know the structure")
"""How a method says that it cannot wrap a structure: the case ends there, refused in words."""


@dataclass(frozen=True)
class Outcome:
    """What became of one case.

    Attributes:
        seed: repeats it.
        kind: "solve", "gradient", "hostile" or "refused".
        case: the case in words.
        broken: the laws that it broke, each as `law: figures`.
        remark: "refused" where methods said that they do not compose, "unseen" for a misdeed that did not show; or "".
    """

    seed: int
    kind: str
    case: str
    broken: tuple[str, ...] = ()
    remark: str = ""

    def __str__(self) -> str:
        return f"seed {self.seed} ({self.kind}): {'; '.join(self.broken) or 'fine'}\n    {self.case}"


def run_seed(seed: int) -> Outcome:
    """Draw the case of a seed and hold it to its laws."""
    draw = Draw(seed)
    kind = draw.weighted(SHARES)
    torch.manual_seed(seed)
    random.seed(seed)
    case: Any = "not drawn"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            case, broken = _run(kind, draw, seed)
    except Exception as error:
        if any(words in str(error) for words in UNKNOWN_STRUCTURE):
            return Outcome(seed, kind, str(case), remark="refused")
        where = traceback.extract_tb(error.__traceback__)[-1]
        message = f"raises: {type(error).__name__}: {str(error)[:300]} ({where.filename}:{where.lineno})"
        return Outcome(seed, kind, str(getattr(error, "case", case)), (message,))
    unseen = any(law.startswith(hostile.UNSEEN) for law in broken)
    return Outcome(seed, kind, str(case), () if unseen else tuple(broken), hostile.UNSEEN if unseen else "")


def _run(kind: str, draw: Draw, seed: int) -> tuple[Any, list[str]]:
    case: Any = None
    try:
        if kind == "solve":
            case = cases.solve_case(draw, seed)
            return case, laws.check_solve(case, alone=seed % ALONE == 0)
        if kind == "gradient":
            case = cases.gradient_case(draw, seed)
            return case, laws.check_gradients(case)
        if kind == "hostile":
            case = hostile.hostile_case(draw, seed)
            return case, hostile.check_hostile(case)
        case = refused.refused_case(draw, seed)
        return case, refused.check_refused(case)
    except Exception as error:
        error.case = case  # pyright: ignore[reportAttributeAccessIssue]
        raise


def run_chunk(seeds: range) -> list[Outcome]:
    """The cases of some seeds, in a process of a pool."""
    return [run_seed(seed) for seed in seeds]


def one_thread() -> None:
    """What a process of a pool begins with: problems are small, and processes share the cores."""
    torch.set_num_threads(1)
