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

import itertools
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lds_iter.depth.layers.up_to_rounding import state_dtype
from lds_iter.depth.recurrent.choosing import Choose, most_likely
from lds_iter.depth.recurrent.memory import Memory, View, filled_up
from lds_iter.depth.recurrent.model import RecurrentDepthModel
from lds_iter.depth.recurrent.texts import checked_prompts
from lds_iter.derivatives.linearization import Linearization
from lds_iter.linear.transitions import Diagonal
from lds_iter.methods.base import LDSApproximation

SCALE = 1 / 128
"""Tokens are kept as multiples of this, exact in floating point and smaller than the states: rounding is judged by the
largest number of a row."""


class Lattice:
    """The recurrence `f(s, k)`; see the module's docstring. Each call makes one batched call of each part of the model,
    over all texts of a batch, whose prompts may have lengths of their own.

    Args:
        model: by the four functions; its attention must take the mask of its cache.
        prompt: `(P,)` or a batch `(B, P)`, padded on the left, int64.
        count: how many tokens to generate.
        rows: rows of the recurrence per token.
        inner: steps of the core per row, so that R = rows * inner.
        choose: how a token is chosen from its logits.
        attention_mask: of the batch, 0 where there is padding, `(B, P)`.

    Attributes:
        s0: empty records, `(*batch, count * (width + 1))`.
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
        attention_mask: Tensor | None = None,
    ) -> None:
        words = checked_prompts(prompt, attention_mask, count=count, rows=rows, inner=inner)
        self.prompts = [torch.tensor(row, dtype=torch.int64, device=prompt.device) for row in words]
        self.model, self.count, self.rows, self.inner = model, count, rows, inner
        self._choose = choose
        memory = Memory(len(words), prompt.device)
        positions = memory.positions([len(row) for row in words])
        e = model.embed(filled_up(words, prompt.device), positions, memory.view("embed"))
        self.width, self._dtype = e.shape[-1], e.dtype
        self._before = self._prefill(e, positions)
        first = model.start(e[:1, :1], positions[:1, :1])
        alone = Memory(device=prompt.device)
        self._vocabulary = model.decode(first, positions[:1, :1], alone.view("decode")).shape[-1]
        states = self._starts(count)
        self.s0 = torch.cat([states.flatten(1), states.new_zeros(len(words), count)], dim=1)
        if prompt.ndim == 1:
            self.s0 = self.s0[0]
        self.inputs = torch.arange(count * rows, device=prompt.device)

    def split(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """A record `(..., D)` as states `(..., count, width)` and tokens `(..., count)`, int64."""
        states, tokens = s.split([self.count * self.width, self.count], dim=-1)
        return states.unflatten(-1, (self.count, self.width)), (tokens / SCALE).round().clamp(
            0, self._vocabulary - 1
        ).long()

    def __call__(self, s: Tensor, k: Tensor) -> Tensor:
        """Rows `(n, *batch, D)` to the next ones: every row by itself, but equal work is done once."""
        column, last = k // self.rows, k % self.rows == self.rows - 1
        texts = s.reshape(len(k), -1, s.shape[-1]).unbind(1)
        works = [self._work(*self.split(text), column) for text in texts]
        e, memory = self._read(works, int(column.max()))
        first = list(itertools.accumulate([len(work.tokens) for work in works], initial=0))
        record = torch.cat([work.record + at for work, at in zip(works, first, strict=False)])
        sequence = torch.repeat_interleave(
            torch.arange(len(works), device=k.device), torch.tensor([len(work.own) for work in works], device=k.device)
        )
        own, ends = torch.cat([work.own for work in works]), [len(prompt) - 1 for prompt in self.prompts]
        position = own + torch.tensor(ends, device=k.device)[sequence]
        h = torch.cat([work.h for work in works])
        h, says = self._step(h, e[record, position], position, memory.take(record.tolist()), sequence)
        sizes = [len(work.own) for work in works]
        written = [
            self._written(text, column, last, new[work.which].to(s.dtype), words[work.which].to(s.dtype))
            for text, work, new, words in zip(texts, works, h.split(sizes), says.split(sizes), strict=True)
        ]
        return torch.stack(written, dim=1).view_as(s)

    def _prefill(self, e: Tensor, positions: Tensor) -> list[Tensor]:
        """The final states of each prompt but its last token, `(P - 1, width)`, all tokens at once."""
        e, positions = e[:, :-1], positions[:, :-1]
        h = self.model.start(e, positions)
        empty = Memory(len(e), e.device)
        for _ in range(self.rows * self.inner if e.shape[1] else 0):
            h = self.model.step(h, e, positions, empty.view("step"))
        return [row[: len(prompt) - 1] for row, prompt in zip(h.to(state_dtype(h.dtype)), self.prompts, strict=True)]

    def _starts(self, count: int) -> Tensor:
        """The states of `count` tokens before their first step, `(B, count, width)`; of what a start knows of one."""
        device, ends = self.prompts[0].device, [len(prompt) - 1 for prompt in self.prompts]
        positions = torch.tensor(ends, device=device)[:, None] + torch.arange(count, device=device)
        e = torch.zeros(len(ends), count, self.width, dtype=self._dtype, device=device)
        return self.model.start(e, positions).to(state_dtype(self._dtype))

    def _work(self, states: Tensor, tokens: Tensor, column: Tensor) -> RowWork:
        """What there is to compute for the rows of one text."""
        nested, fresh = self._compare(states, tokens, column)
        stretch = torch.cat([nested.new_zeros(1), ~nested]).cumsum(0)  # rows of one stretch continue one record
        stops = [*(~nested).nonzero().flatten().tolist(), len(column) - 1]
        distinct = fresh.nonzero().flatten()
        own = column[distinct]
        return RowWork(
            states[stops], tokens[stops], own, stretch[distinct], states[distinct, own], fresh.cumsum(0) - 1
        )  # fmt: skip

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

    def _read(self, works: Sequence[RowWork], top: int) -> tuple[Tensor, Memory]:
        """Of all records: what the columns up to `top` are told by their tokens, `(N, most tokens, width)`, and the
        keys and values of their final states."""
        lines, finals = [], []
        for work, prompt, before in zip(works, self.prompts, self._before, strict=True):
            count = len(work.tokens)
            lines += torch.cat([prompt.expand(count, -1), work.tokens[:, :top]], dim=1)
            finals += torch.cat([before.expand(count, -1, -1), work.states[:, : top + 1]], dim=1)
        counts, device = [len(line) for line in lines], lines[0].device
        line, final = pad_sequence(lines, batch_first=True), pad_sequence(finals, batch_first=True)
        memory, empty = (Memory(len(lines), device) for _ in range(2))
        positions = empty.positions(counts)
        views: dict[Hashable, View] = {part: empty.view(part) for part in ("embed", "step", "decode")}
        e = self.model.embed(line, positions, views["embed"])
        final = final.to(e.dtype)
        self.model.step(final, e, positions, views["step"])
        self.model.decode(final, positions, views["decode"])
        memory.keep({part: views[part] for part in ("step", "decode")}, counts)
        return e, memory

    def _step(self, h: Tensor, e: Tensor, position: Tensor, memory: Memory, sequence: Tensor) -> tuple[Tensor, Tensor]:
        """New states of single tokens `(N, width)`, and the token chosen after each, `(N,)`."""
        h, e, at = h.to(e.dtype)[:, None], e[:, None], position[:, None]
        for _ in range(self.inner):
            h = self.model.step(h, e, at, memory.view("step", position))
        logits = self.model.decode(h, at, memory.view("decode", position))[:, 0]
        return h[:, 0], self._choose(logits, position + 1, sequence)

    def _written(self, s: Tensor, column: Tensor, last: Tensor, h: Tensor, says: Tensor) -> Tensor:
        """The rows `(n, D)` of one text, each with the state and, at its last row, the token of its own column."""
        states, tokens = (
            s[:, : -self.count].unflatten(-1, (self.count, self.width)).clone(),
            s[:, -self.count :].clone(),
        )
        states[torch.arange(len(s), device=s.device), column] = h
        ends = last.nonzero().flatten()
        tokens[ends, column[ends]] = says[ends] * SCALE
        return torch.cat([states.flatten(1), tokens], dim=1)


@dataclass(frozen=True)
class RowWork:
    """What the rows of one text ask of the model.

    Attributes:
        states, tokens: of the records that are read, `(records, count, width)` and `(records, count)`.
        own: the columns of the states to compute, `(m,)`.
        record: which record each of them reads, `(m,)`.
        h: these states before, `(m, width)`.
        which: which of them each row gets, `(n,)`.
    """

    states: Tensor
    tokens: Tensor
    own: Tensor
    record: Tensor
    h: Tensor
    which: Tensor


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
        copied = (~computed).to(lin.residual.dtype).view(len(k), *[1] * (lin.residual.ndim - 2), -1)
        return lin.scan(Diagonal(copied.expand_as(lin.residual).contiguous()), lin.residual), carry
