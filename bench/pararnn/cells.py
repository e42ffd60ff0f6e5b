"""Cells of `pararnn-torch` as recurrences of ours, the cell of `torch.nn.GRU` as one of its, and how to import it.

Everything is computed by the cell's own code, `step` and `step_with_jacobian`, so that both libraries iterate on the
same function with the same weights and the same derivatives, and differ only in how they iterate.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import pkgutil
import sys
import types
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

import lds_iter as li


class _Placeholder(types.ModuleType):
    """Stands for a module, function or decorator of Triton while the modules that define kernels are imported."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Placeholder(f"{self.__name__}.{name}")

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return arguments[0] if len(arguments) == 1 and callable(arguments[0]) and not options else self


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds `triton` and all below it."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:  # noqa: ARG002
        ours = name.split(".")[0] == "triton"
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if ours else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _Placeholder(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """There is nothing to run."""


def load() -> types.ModuleType:
    """Import `pararnn`, on a machine without Triton too.

    The package imports its Triton kernels whenever it is imported, but on a CPU it never calls one:
    `scan_backend="auto"` is its eager path in plain PyTorch. Without Triton its place is held during the import.

    Raises:
        ModuleNotFoundError: where the package is missing; says what to type.
    """
    if importlib.util.find_spec("pararnn") is None:
        raise ModuleNotFoundError("pararnn-torch is missing. Type: pip install --no-deps -r requirements-assets.txt")
    if importlib.util.find_spec("triton") is not None:
        return importlib.import_module("pararnn")
    finder = _Finder()
    sys.meta_path.append(finder)
    try:
        pararnn = importlib.import_module("pararnn")
        kernels = importlib.import_module("pararnn.kernels")
        for module in pkgutil.iter_modules(kernels.__path__, "pararnn.kernels."):
            importlib.import_module(module.name)  # else on first use, with the formulas of the backward pass
        return pararnn
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if name.split(".")[0] == "triton"]:
            del sys.modules[name]


class SlotDerivatives(li.AbstractDerivatives):
    """Of a cell with n numbers a channel that does not mix channels: a block n x n for each.

    Coordinates lie channel by channel, so that the blocks are those of `BlockNewton(n)`.

    Args:
        value: `(..., n, d)`.
        blocks: `(..., n, n, d)`, `blocks[..., i, j, :]` the derivative of slot i by slot j.
    """

    def __init__(self, value: Tensor, blocks: Tensor) -> None:
        self.value, self._blocks = pack(value), blocks.movedim(-1, -3)

    def _product(self, blocks: Tensor, v: Tensor) -> Tensor:
        return (blocks @ v.unflatten(-1, (-1, blocks.shape[-1])).unsqueeze(-1)).flatten(-3)

    def jvp(self, v: Tensor) -> Tensor:
        return self._product(self._blocks, v)

    def vjp(self, w: Tensor) -> Tensor:
        return self._product(self._blocks.mT, w)

    def jacobian(self) -> Tensor:
        channels, size = self._blocks.shape[-3], self._blocks.shape[-1]
        eye = torch.eye(channels, dtype=self.value.dtype, device=self.value.device)
        full = self._blocks.unsqueeze(-2) * eye.view(channels, 1, channels, 1)
        return full.reshape(*self.value.shape, channels * size)

    def diagonal(self) -> Tensor:
        return self._blocks.diagonal(dim1=-2, dim2=-1).flatten(-2)

    def block_diagonal(self, size: int) -> Tensor:
        if size != self._blocks.shape[-1]:
            raise ValueError(f"the blocks of this cell have size {self._blocks.shape[-1]}, not {size}.")
        return self._blocks


def pack(state: Tensor) -> Tensor:
    """Slots `(..., n, d)` to one state `(..., d * n)`, channel by channel."""
    return state.mT.flatten(-2)


def unpack(s: Tensor, slots: int) -> Tensor:
    """The inverse of `pack`."""
    return s.unflatten(-1, (-1, slots)).mT


def loop(cell: Any, x: Tensor) -> Tensor:
    """The reference: `(T, B, D_in)` to the states `(T, B, n * d)`, step by step.

    `pararnn.sequential_apply` is the same loop, but indexes its inputs row by row, which makes backpropagation through
    it quadratic in T.
    """
    slots = (cell.state_slots,) if cell.state_slots > 1 else ()
    s, states = x.new_zeros(x.shape[1], *slots, cell.hidden_size), []
    for u in cell.W_x(x).unbind():
        s = cell.step(s, None, wx=u)
        states.append(s)
    return pack(torch.stack(states)) if slots else torch.stack(states)


