"""Draws as ArviZ knows them: figures, and pictures."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from torch import Tensor

from recipes.canvas import pyplot
from recipes.files import whole


def load_arviz() -> Any:
    """ArviZ, without its advice on coming versions.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import arviz  # pyright: ignore[reportMissingImports]
        except ModuleNotFoundError as error:
            error.add_note("Type: pip install 'lds-iter[mcmc]'")
            raise
    return arviz


def as_arviz(posterior: dict[str, Tensor], sample_stats: dict[str, Tensor] | None = None) -> Any:
    """Draws in ArviZ's own form: an InferenceData before version 1.0, a DataTree from then on.

    Args:
        posterior: as `Draws.posterior()` gives it, each `(chains, T, ...)`.
        sample_stats: as `Draws.sample_stats()`.
    """
    arviz = load_arviz()
    groups = {"posterior": posterior, "sample_stats": sample_stats or {}}
    arrays = {name: {key: part.cpu().numpy() for key, part in group.items()} for name, group in groups.items() if group}
    return arviz.from_dict(**arrays) if arviz.__version__ < "1" else arviz.from_dict(arrays)


def summary(posterior: dict[str, Tensor]) -> dict[str, dict[str, Any]]:
    """Mean, effective sample size and R-hat of every number of a position, as lists."""
    arviz, data = load_arviz(), as_arviz(posterior)
    found: dict[str, dict[str, Any]] = {}
    for name, part in posterior.items():
        found[name] = {"mean": part.double().mean((0, 1)).flatten().tolist()}
        for label, figure in (("ess", arviz.ess), ("rhat", arviz.rhat)):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found[name][label] = figure(data, var_names=[name])[name].values.ravel().tolist()
    return found


def pictures(posterior: dict[str, Tensor], out: Path, names: list[str]) -> list[Path]:
    """Traces and rank plots of some parts of the position."""
    plt = pyplot()

    arviz, data = load_arviz(), as_arviz(posterior)
    out.mkdir(parents=True, exist_ok=True)
    made = []
    for label in ("trace", "rank"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            drawn = getattr(arviz, f"plot_{label}")(data, var_names=names)
        path = out / f"{label}.png"
        with whole(path) as fresh:
            if hasattr(drawn, "savefig"):  # ArviZ 1.x
                drawn.savefig(fresh)
            else:
                plt.gcf().savefig(fresh, dpi=100, bbox_inches="tight")
        plt.close("all")
        made.append(path)
    return made
