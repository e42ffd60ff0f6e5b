"""Solves to compare: by one process, or shared by several. A case is named, so that every process finds the same."""

import itertools
from dataclasses import dataclass, field

import torch
from catalogue import METHODS, RandomTransition, RotationScale
from wrapping import INNER, OUTER, WRAPPERS

import lds_iter as li

WIDTH = 4
LENGTHS = {2: (9, 8), 4: (1, 0, 3, 1)}
"""Time steps by rank, for each number of ranks; T is 17 and 5."""


@dataclass(frozen=True)
class Recurrences:
    """Contracting recurrences by the structure of their Jacobian, in closed form; `weight` gets a gradient."""

    structure: str
    weight: torch.Tensor

    def __call__(self, s, u):
        return self.linearize(s, u).value

    def linearize(self, s, u):
        return li.StructuredDerivatives(*getattr(self, self.structure)(s, u))

    def dense(self, s, u):
        value = torch.tanh(s @ self.weight.mT + u)
        return value, li.Dense((1 - value**2).unsqueeze(-1) * self.weight)

    def diagonal(self, s, u):
        slope = self.weight.diagonal()
        return slope * s.sin() + u, li.Diagonal(slope * s.cos())

    def low_rank(self, s, u):
        """A decay and one direction, along which all coordinates are read."""
        up, along, keep = self.weight[:2].T, self.weight[2:].T, self.weight.diagonal() / 2
        read = torch.tanh(s @ along)
        slopes = up * (1 - read**2).unsqueeze(-2)
        return keep * s + read @ up.T + u, li.LowRank(keep.expand_as(s), slopes, along.expand_as(slopes))

    def own(self, s, u):
        """A complex function: its derivative is a product of complex numbers, `RotationScale`."""
        turn = torch.view_as_complex(self.weight[0].view(2, 2).contiguous()) / 3
        z = torch.view_as_complex(s.unflatten(-1, (2, 2)).contiguous())
        value, slope = turn * z.sin(), turn * z.cos()
        return torch.view_as_real(value).flatten(-2) + u / 3, RotationScale(slope.real, slope.imag)

    def breaks(self, s, u):
        """NaN in one time step of the second sequence, from exact states, too."""
        value, transition = self.dense(s, u)
        return torch.where(u > 90, torch.nan, value), transition

    def overflows(self, s, u):
        """Not finite away from the trajectory alone."""
        value = 1.5 * (s - s**3) + u + 0 * self.weight[0, 0]
        return value, li.Diagonal(1.5 - 4.5 * s**2)

    def expands(self, s, u):
        """Chaotic: a logistic map, which takes many iterations."""
        return 3.9 * s * (1 - s) + 0 * u * self.weight[0, 0], li.Diagonal(3.9 * (1 - 2 * s))


@dataclass(frozen=True)
class Case:
    """What differs from the plain solve.

    Attributes:
        method: of the solve.
        structure: of the Jacobian; see `Recurrences`.
        window: see `solve`.
        options: further arguments of `solve`, by name.
        batch: the shape of the batch.
        dtype: of everything.
    """

    method: li.LDSApproximation = field(default_factory=li.Newton)
    structure: str = "dense"
    window: int | None = None
    options: dict = field(default_factory=dict)
    batch: tuple = (2,)
    dtype: torch.dtype = torch.float64

    @property
    def exact(self):
        """Whether iterates are those of one process up to rounding in `dtype`. A scan in lower precision rounds by far
        more, and otherwise where the steps are split."""
        return "LowPrecision" not in repr(self.method)


def guess_of_ones(f, s0, inputs, length):
    return torch.ones(length, *s0.shape, dtype=s0.dtype)


def huge_guess(f, s0, inputs, length):
    return torch.full((length, *s0.shape), 1e200, dtype=s0.dtype)


def few(progress):
    return progress.iterations >= 2


