"""From the times that a user asks for to the grid of steps, and back from the states at its nodes to those times."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lds_iter.ode.field import Field

OPTIONS = ("substeps", "step_size", "grid_constructor", "interp")


@dataclass(frozen=True)
class Grid:
    """The nodes of the steps, and what is read off them.

    Attributes:
        nodes: increasing or decreasing times, `(T + 1)`.
        wanted: the times that the user asked for, `(N)`.
        interp: `"linear"` or `"cubic"`, for times between nodes.
    """

    nodes: Tensor
    wanted: Tensor
    interp: str

    @property
    def steps(self) -> tuple[Tensor, Tensor]:
        """The inputs of the recurrence: the time before each step and its size, `(T)` each."""
        return self.nodes[:-1], self.nodes.diff()

    def read(self, field: Field, states: Tensor) -> Tensor:
        """The states at the wanted times, `(N, *batch, D)`, from those at the nodes, `(T + 1, *batch, D)`."""
        if torch.equal(self.nodes, self.wanted):
            return states
        sign = -1 if bool(self.nodes[-1] < self.nodes[0]) else 1
        right = torch.searchsorted((sign * self.nodes).detach(), (sign * self.wanted).detach())
        if torch.equal(self.nodes[right.clamp(max=len(self.nodes) - 1)], self.wanted):
            return states[right]
        right = right.clamp(1, len(self.nodes) - 1)
        left = right - 1
        size = self.nodes[right] - self.nodes[left]
        x = ((self.wanted - self.nodes[left]) / size).to(states.dtype).view(-1, *[1] * (states.ndim - 1))
        before, after = states[left], states[right]
        if self.interp == "linear":
            return before + x * (after - before)
        size = size.to(states.dtype).view(x.shape)
        early, late = field(self.nodes[left], before), field(self.nodes[right], after)
        return hermite(x, size, before, early, after, late)


def hermite(x: Tensor, size: Tensor, before: Tensor, early: Tensor, after: Tensor, late: Tensor) -> Tensor:
    """The cubic through two states with their slopes, at the fraction `x` of a step of that size."""
    rise = x * x * (3 - 2 * x)
    return before + rise * (after - before) + size * x * (1 - x) * ((1 - x) * early - x * late)


def make_grid(func: Callable[[Tensor, Any], Any], y0: Any, t: Tensor, grid: Tensor | None, options: Any) -> Grid:
    """Check the times and build the grid.

    Raises:
        TypeError, ValueError: for times that are not monotonic, options that are not known or exclude each other.
    """
    check_times("t", t)
    options = dict(options or {})
    _check_options(options, grid)
    interp = options.get("interp", "linear")
    if interp not in ("linear", "cubic"):
        raise ValueError(f"`options['interp']` must be 'linear' or 'cubic', got {interp!r}.")
    nodes = _nodes(func, y0, t, options) if grid is None else grid
    check_times("grid", nodes)
    nodes = nodes.to(t)
    if bool(nodes[0] != t[0]) or bool(nodes[-1] != t[-1]):
        raise ValueError(
            f"The grid must begin and end with `t`, {float(t[0])} and {float(t[-1])}, got {float(nodes[0])} and "
            f"{float(nodes[-1])}. Type `grid[0], grid[-1] = t[0], t[-1]`."
        )
    return Grid(nodes, t, interp)


def check_times(name: str, t: Any) -> None:
    """`t`: a floating point tensor `(N)` of at least two times, all increasing or all decreasing."""
    if not isinstance(t, Tensor) or not t.is_floating_point() or t.ndim != 1 or len(t) < 2:
        got = f"{t.dtype} {tuple(t.shape)}" if isinstance(t, Tensor) else type(t).__name__
        raise TypeError(
            f"`{name}` must be a floating point tensor (N,) of two times or more, got {got}. Type "
            "`torch.linspace(t0, t1, N)`."
        )
    steps = t.detach().diff()
    if not (bool((steps > 0).all()) or bool((steps < 0).all())):
        raise ValueError(f"`{name}` must be strictly increasing or strictly decreasing, and finite.")


def _check_options(options: Mapping[str, Any], grid: Tensor | None) -> None:
    for name in options:
        if name not in OPTIONS:
            near = difflib.get_close_matches(name, OPTIONS, n=1, cutoff=0.5)
            hint = f" Did you mean `{near[0]}`?" if near else ""
            raise ValueError(f"`options` has no entry `{name}`.{hint} It takes: {', '.join(OPTIONS)}.")
    ways = [name for name in ("substeps", "step_size", "grid_constructor") if options.get(name) is not None]
    ways += ["grid"] if grid is not None else []
    if len(ways) > 1:
        raise ValueError(
            f"One of {', '.join(f'`{way}`' for way in ways)} says where the steps lie; leave the rest out."
        )


def _nodes(func: Callable[[Tensor, Any], Any], y0: Any, t: Tensor, options: Mapping[str, Any]) -> Tensor:
    if options.get("grid_constructor") is not None:
        return options["grid_constructor"](func, y0, t)
    if options.get("step_size") is not None:
        return _by_size(t, float(options["step_size"]))
    substeps = options.get("substeps", 1)
    if isinstance(substeps, bool) or not isinstance(substeps, int) or substeps < 1:
        raise ValueError(f"`options['substeps']` must be a whole number, 1 or more, got {substeps!r}.")
    return t if substeps == 1 else subdivided(t, torch.full((len(t) - 1,), substeps, device=t.device))


def subdivided(t: Tensor, counts: Tensor) -> Tensor:
    """Every interval of `t`, `(N)`, in so many equal steps, `(N - 1)`; differentiable in `t`."""
    left = torch.repeat_interleave(torch.arange(len(counts), device=t.device), counts)
    first = counts.cumsum(0) - counts
    part = (torch.arange(len(left), device=t.device) - first[left]).to(t.dtype) / counts[left]
    return torch.cat([t[left] + part * t.diff()[left], t[-1:]])


def _by_size(t: Tensor, size: float) -> Tensor:
    """Steps of one size from the first time on; the last one ends with `t`."""
    if not size > 0:
        raise ValueError(f"`options['step_size']` must be above 0, got {size}; the direction is that of `t`.")
    span = t[-1].detach() - t[0].detach()
    count = int(torch.ceil(span.abs() / size + 1))
    nodes = t[0] + torch.arange(count, dtype=t.dtype, device=t.device) * (size * float(span.sign()))
    return torch.cat([nodes[:-1], t[-1:]])
