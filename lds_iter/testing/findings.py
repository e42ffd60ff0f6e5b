"""What a check found, law by law, and the error that it raises."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

PAPER_WIDTH = 110
"""Columns of a printed report."""


@dataclass(frozen=True)
class Finding:
    """One law, and how something fared with it.

    Attributes:
        law: its name.
        passed: whether it holds.
        figure: what was measured, in words and numbers.
        meaning: what the law says.
        cure: what to change where it is broken.
        error: the exception that ended the check of this law; None where none did.
    """

    law: str
    passed: bool
    figure: str
    meaning: str
    cure: str
    error: Exception | None = None

    def __str__(self) -> str:
        head = f"{'ok  ' if self.passed else 'FAIL'}  {self.law}: {self.figure}"
        if self.passed:
            return head
        parts = (f"The law: {self.meaning}", f"What to change: {self.cure}")
        margin = " " * 6
        indented = (textwrap.fill(part, PAPER_WIDTH, initial_indent=margin, subsequent_indent=margin) for part in parts)
        return "\n".join([head, *indented])


class BrokenLaws(AssertionError):
    """A check found laws that do not hold; print it.

    Attributes:
        findings: all that was checked.
    """

    def __init__(self, findings: Findings) -> None:
        super().__init__(findings)
        self.findings = findings

    def __str__(self) -> str:
        return f"\n{self.findings}"


@dataclass(frozen=True)
class Findings:
    """A report of `lds_iter.testing`: print it. It is true where every law holds.

    Attributes:
        subject: what was checked.
        laws: a `Finding` for each law, in the order in which they were checked.
        notes: what is no fault and worth knowing.
    """

    subject: str
    laws: tuple[Finding, ...]
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every law holds."""
        return all(finding.passed for finding in self.laws)

    @property
    def broken(self) -> tuple[Finding, ...]:
        """The laws that do not hold."""
        return tuple(finding for finding in self.laws if not finding.passed)

    def raise_if_failed(self) -> Findings:
        """The report itself where every law holds.

        Raises:
            BrokenLaws: an AssertionError, where one does not.
        """
        if self.passed:
            return self
        error = next((finding.error for finding in self.broken if finding.error is not None), None)
        raise BrokenLaws(self) from error

    def __bool__(self) -> bool:
        return self.passed

    def __add__(self, other: Findings) -> Findings:
        return Findings(self.subject, self.laws + other.laws, self.notes + other.notes)

    def __str__(self) -> str:
        count = f"{len(self.laws)} laws hold" if self.passed else f"{len(self.broken)} of {len(self.laws)} laws broken"
        notes = [textwrap.fill(f"note  {note}", PAPER_WIDTH, subsequent_indent=" " * 6) for note in self.notes]
        return "\n".join([f"{self.subject}: {count}", *map(str, self.laws), *notes])


class Examination:
    """Collects findings while laws are checked one after the other.

    Args:
        subject: what is checked.
    """

    def __init__(self, subject: str) -> None:
        self._subject = subject
        self._laws: list[Finding] = []
        self._notes: list[str] = []

    @contextmanager
    def law(self, name: str, meaning: str, cure: str) -> Iterator[Measurements]:
        """Check one law; an exception inside breaks it."""
        measured = Measurements()
        try:
            yield measured
        except Exception as error:
            figure = f"raised {type(error).__name__}: {error}"
            self._laws.append(Finding(name, False, figure, meaning, cure, error))
            return
        self._laws.append(Finding(name, measured.passed, measured.figure, meaning, cure))

    def note(self, text: str) -> None:
        """Say what is no fault."""
        self._notes.append(text)

    def findings(self) -> Findings:
        """All of it."""
        return Findings(self._subject, tuple(self._laws), tuple(self._notes))

    def ended(self, throw: bool) -> Findings:
        """All of it; raises `BrokenLaws` where `throw` is true and a law does not hold."""
        return self.findings().raise_if_failed() if throw else self.findings()


class Measurements:
    """What was measured for one law: the worst of several differences, and facts that are true or not."""

    def __init__(self) -> None:
        self._worst, self._where = 0.0, ""
        self._wrong: list[str] = []
        self._count = 0

    @property
    def passed(self) -> bool:
        """Whether every difference was small enough and every fact true."""
        return not self._wrong and self._worst <= 1

    @property
    def figure(self) -> str:
        """The first thing wrong, or the largest difference."""
        if self._wrong:
            more = f" (and {len(self._wrong) - 1} more)" if len(self._wrong) > 1 else ""
            return self._wrong[0] + more
        return self._where or f"{self._count} comparisons"

    def close(self, found: Tensor, expected: Tensor, what: str, *, rtol: float, atol: float) -> None:
        """Compare numbers, as `torch.testing.assert_close` does; NaN equals NaN.

        Args:
            found, expected: of one shape.
            what: what is compared, in words.
            rtol, atol: `|found - expected| <= atol + rtol |expected|`.
        """
        self._count += 1
        if found.shape != expected.shape:
            self._wrong.append(f"{what}: shape {tuple(found.shape)}, expected {tuple(expected.shape)}")
            return
        if found.numel() == 0:
            return
        error = (found - expected).abs().where(found != expected, 0).where(~(found.isnan() & expected.isnan()), 0)
        part = error / (atol + rtol * expected.abs().nan_to_num(0)).clamp(min=torch.finfo(error.dtype).tiny)
        worst = float(part.nan_to_num(torch.inf).max())
        if not self._where or worst > self._worst:
            self._worst, size = worst, float(error.nan_to_num(torch.inf).max())
            self._where = f"{what}: difference {size:.2g}" + (f", {worst:.3g} times the tolerance" if worst > 1 else "")

    def true(self, holds: bool | Tensor, otherwise: str | Callable[[], str]) -> None:
        """Note a fact.

        Args:
            holds: whether it is true.
            otherwise: what to say where it is not.
        """
        self._count += 1
        if not bool(holds):
            self._wrong.append(otherwise if isinstance(otherwise, str) else otherwise())
