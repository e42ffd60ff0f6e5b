"""Whether the function that is differentiated is still the function that was solved.

Between a solve and its backward pass an optimizer may step, `functional_call` may put other weights back, a module may
change to training mode, an attribute may be annealed. The adjoint evaluates `f` again, so it would be that of another
recurrence. Two checks detect this: the version counters of all parameters that the value of `f` depends on, and the
value itself, when the adjoint computes it again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

CHANGED_ULPS = 1 << 10
"""Values of `f` evaluated twice differ by rounding of its reductions, never by this many units in the last place of the
largest number."""

ADVICE = (
    "Call `.backward()` before anything that `f` reads changes (an optimizer's step, load_state_dict, functional_call, "
    "`.train()` and `.eval()`, an attribute), or use li.sequential(f, s0, inputs), whose graph keeps what it needs."
)


@dataclass(frozen=True)
class Unchanged:
    """A record of `f` at the time of the solve.

    Attributes:
        value: `f` along the solution, `(T, *batch, D)`, detached.
        parameters: the leaves that it depends on, with their version counters.
    """

    value: Tensor
    parameters: tuple[tuple[Tensor, int], ...]

    @staticmethod
    def of(value: Tensor) -> Unchanged:
        """The record, from a value of `f` with its graph."""
        return Unchanged(value.detach(), tuple((leaf, leaf._version) for leaf in _leaves(value.grad_fn)))

    def check_parameters(self) -> None:
        """Raise if a parameter was written into since."""
        if any(leaf._version != version for leaf, version in self.parameters):
            raise RuntimeError(
                "A tensor that `f` depends on was modified by an inplace operation between `solve` and the backward "
                f"pass, so its gradient would be that of another function. {ADVICE}"
            )

    def check_value(self, value: Tensor, rows: slice) -> None:
        """Raise if `f`, evaluated again in these rows of the solution, gives another value."""
        kept = self.value[rows]
        scale = kept.where(kept.isfinite(), 0).abs().max()  # a sequence may have failed
        same = (value - kept).abs() <= CHANGED_ULPS * torch.finfo(kept.dtype).eps * scale
        if not bool((same | ~kept.isfinite()).all()):
            raise RuntimeError(
                "`f` gives other values in the backward pass than in the solve (by "
                f"{float((value - kept).abs().max()):.2g}), so its gradient would be that of another function. {ADVICE}"
            )


def _leaves(node: Any) -> list[Tensor]:
    """The leaf tensors of a graph."""
    seen, found, todo = set(), [], [node]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if isinstance(leaf, Tensor):
            found.append(leaf)
        todo += [before for before, _ in node.next_functions]
    return found
