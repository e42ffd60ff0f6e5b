"""Where the host may look, and the one place where it waits.

Reading a number that lives on an accelerator makes the host wait for everything queued before it. So the loop decides
with tensors and masks, and looks only where looking is free.
"""

from __future__ import annotations

import torch
from torch import Tensor


def on_host(tensor: Tensor) -> bool:
    """Whether the host reads this tensor for free. Where it does, the loop looks and takes short cuts; where it does
    not, it masks instead of looking, and computes what may turn out not to be needed. A compiled loop does not look:
    what it would see would be baked into the graph."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()


class StopFlag:
    """Tells the loop when to stop; the only place where it waits for the device.

    On an accelerator the flag travels to the host while the next iteration is already queued, and is read one iteration
    late: a finished solve runs one more iteration, which its results ignore. (A window that slides reads its frontier
    at every iteration, and so do a recording and a callback: then there is no point in a lag.)
    """

    def __init__(self, lag: bool) -> None:
        self._lag = lag
        self._before: tuple[Tensor, torch.cuda.Event | None] | None = None

    def posted(self, flag: Tensor) -> bool:
        """Take this iteration's flag; returns it, or with a lag the one of the iteration before."""
        if not self._lag:
            return bool(flag)
        before, event = self._before, torch.cuda.Event() if flag.is_cuda else None
        self._before = (flag.to("cpu", non_blocking=flag.is_cuda), event)
        if event is not None:
            event.record()
        if before is None:
            return False
        if before[1] is not None:
            before[1].synchronize()
        return bool(before[0])


def lags(tensor: Tensor) -> bool:
    """Whether flags computed next to this tensor should be read late."""
    return tensor.is_cuda
