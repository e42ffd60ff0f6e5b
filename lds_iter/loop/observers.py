"""The progress bar: one observer of the loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lds_iter.solution import Progress, Result


@contextmanager
def progress_bar(length: int, show: bool) -> Iterator[Callable[[Progress], None] | None]:
    """An observer that draws the accepted rows of the slowest sequence; None when it is not wanted."""
    if not show:
        yield None
        return
    from tqdm.auto import tqdm

    with tqdm(total=length, unit="row", desc="solve") as bar:

        def observe(progress: Progress) -> None:
            ended = progress.result == Result.SUCCESS
            bar.n = int(progress.accepted.masked_fill(ended, length).min())
            bar.set_postfix(iteration=int(progress.iterations.max()), residual=f"{float(progress.residual.max()):.1e}")

        yield observe
