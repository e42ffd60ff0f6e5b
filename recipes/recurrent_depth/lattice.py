"""Generation as a recurrence over (token, depth).

A recurrent-depth model decodes greedily: token n takes R steps of the core, reading the keys and values of earlier
tokens from their *final* states (the latest state is all that a shared cache keeps, as in Geiping et al. 2025), and the
coda then says token n + 1. Written out token by token, depth by depth, that is one sequence of steps,

    row k = n * rows + r:     h_n <- core(h_n, e_n | h_0 .. h_{n-1}),   inner times
    and where r = rows - 1:   x_{n+1} <- argmax coda(h_n | h_0 .. h_{n-1})

and a first-order recurrence once the state is the whole record: the states of all tokens and all tokens generated. A
row changes its own token's state and copies the rest. So the Jacobian of the copied part is the identity and known
exactly; `Record`, the method, takes it for A, and 0 for what a row computes.

What comes out of the one loop is the wavefront sampler:

- a **window** over the rows spans several tokens, each at all its depths. Every iteration takes one step of the core
  for every token in flight, and passes a new draft of each token to the next column: a diagonal front of tokens at
  different depths, each reading the freshest states of those before it;
- within a column, the rows that no exact value has reached yet all hold the same state (the start, stepped as often as
  there were iterations) for as long as the tokens before stand still, and equal rows are evaluated once;
- the **frontier** freezes what has converged, at rounding level, in order, and tokens leave the window with it.

Freezing earlier, at a tolerance, is not up to the loop but to the model: with `halt` a token stops stepping once a step
changes it by less (Huginn's exit criterion). That is another recurrence, solved as exactly as the first.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import lds_iter as li
from recipes.recurrent_depth.cells import Depths, Past, advance, past, prefill, say
from recipes.recurrent_depth.model import RecurrentDepth

SCALE = 1 / 128
"""Tokens are kept as multiples of this, exact in floating point and smaller than the states: rounding is judged by the
largest number of a row."""


@dataclass
class Tally:
    """How many rows were really evaluated, equal ones once; filled while a `Lattice` is used."""

    evaluated: list[int] = field(default_factory=list)


class Lattice:
    """The recurrence `f(s, k)`; see the module's docstring.

    Args:
        model: with its weights.
        prompt: at least one token, `(P,)`.
        count: how many tokens to generate.
        depths: of each token.
        tally: where to count the work, if anywhere.

    Attributes:
        s0: an empty record, `(count * (width + 1),)`.
        inputs: the rows' numbers, `(count * depths.rows,)`.
    """

    def __init__(
        self, model: RecurrentDepth, prompt: Tensor, count: int, depths: Depths, *, tally: Tally | None = None
    ) -> None:
        if prompt.ndim != 1 or len(prompt) < 1 or count < 1:
            raise ValueError(f"`prompt` must be (P,) with P >= 1 and `count` >= 1, got {tuple(prompt.shape)}, {count}.")
        self.model, self.prompt, self.count, self.depths, self.tally = model, prompt, count, depths, tally
        self.s0 = torch.zeros(count * (model.shape.width + 1))
        self.inputs = torch.arange(count * depths.rows)
        self._before = prefill(model, prompt[:-1], depths)

    def split(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """A record `(..., D)` as states `(..., count, width)` and tokens `(..., count)`, int64."""
        width = self.model.shape.width
        states, tokens = s.split([self.count * width, self.count], dim=-1)
        tokens = (tokens / SCALE).round().clamp(0, self.model.shape.vocabulary - 1)
        return states.unflatten(-1, (self.count, width)), tokens.long()

    def __call__(self, s: Tensor, k: Tensor) -> Tensor:
        """Rows `(n, D)` to the next ones: every row by itself, but equal work is done once."""
        column, last = k // self.depths.rows, k % self.depths.rows == self.depths.rows - 1
        states, tokens = self.split(s)
        new_states, new_tokens = states.clone(), s[:, -self.count :].clone()
        nested, fresh = self._compare(states, tokens, column)
        bounds = [0, *((~nested).nonzero().flatten() + 1).tolist(), len(k)]
        for first, stop in itertools.pairwise(bounds):
            rows = torch.arange(first, stop)
            e, seen = self._read(states[stop - 1], tokens[stop - 1], int(column[stop - 1]))
            h = self._step(states, column, rows, fresh[rows], e, seen)
            new_states[rows, column[rows]] = h
            ends = rows[last[rows]]
            if len(ends):
                said = say(self.model, h[ends - first], self._position(column[ends]), seen)
                new_tokens[ends, column[ends]] = said * SCALE
        return torch.cat([new_states.flatten(1), new_tokens], dim=1)

    def _position(self, column: Tensor) -> Tensor:
        return column + len(self.prompt) - 1

    def _compare(self, states: Tensor, tokens: Tensor, column: Tensor) -> tuple[Tensor, Tensor]:
        """Whether row k + 1 continues the record that row k reads, `(n - 1,)`; whether row k differs from the one
        before in anything that it reads, `(n,)`."""
        read = torch.arange(self.count) < column[:-1, None]
        same_states = (states[1:] == states[:-1]).all(-1)
        nested = ((same_states & (tokens[1:] == tokens[:-1])) | ~read).all(-1)
        own = same_states.gather(1, column[:-1, None]).squeeze(1)
        fresh = torch.ones_like(column, dtype=torch.bool)
        fresh[1:] = ~(nested & own & (column[1:] == column[:-1]))
        return nested, fresh

    def _read(self, states: Tensor, tokens: Tensor, top: int) -> tuple[Tensor, Past]:
        """What all columns up to `top` are told by their tokens, `(P + top, width)`, and by those before them."""
        e = self.model.prelude(torch.cat([self.prompt, tokens[:top]]))
        return e, past(self.model, torch.cat([self._before, states[: top + 1]]), e)

    def _step(self, states: Tensor, column: Tensor, rows: Tensor, fresh: Tensor, e: Tensor, seen: Past) -> Tensor:
        """The new states of the rows' own tokens, `(len(rows), width)`."""
        distinct = rows[fresh]
        own, position = column[distinct], self._position(column[distinct])
        new = advance(self.model, states[distinct, own], e[position], position, seen, self.depths)
        if self.tally is not None:
            self.tally.evaluated.append(len(distinct))
        return new[fresh.cumsum(0) - 1]


@dataclass(frozen=True)
class Record(li.LDSApproximation):
    """A = 1 for what a row of a `Lattice` copies, exactly its Jacobian; A = 0 for what the row computes.

    A token that has halted is copied too, so that its value reaches all its later depths at once.

    Attributes:
        lattice: whose layout it follows.
    """

    lattice: Lattice

    def init(self, guess: Tensor) -> None:  # noqa: ARG002
        return None

    def update(self, lin: li.Linearization, carry: Any) -> tuple[Tensor, Any]:
        rows, count = self.lattice.depths.rows, self.lattice.count
        k = torch.arange(lin.rows.start, lin.rows.start + lin.residual.shape[0])
        own = torch.arange(count) == (k // rows)[:, None]
        says = own & (k % rows == rows - 1)[:, None]
        if self.lattice.depths.halt > 0:
            (before, _), (after, _) = self.lattice.split(lin.prev), self.lattice.split(lin.value)
            own = own & (before != after).any(-1)
        computed = torch.cat([own.repeat_interleave(self.lattice.model.shape.width, dim=1), says], dim=1)
        return lin.scan(li.Diagonal((~computed).to(lin.residual.dtype)), lin.residual), carry
