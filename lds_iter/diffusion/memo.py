"""The network's outputs, remembered: a step whose image has not changed is not evaluated again.

So the rows at the end of a solve and the error estimate cost nothing. Nor is one evaluated that has moved by less than
`reuse`: its output is extended along the move by the slope of Gaussian images. In the first sweeps, iterates are far
off and deserve less: some steps are evaluated, and the outputs of those between are interpolated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Evaluated:
    """Where the network was evaluated last at each step, and what it said, `(n, B, D)`; NaN and 0 where never.

    Arguments of an iterate may lie beside these, and its outputs be extended or interpolated from them. A difference of
    two outputs says something of the network's slope only where both were evaluated.
    """

    argument: Tensor
    output: Tensor


class Memo:
    """The last argument of the network at every time step and sample, `(T, B, D)`, and its output, `(T, B, W)`.

    Args:
        length: T.
        like: the noise, `(B, D)`.
        width: of an output.
        stride: in the first sweep evaluate one of so many steps, in each further one of half as many. 1: all of them.
        reuse: an argument that has moved by no more than this, root mean square, is not evaluated again.
    """

    def __init__(self, length: int, like: Tensor, width: int, *, stride: int, reuse: float) -> None:
        self.argument = like.new_full((length, *like.shape), torch.nan)
        self.output = like.new_zeros((length, len(like), width))
        self.stride, self.reuse, self.sweep = stride, reuse, 0

    def evaluated(self, steps: Tensor, like: Tensor) -> Evaluated:
        """What is remembered of some steps, for arguments `(n, B, D)`."""
        batch, width = like.shape[1:]
        return Evaluated(self.argument[steps, :batch], self.output[steps, :batch, :width])

    def recall(
        self,
        argument: Tensor,
        steps: Tensor,
        slopes: Tensor,
        evaluate: Callable[[Tensor, Tensor, Tensor], Tensor],
        whole: bool,
    ) -> tuple[Tensor, int]:
        """The outputs `(n, B, W)`, evaluated where the argument is not (nearly) the one remembered, and how many were.

        Args:
            argument: `(n, B, D)`.
            steps: `(n,)`.
            slopes: of the network for Gaussian images, at those steps.
            evaluate: outputs `(N, W)` for arguments `(N, D)`, steps and places `(N,)`.
            whole: whether the samples of a step are only ever evaluated together.
        """
        batch = argument.shape[1]
        known, output = self.argument[steps, :batch], self.output[steps, :batch]
        nodes = self._nodes(steps)
        moved = argument - known
        near = moved.square().mean(-1).sqrt() <= self.reuse  # false for NaN: never evaluated
        along = torch.nn.functional.pad(slopes * moved, (0, output.shape[-1] - argument.shape[-1]))
        new = ~near & nodes.unsqueeze(-1)
        if whole:
            new = new.any(-1, keepdim=True).expand_as(new)
        output = torch.where(near.unsqueeze(-1), output + along, output)
        rows, places = new.nonzero(as_tuple=True)
        if len(rows):
            fresh = argument[rows, places]
            computed = evaluate(fresh, steps[rows], places)
            self.argument[steps[rows], places] = fresh
            self.output[steps[rows], places] = computed
            output[rows, places] = computed
        return output if bool(nodes.all()) else interpolated(output, nodes), len(rows)

    def spacing(self, sweep: int) -> int:
        """Steps from one that is evaluated in a sweep to the next."""
        return -(-self.stride >> sweep)  # rounded up

    @property
    def thinned(self) -> bool:
        """Whether the last sweep interpolated outputs."""
        return self.spacing(max(0, self.sweep - 1)) > 1

    def _nodes(self, steps: Tensor) -> Tensor:
        """The rows to evaluate: all, or of a thinned sweep one of `spacing`.

        The rows that the loop may accept in the sweep are always among them.
        """
        nodes = (steps % self.spacing(self.sweep) == 0) | (steps <= self.sweep + 1)
        nodes[0] = nodes[-1] = True
        return nodes


def interpolated(output: Tensor, nodes: Tensor) -> Tensor:
    """Outputs `(n, B, D)`, linear in time between the rows where `nodes` is true, the first and last among them."""
    at = nodes.nonzero().flatten()
    rows = torch.arange(len(nodes), device=nodes.device)
    above = torch.searchsorted(at, rows).clamp(min=1)
    low, high = at[above - 1], at[above]
    share = ((rows - low) / (high - low)).to(output.dtype)[:, None, None]
    return torch.lerp(output[low], output[high], share)