F32 = torch.float32
PLAIN = {
    "structures": {
        f"{structure} {window}": Case(structure=structure, window=window)
        for structure in ("dense", "diagonal", "low_rank", "own")
        for window in (None, 3)
    },
    "structures damped": {
        structure: Case(li.Damped(li.Newton(), 0.2), structure, 4) for structure in ("low_rank", "own", "diagonal")
    },
    "codes": {
        "nan": Case(li.Jacobi(), "breaks", options={"throw": False}),
        "nan in a window": Case(li.Newton(), "breaks", 4, {"throw": False}),
        "resets": Case(li.Jacobi(), "overflows", options={"guess": huge_guess, "throw": False}),
        "resets in a window": Case(li.QuasiNewton(), "overflows", 6, {"guess": huge_guess, "throw": False}),
        "chaos": Case(li.Newton(), "expands"),
        "chaos in a window": Case(li.TrustRegion(li.Newton()), "expands", 3),
        "limit": Case(li.Jacobi(), options={"max_iters": 2, "throw": False}),
        "limit in a window": Case(li.Picard(), "dense", 3, {"max_iters": 3, "throw": False}),
    },
    "options": {
        "callback": Case(li.QuasiNewton(), options={"callback": "look"}),
        "callback in a window": Case(li.Newton(), "dense", 2, {"callback": "look"}),
        "progress": Case(li.Jacobi(), options={"progress": True}),
        "below": Case(li.Jacobi(), options={"stop": li.Below(1e-2), "throw": False}),
        "after": Case(li.Picard(), options={"stop": li.After(2) | li.Below(1e-9), "throw": False}),
        "small update": Case(li.QuasiNewton(), "dense", 4, {"stop": li.SmallUpdate(0.3), "throw": False}),
        "stalled": Case(li.Jacobi(), options={"stop": ~li.Below(1e-9) & li.Stalled(1, 0.8), "throw": False}),
        "elapsed": Case(li.Jacobi(), options={"stop": li.Elapsed(1e-9), "throw": False}),
        "own rule": Case(li.Jacobi(), options={"stop": few, "throw": False}),
        "guess": Case(li.Jacobi(), options={"guess": guess_of_ones}),
        "from zero": Case(li.Newton(), options={"guess": li.step_from_zero}),
        "bit for bit": Case(li.Newton(), options={"rtol": 0, "atol": 0}),
        "window of one": Case(li.Newton(), window=1),
        "adjoint": Case(li.Jacobi(), options={"adjoint": li.Implicit(li.QuasiNewton(), window=3)}),
        "no batch": Case(li.QuasiNewton(), batch=(), window=4),
        "two batches": Case(li.Newton(), batch=(2, 3), window=4),
        "random": Case(RandomTransition()),
    },
    "single": {
        f"{name} {window}": Case(method, structure, window, dtype=F32)
        for name, method, structure in (
            ("newton", li.Newton(), "dense"),
            ("quasi", li.QuasiNewton(), "dense"),
            ("low rank", li.Newton(), "low_rank"),
            ("own", li.Newton(), "own"),
            ("jacobi", li.Jacobi(), "dense"),
            ("smoother", li.LevenbergMarquardt(3.0, li.Newton(), li.Smoother()), "dense"),
        )
        for window in (None, 3)
    },
}
"""Cases by their kind, and their names."""

EVERY_METHOD = {
    f"{name} {window}": Case(method, window=window) for name, method in METHODS.items() for window in (None, 5)
}

PAIRS = {
    f"{outer} of {inner} of {name}": Case(OUTER[outer](WRAPPERS[inner](INNER[name])), window=(None, 5)[number % 2])
    for number, ((outer, inner), name) in enumerate(
        zip(itertools.product(OUTER, WRAPPERS), itertools.cycle(INNER), strict=False)
    )
}
"""Every wrapper around every wrapper, around one method after the other, every second one in a window."""

CASES = {**{kind: PLAIN[kind] for kind in PLAIN}, "methods": EVERY_METHOD, "pairs": PAIRS}


def rows_of(group, sizes):
    """The time steps of this process; all of them where no group is given."""
    first = 0 if group is None else sum(sizes[: group.rank()])
    return slice(first, sum(sizes) if group is None else first + sizes[group.rank()])


def outcome(case, sizes, group=None):
    """A solve and its backward pass."""
    generator, rows = torch.Generator().manual_seed(3), rows_of(group, sizes)
    weight = 0.9 * torch.randn(WIDTH, WIDTH, generator=generator, dtype=torch.float64) / WIDTH**0.5
    inputs = torch.randn(sum(sizes), *case.batch, WIDTH, generator=generator, dtype=torch.float64)
    inputs[:, 1:] *= 0.1  # sequences of different difficulty
    if case.structure == "breaks":
        inputs[sum(sizes) // 2, 1:] = 99.0
    if case.structure == "overflows":
        inputs *= 0.1
    weight = weight.to(case.dtype).requires_grad_()
    s0 = torch.full((*case.batch, WIDTH), 0.3, dtype=case.dtype, requires_grad=True)
    u = inputs[rows].to(case.dtype).requires_grad_()
    scale = torch.linspace(-1, 1, sum(sizes), dtype=case.dtype)[rows].view(-1, *[1] * s0.ndim)

    seen = []

    def look(progress):
        seen.append((progress.states, progress.update, progress.accepted, progress.residual, progress.result))

    options = {name: look if value == "look" else value for name, value in case.options.items()}
    solution = li.solve(
        Recurrences(case.structure, weight), s0, u, case.method, window=case.window, record=True, mesh=group, **options
    )
    (solution.states * scale).sum().backward()
    history = solution.history
    counts = {
        "iterations": solution.iterations,
        "result": solution.result,
        "evaluations": solution.evaluations,
        "resets": solution.resets,
        "history": history.accepted,
        "adjoint": [(one.iterations, one.result) for one in solution.adjoints],
    }
    return {
        "rows": {"states": solution.states.detach(), "inputs": u.grad},
        "sums": {"weight": weight.grad, "s0": torch.zeros_like(s0) if s0.grad is None else s0.grad},
        "whole": {"residual": solution.residual, "map": history.residual_map, "seen": seen},
        "counts": counts,
    }


def outcomes(group, sizes, kinds):
    """The outcomes of all cases of some kinds, `(kind, name)` to what `outcome` gives, or the error."""
    found = {}
    for kind in kinds:
        for name, case in CASES[kind].items():
            try:
                found[kind, name] = outcome(case, sizes, group)
            except li.SolveError as error:
                found[kind, name] = str(error)
    return found
