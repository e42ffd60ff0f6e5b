"""Seven months of a glucose sensor, out of the package bokeh-sampledata: a sensor to calibrate.

The sensor, a wire under the skin, gives a current every five minutes that rises with the glucose in the blood. How much
it rises differs from wire to wire, and changes while a wire ages, so who wears one pricks a finger about twice a day to
calibrate it. The file has time, current and glucose, 52,281 rows. Here glucose is to be told from the current, with the
glucose itself given once in twelve hours, where a finger would be pricked, and held until the next time.
"""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from recipes.gru.tasks import Regression, Sample, Series
from recipes.pretrained.networks import asset

Array = NDArray[np.float64]

FINGER = 144
"""Rows from one reference reading to the next: twelve hours."""


def load_glucose(length: int, crops: int) -> Series:
    """The last `length` rows held out, and `crops` stretches of `length` rows spread evenly over what is before them.

    All constants (means, spreads, the linear baselines) come from the rows before the held-out ones.

    Raises:
        AssetMissing: when the package is not installed.
        ValueError: when the record is too short for `length`.
    """
    current, glucose = read(asset("bokeh-sampledata", "_data/CGM.csv.gz"))
    rows = len(glucose)
    if not 2 <= length <= rows // 2:
        raise ValueError(f"`--length` must lie between 2 and {rows // 2}, half of the record, got {length}.")
    end = rows - length
    mean, spread = glucose[:end].mean(), glucose[:end].std()
    target = (glucose - mean) / spread
    columns = _inputs(current, target, end)
    x = torch.from_numpy(columns).float()
    y = torch.from_numpy(target[:, None]).float()

    def cut(start: int) -> Sample:
        return x[start : start + length], y[start : start + length]

    starts = np.linspace(0, end - length, crops).astype(int)
    return Series(
        title="glucose sensor of bokeh-sampledata, 52,281 rows five minutes apart",
        about="regression: current in, with current and glucose at the latest reference, one every "
        f"{FINGER} rows; glucose out; {crops} overlapping stretches of {length:,} rows to learn from, the last "
        f"{length:,} rows held out",
        task=Regression("mg/dl", float(spread)),
        train=[cut(start) for start in starts.tolist()],
        held_out=[cut(end)],
        outputs=1,
        baselines=_baselines(columns, target, end, float(spread)),
    )


def _inputs(current: Array, target: Array, end: int) -> Array:
    """Whether there is a current, the current, current and glucose at the latest reference, and how long ago it was."""
    known, rows = np.isfinite(current), np.arange(len(current))
    before = current[:end][known[:end]]
    flow = np.where(known, (current - before.mean()) / before.std(), 0.0)
    last = np.maximum.accumulate(np.where(known & (rows % FINGER == 0), rows, 0))
    return np.stack([known, flow, flow[last], target[last], (rows - last) / FINGER], 1)


def read(path: Path) -> tuple[Array, Array]:
    """Current (NaN where the sensor gave none) and glucose in mg/dl, both `(rows)`, in order of time."""
    with gzip.open(path, "rt", newline="") as file:
        rows = list(csv.DictReader(file))
    current = np.array([np.nan if row["isig"] == "nil" else float(row["isig"]) for row in rows])
    return current, np.array([float(row["glucose"]) for row in rows])


def _baselines(columns: Array, target: Array, end: int, spread: float) -> dict[str, float]:
    """RMSE on the held-out rows of a constant and of linear regressions, fitted to the rows before them."""
    scores = {}
    for name, used in {"the mean": 0, "linear in the current": 2, "linear in all inputs": columns.shape[1]}.items():
        table = np.column_stack([np.ones(len(target)), columns[:, :used]])
        weights = np.linalg.lstsq(table[:end], target[:end], rcond=None)[0]
        scores[name] = spread * float(np.sqrt(((table @ weights - target)[end:] ** 2).mean()))
    return scores