class CellRecurrence:
    """A channelwise cell of `pararnn` as a recurrence of ours, by the cell's own `step_with_jacobian`.

    Args:
        cell: `ParaGRU`, `ParaLSTM` or `ParaSLSTM` with `mix="diag"`.
    """

    def __init__(self, cell: Any) -> None:
        self._cell, self.slots = cell, cell.state_slots

    def inputs(self, x: Tensor) -> Tensor:
        """The input projection, once for all time steps."""
        return self._cell.W_x(x)

    def __call__(self, s: Tensor, u: Tensor) -> Tensor:
        if self.slots == 1:
            return self._cell.step(s, None, wx=u)
        return pack(self._cell.step(unpack(s, self.slots), None, wx=u))

    def linearize(self, s: Tensor, u: Tensor) -> li.AbstractDerivatives:
        """The value and the derivatives, by the cell."""
        if self.slots == 1:
            return li.ElementwiseDerivatives(*self._cell.step_with_jacobian(s, None, wx=u))
        return SlotDerivatives(*self._cell.step_with_jacobian(unpack(s, self.slots), None, wx=u))


class WarmSLSTM:
    """`ParaSLSTM` solved from the guess that `pararnn` makes for it; called like `li.nn.Recurrent`.

    The guess: the cell without its recurrent input, which one scan solves, then a few scans with the gates frozen.

    Args:
        cell: `ParaSLSTM` with `mix="diag"`.
        options: of `solve`.
    """

    def __init__(self, cell: Any, options: dict[str, Any]) -> None:
        self._cell, self._f, self._options = cell, CellRecurrence(cell), options
        self.last_solution: li.Solution | None = None

    def __call__(self, x: Tensor, s0: Tensor) -> tuple[Tensor, Tensor]:
        solution = li.solve(
            self._f, s0, self._f.inputs(x), li.BlockNewton(self._f.slots), guess=self._guess, **self._options
        )
        self.last_solution = solution.light()
        return solution.states, solution.states[-1]

    def _guess(self, f: Any, s0: Tensor, inputs: Tensor, length: int) -> Tensor:  # noqa: ARG002
        picard = importlib.import_module("pararnn.solvers.slstm_picard")
        sweeps = importlib.import_module("pararnn.solvers.newton").slstm_auto_picard(length)
        return pack(picard.slstm_picard_init(self._cell, inputs.transpose(0, 1), n_picard=sweeps).transpose(0, 1))


class GRUCell(torch.nn.Module):
    """The cell of `torch.nn.GRU`, which mixes all units, as `pararnn` takes a cell, with our closed-form Jacobian.

    Args:
        module: a single-layer `torch.nn.GRU`.
    """

    jac_structure, state_slots = "dense", 1

    def __init__(self, module: torch.nn.GRU) -> None:
        super().__init__()
        self.module = module
        self.input_size = self.d_in = module.input_size
        self.hidden_size = self.d_h = module.hidden_size

    def W_x(self, x: Tensor) -> Tensor:
        """The input projection, which `pararnn` computes once when a cell has this name for it."""
        return torch.cat(self._recurrence().inputs(x), -1)

    def step(self, h: Tensor, x: Tensor | None = None, *, wx: Tensor | None = None) -> Tensor:
        """One step of every row."""
        return self._recurrence()(h, self._gates(x, wx))

    def step_with_jacobian(
        self, h: Tensor, x: Tensor | None = None, *, wx: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The step and its dense Jacobian."""
        derivatives = self._recurrence().linearize(h, self._gates(x, wx))
        return derivatives.value, derivatives.jacobian()

    def _recurrence(self) -> li.nn.GRURecurrence:
        return li.nn.GRURecurrence.from_module(self.module)

    def _gates(self, x: Tensor | None, wx: Tensor | None) -> Any:
        if wx is None:
            assert x is not None
            wx = self.W_x(x)
        return tuple(gate.contiguous() for gate in wx.chunk(3, -1))


def as_torch_gru(cell: Any) -> torch.nn.GRU:
    """`ParaGRU(mix="diag")` as a `torch.nn.GRU`: diagonal recurrent matrices, the update gate the other way round.

    `sigmoid(-a) = 1 - sigmoid(a)`, and a diagonal matrix may be applied before or after the product with r.
    """
    width = cell.hidden_size
    module = torch.nn.GRU(cell.input_size, width)
    a_z, a_r, a_n = cell.clipped_a()
    rows = {name: torch.cat([r, -z, n]) for name, (z, r, n) in
            {"weight_ih_l0": cell.W_x.weight.chunk(3), "bias_ih_l0": cell.W_x.bias.chunk(3)}.items()}  # fmt: skip
    rows["weight_hh_l0"] = torch.cat([torch.diag(a) for a in (a_r, -a_z, a_n)])
    rows["bias_hh_l0"] = torch.zeros(3 * width)
    module.load_state_dict(rows)
    return module


def relative(found: Sequence[Tensor], exact: Sequence[Tensor]) -> float:
    """The largest relative difference of any gradient."""
    return max(float((a - b).norm() / b.norm()) for a, b in zip(found, exact, strict=True))
