"""Advice on a method that did not converge: other methods to try, as text that can be typed."""

from __future__ import annotations

import dataclasses

from torch import Tensor

from lds_iter.methods.base import Dampable, LDSApproximation, StatefulTransition
from lds_iter.methods.criteria import After
from lds_iter.methods.damped import Damped
from lds_iter.methods.jacobi import Jacobi
from lds_iter.methods.newton import Newton
from lds_iter.methods.spelling import shown
from lds_iter.methods.switch import Switch
from lds_iter.methods.then import Then
from lds_iter.methods.trust_region import TrustRegion

JACOBI_ITERATIONS = 16
"""Iterations that the advice gives to Jacobi before the method itself."""


def advice(method: object) -> list[tuple[str, str]]:
    """Other methods for the same problem, most likely first: pairs of a reason and of the text to type after `method=`.

    Every text evaluates with `import lds_iter as li`. What cannot be typed (a tensor, a function, a class of a user) is
    replaced by `li.Newton()`.

    Args:
        method: the method that did not converge.
    """
    inner = method if isinstance(method, LDSApproximation) and _typable(method) else Newton()
    found: list[tuple[str, LDSApproximation]] = []
    edge = "the guess is too far off, or the dynamics are at the edge of stability"
    if isinstance(inner, Dampable) and inner != TrustRegion(Newton()):
        found.append((edge, TrustRegion(inner)))
    else:
        found.append((edge, TrustRegion(Damped(Newton(), 0.001), k=0.5)))
    begun = (
        Then(Jacobi(), inner, JACOBI_ITERATIONS)
        if isinstance(inner, StatefulTransition)
        else Switch(Jacobi(), inner, After(JACOBI_ITERATIONS))
    )
    found.append(("the same, and the recurrence forgets fast", begun))
    if isinstance(inner, StatefulTransition):
        found.append(("the same, and the states are too wide for a Jacobian", Damped(inner, 0.05)))
    return [(reason, shown(other, "li.")) for reason, other in found if other != method]


def _typable(method: object) -> bool:
    """Whether the text of a method evaluates to an equal method."""
    if not type(method).__module__.startswith("lds_iter."):
        return False
    for field in dataclasses.fields(method):  # pyright: ignore[reportArgumentType]
        value = getattr(method, field.name)
        if isinstance(value, Tensor) or (callable(value) and not dataclasses.is_dataclass(value)):
            return False
        if dataclasses.is_dataclass(value) and not _typable(value):
            return False
    return True
