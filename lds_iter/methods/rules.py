"""Rules: when to go on to another method (`Switch`), or to stop (`solve(..., stop=rule)`).

A rule is asked once an iteration with a `Progress`, per sequence, and may remember something. Rules combine with `&`,
`|` and `~`. Those of the library are in `criteria.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from lds_iter.derivatives.linearization import keep_where
from lds_iter.methods.arguments import check_instance
from lds_iter.methods.spelling import Composable


class Seen(Protocol):
    """The part of `lds_iter.Progress` that a rule may read."""

    @property
    def iterations(self) -> Tensor:
        """Updates so far, per sequence, `(*batch)`."""
        ...

    @property
    def residual(self) -> Tensor:
        """The largest residual of this iterate, per sequence, `(*batch)`."""
        ...

    @property
    def update(self) -> Tensor:
        """An update `d`, `(n, *batch, D)`: for `stop` the one that is proposed, for `Switch` the last one."""
        ...

    @property
    def stepped(self) -> bool:
        """Whether sequential steps led here, so that residual and update are NaN: not known."""
        ...


class AbstractRule(Composable, ABC):
    """When to go on to the next method or to stop, per sequence."""

    @abstractmethod
    def init(self, progress: Seen) -> Any:
        """The carry before it is first asked: None, or a pytree, whose tensors have shape `(*batch)`.

        Args:
            progress: the same as for the first call of `holds`.
        """

    @abstractmethod
    def holds(self, progress: Seen, carry: Any) -> tuple[Tensor, Any]:
        """Whether it is time now, bool, `(*batch)`, and the next carry.

        Args:
            progress: this iterate.
            carry: what the call before returned.
        """

    def __and__(self, other: AbstractRule) -> AbstractRule:
        return Both(self, other) if isinstance(other, AbstractRule) else NotImplemented

    def __or__(self, other: AbstractRule) -> AbstractRule:
        return Either(self, other) if isinstance(other, AbstractRule) else NotImplemented

    def __invert__(self) -> AbstractRule:
        return Not(self)


class Asked(Protocol):
    """A rule in the course of one solve."""

    def __call__(self, progress: Seen, takes_part: Tensor | None = None) -> Tensor:
        """Whether it is time now, bool, `(*batch)`.

        Args:
            progress: this iterate.
            takes_part: the sequences that the iteration was for; all when None. For one that waits, whose update is
                nothing, the rule goes on as if it had not been asked.
        """
        ...


def asked(rule: AbstractRule | Callable[[Any], Tensor]) -> Asked:
    """A function for one solve that calls a rule and keeps its carry. A plain function is called as it is.

    Args:
        rule: a rule, or a function from a `Progress` to a bool per sequence.
    """
    if not isinstance(rule, AbstractRule):
        return lambda progress, takes_part=None: rule(progress)  # noqa: ARG005
    carries: list[Any] = []

    def ask(progress: Seen, takes_part: Tensor | None = None) -> Tensor:
        carry = carries.pop() if carries else rule.init(progress)
        now, after = answer_of(rule, progress, carry)
        carries.append(after if takes_part is None else keep_where(takes_part, after, carry))
        return now

    return ask


def answer_of(rule: AbstractRule, progress: Seen, carry: Any) -> tuple[Tensor, Any]:
    """What a rule answers, checked: a bool for each sequence, and its next carry.

    Args:
        rule: is asked.
        progress: this iterate.
        carry: what the call before returned.

    Raises:
        TypeError: when it answers something else.
    """
    answer = rule.holds(progress, carry)
    name = type(rule).__name__
    if not isinstance(answer, tuple) or len(answer) != 2:
        raise TypeError(
            f"`{name}.holds` must return `(now, carry)`, got {type(answer).__name__}. A rule that remembers nothing "
            "returns `now, None`."
        )
    now, sequences = answer[0], getattr(progress, "residual", answer[0])
    if not isinstance(now, Tensor) or now.dtype != torch.bool or now.shape != sequences.shape:
        got = f"{now.dtype} {tuple(now.shape)}" if isinstance(now, Tensor) else repr(now)
        raise TypeError(
            f"`{name}.holds` must answer a bool for each sequence, torch.bool {tuple(sequences.shape)}, got {got}. "
            "Compare a field of its argument: `progress.residual < 1e-3`."
        )
    return now, answer[1]


@dataclass(frozen=True)
class Both(AbstractRule):
    """`one & other`.

    Attributes:
        one, other: rules.

    Raises:
        TypeError: for something else.
    """

    one: AbstractRule
    other: AbstractRule

    def __post_init__(self) -> None:
        _check_rules(self)

    def init(self, progress: Seen) -> tuple[Any, Any]:
        return self.one.init(progress), self.other.init(progress)

    def holds(self, progress: Seen, carry: tuple[Any, Any]) -> tuple[Tensor, tuple[Any, Any]]:
        (one, first), (other, second) = self.one.holds(progress, carry[0]), self.other.holds(progress, carry[1])
        return one & other, (first, second)


@dataclass(frozen=True)
class Either(AbstractRule):
    """`one | other`.

    Attributes:
        one, other: rules.

    Raises:
        TypeError: for something else.
    """

    one: AbstractRule
    other: AbstractRule

    def __post_init__(self) -> None:
        _check_rules(self)

    def init(self, progress: Seen) -> tuple[Any, Any]:
        return self.one.init(progress), self.other.init(progress)

    def holds(self, progress: Seen, carry: tuple[Any, Any]) -> tuple[Tensor, tuple[Any, Any]]:
        (one, first), (other, second) = self.one.holds(progress, carry[0]), self.other.holds(progress, carry[1])
        return one | other, (first, second)


@dataclass(frozen=True)
class Not(AbstractRule):
    """`~rule`.

    Attributes:
        rule: a rule.

    Raises:
        TypeError: for something else.
    """

    rule: AbstractRule

    def __post_init__(self) -> None:
        check_instance("rule", self.rule, AbstractRule, "Below(0.1) or Stalled()")

    def init(self, progress: Seen) -> Any:
        return self.rule.init(progress)

    def holds(self, progress: Seen, carry: Any) -> tuple[Tensor, Any]:
        now, carry = self.rule.holds(progress, carry)
        return ~now, carry


def _check_rules(pair: Both | Either) -> None:
    check_instance("one", pair.one, AbstractRule, "Below(0.1) or Stalled()")
    check_instance("other", pair.other, AbstractRule, "Below(0.1) or Stalled()")
