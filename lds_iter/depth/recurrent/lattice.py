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
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lds_iter.depth.layers.up_to_rounding import state_dtype
from lds_iter.depth.recurrent.choosing import Choose, most_likely
from lds_iter.depth.recurrent.memory import Memory, View
from lds_iter.depth.recurrent.model import RecurrentDepthModel
from lds_iter.depth.recurrent.texts import checked_prompts
from lds_iter.derivatives.linearization import Linearization
from lds_iter.linear.transitions import Diagonal
from lds_iter.methods.base import LDSApproximation

SCALE = 1 / 128
"""Tokens are kept as multiples of this, exact in floating point and smaller than the states: rounding is judged by the
largest number of a row."""


class Lattice:
    """The recurrence `f(s, k)`; see the module's docstring. Each call makes one batched call of each part of the model.

    Args:
        model: by the four functions; its attention must take the mask of its cache.
        prompt: one, `(P,)` or `(1, P)`, int64.
        count: how many tokens to generate.
        rows: rows of the recurrence per token.
        inner: steps of the core per row, so that R = rows * inner.
        choose: how a token is chosen from its logits.

    Attributes:
        s0: an empty record, `(count * (width + 1),)`.
        inputs: the rows' numbers, `(count * rows,)`.
    """

    def __init__(
        self,
        model: RecurrentDepthModel,
        prompt: Tensor,
        count: int,
        rows: int,
        inner: int,
        choose: Choose = most_likely,
    ) -> None:
        if len(checked_prompts(prompt, None, count=count, rows=rows, inner=inner)) > 1:
            raise ValueError(
                f"`prompt` must be one prompt (P,), got {tuple(prompt.shape)}: the recurrence over (token, depth) is "
                "that of one text. Type `li.depth.verified(model, prompts, count, depth)`, which takes a batch and "
                "says the tokens of the loop."
            )
        prompt = prompt.flatten()
        self.model, self.prompt, self.count, self.rows, self.inner = model, prompt, count, rows, inner
        self._choose = choose
        memory = Memory(device=prompt.device)
        positions = torch.arange(len(prompt), device=prompt.device)[None]
        e = model.embed(prompt[None], positions, memory.view("embed"))
        self.width, self._dtype = e.shape[-1], e.dtype
        self._before = self._prefill(e, positions)
        first = model.start(e[:, :1], positions[:, :1])
        self._vocabulary = model.decode(first, positions[:, :1], memory.view("decode")).shape[-1]
        states = self._starts(count)
        self.s0 = torch.cat([states.flatten(), states.new_zeros(count)])
        self.inputs = torch.arange(count * rows, device=prompt.device)

    def split(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """A record `(..., D)` as states `(..., count, width)` and tokens `(..., count)`, int64."""
        states, tokens = s.split([self.count * self.width, self.count], dim=-1)
        return states.unflatten(-1, (self.count, self.width)), (tokens / SCALE).round().clamp(
            0, self._vocabulary - 1
        ).long()

    def __call__(self, s: Tensor, k: Tensor) -> Tensor:
        """Rows `(n, D)` to the next ones: every row by itself, but equal work is done once."""
        column, last = k // self.rows, k % self.rows == self.rows - 1
        states, tokens = self.split(s)
        new_states, new_tokens = states.clone(), s[:, -self.count :].clone()
        nested, fresh = self._compare(states, tokens, column)
        stretch = torch.cat([nested.new_zeros(1), ~nested]).cumsum(0)  # rows of one stretch continue one record
        stops = [*(~nested).nonzero().flatten().tolist(), len(k) - 1]
        e, memory = self._read(states[stops], tokens[stops], int(column.max()))
        distinct = fresh.nonzero().flatten()
        own, group = column[distinct], stretch[distinct]
        position = own + len(self.prompt) - 1
        h, says = self._step(states[distinct, own], e[group, position], position, memory.take(group.tolist()))
        which = fresh.cumsum(0) - 1
        new_states[torch.arange(len(k), device=k.device), column] = h[which].to(s.dtype)
        ends = last.nonzero().flatten()
        new_tokens[ends, column[ends]] = says[which[ends]].to(s.dtype) * SCALE
        return torch.cat([new_states.flatten(1), new_tokens], dim=1)

    def _prefill(self, e: Tensor, positions: Tensor) -> Tensor:
        """The final states of the prompt but its last token, `(P - 1, width)`, all tokens at once."""
        e, positions = e[:, :-1], positions[:, :-1]
        h = self.model.start(e, positions)
        empty = Memory(device=e.device)
        for _ in range(self.rows * self.inner if e.shape[1] else 0):
            h = self.model.step(h, e, positions, empty.view("step"))
        return h[0].to(state_dtype(h.dtype))

    def _starts(self, count: int) -> Tensor:
        """The states of `count` tokens before their first step, `(count, width)`; of what a start knows of a token."""
        positions = (len(self.prompt) - 1 + torch.arange(count, device=self.prompt.device))[None]
        e = torch.zeros(1, count, self.width, dtype=self._dtype, device=self.prompt.device)
        return self.model.start(e, positions)[0].to(state_dtype(self._dtype))

    def _compare(self, states: Tensor, tokens: Tensor, column: Tensor) -> tuple[Tensor, Tensor]:
        """Whether row k + 1 continues the record that row k reads, `(n - 1,)`; whether row k differs from the one
        before in anything that it reads, `(n,)`."""
        read = torch.arange(self.count, device=column.device) < column[:-1, None]
        same_states = (states[1:] == states[:-1]).all(-1)
        nested = ((same_states & (tokens[1:] == tokens[:-1])) | ~read).all(-1)
        own = same_states.gather(1, column[:-1, None]).squeeze(1)
        fresh = torch.ones_like(column, dtype=torch.bool)
        fresh[1:] = ~(nested & own & (column[1:] == column[:-1]))
        return nested, fresh

    def _read(self, states: Tensor, tokens: Tensor, top: int) -> tuple[Tensor, Memory]:
        """Of a batch of records: what all columns up to `top` are told by their tokens, `(N, P + top, width)`, and the
        keys and values of their final states."""
        prompt = self.prompt.expand(len(states), -1)
        line = torch.cat([prompt, tokens[:, :top]], dim=1)
        positions = torch.arange(line.shape[1], device=line.device).expand_as(line)
        memory, empty = (Memory(len(line), line.device) for _ in range(2))
        views: dict[Hashable, View] = {part: empty.view(part) for part in ("embed", "step", "decode")}
        e = self.model.embed(line, positions, views["embed"])
        final = torch.cat([self._before.expand(len(states), -1, -1), states[:, : top + 1]], dim=1).to(e.dtype)
        self.model.step(final, e, positions, views["step"])
        self.model.decode(final, positions, views["decode"])
        memory.keep({part: views[part] for part in ("step", "decode")}, [line.shape[1]] * len(line))
        return e, memory

    def _step(self, h: Tensor, e: Tensor, position: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """New states of single tokens `(B, width)`, and the token chosen after each, `(B,)`."""
        h, e, at = h.to(e.dtype)[:, None], e[:, None], position[:, None]
        for _ in range(self.inner):
            h = self.model.step(h, e, at, memory.view("step", position))
        logits = self.model.decode(h, at, memory.view("decode", position))[:, 0]
        return h[:, 0], self._choose(logits, position + 1, torch.zeros_like(position))


@dataclass(frozen=True)
class Record(LDSApproximation):
    """A = 1 for what a row of a `Lattice` copies, exactly its Jacobian; A = 0 for what the row computes.

    Attributes:
        lattice: whose layout it follows.
    """

    lattice: Lattice

    def init(self, guess: Tensor) -> None:  # noqa: ARG002
        return None

    def update(self, lin: Linearization, carry: Any) -> tuple[Tensor, Any]:
        rows, count = self.lattice.rows, self.lattice.count
        device = lin.residual.device
        k = torch.arange(lin.rows.start, lin.rows.start + lin.residual.shape[0], device=device)
        own = torch.arange(count, device=device) == (k // rows)[:, None]
        says = own & (k % rows == rows - 1)[:, None]
        computed = torch.cat([own.repeat_interleave(self.lattice.width, dim=1), says], dim=1)
        return lin.scan(Diagonal((~computed).to(lin.residual.dtype)), lin.residual), carry
