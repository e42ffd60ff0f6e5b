"""What `torch.compile` does not trace: it breaks its graph there, and says why where that is forbidden."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from torch._compile import _disable_dynamo

P = ParamSpec("P")
R = TypeVar("R")

REASON = (
    "A solve looks at its progress after every iteration, which no graph holds. Compile around it, without "
    "fullgraph=True; for compiled iterations type li.Compiled(f), or compiler=torch.compile for a layer."
)


def untraced(function: Callable[P, R]) -> Callable[P, R]:
    """Decorator: `torch.compiler.disable`, without importing a compiler, which takes seconds, where nobody compiles."""
    disabled = _disable_dynamo(function)
    disabled._torchdynamo_disable = True  # pyright: ignore[reportFunctionMemberAccess]
    disabled._torchdynamo_disable_msg = REASON  # pyright: ignore[reportFunctionMemberAccess]

    @functools.wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        return disabled(*args, **kwargs) if "torch._dynamo" in sys.modules else function(*args, **kwargs)

    return called
