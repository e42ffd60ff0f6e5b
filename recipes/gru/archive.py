"""EigenWorms, and any other classification set of the UEA archive: by aeon's downloader, or from a local `.ts` file.

EigenWorms: 259 worms in motion, six channels, 17,984 steps, five classes (the wild type and four mutants).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from recipes.gru.tasks import Classification, DataUnavailable, Sample, Series

Cases = tuple[list[NDArray[np.float64]], list[str]]
"""Series `(channels, T)` and their labels."""


def load_eigenworms(length: int, folder: Path) -> Series:
    """EigenWorms by aeon, which downloads it into `folder` the first time.

    Raises:
        DataUnavailable: when aeon is not installed, or cannot get the data.
    """
    try:
        from aeon.datasets import load_classification  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise DataUnavailable(
            "EigenWorms comes by the package aeon, which is not installed. Type: pip install aeon. With the file at "
            "hand, type --data PATH/EigenWorms_TRAIN.ts instead, which needs no package."
        ) from error
    folder.mkdir(parents=True, exist_ok=True)
    try:
        splits = [load_classification("EigenWorms", split, extract_path=str(folder)) for split in ("train", "test")]
    except (OSError, ValueError) as error:  # URLError is an OSError; aeon wraps some failures in ValueError
        raise DataUnavailable(
            f"aeon could not get EigenWorms ({error}). It is at timeseriesclassification.com; unpack it and type "
            "--data PATH/EigenWorms_TRAIN.ts."
        ) from error
    train, test = (([np.asarray(case) for case in x], [str(label) for label in y]) for x, y in splits)
    return classification("EigenWorms", train, test, length)


def load_ts(path: Path, length: int, seed: int) -> Series:
    """A set in sktime's `.ts` format: `NAME_TRAIN.ts` with `NAME_TEST.ts` beside it, or one file, a quarter held out.

    Raises:
        DataUnavailable: when there is no such file, or it is of another kind.
    """
    train, other = read_ts(path), path.with_name(path.name.replace("_TRAIN", "_TEST"))
    if other != path and other.is_file():
        return classification(path.stem.removesuffix("_TRAIN"), train, read_ts(other), length)
    order = np.random.default_rng(seed).permutation(len(train[0])).tolist()
    quarter = max(1, len(order) // 4)
    parts = [([train[0][i] for i in part], [train[1][i] for i in part]) for part in (order[quarter:], order[:quarter])]
    return classification(path.stem, parts[0], parts[1], length)


def read_ts(path: Path) -> Cases:
    """The cases of a `.ts` file: a header of `@` lines, then a line for each case, channels and label parted by `:`."""
    if not path.is_file():
        raise DataUnavailable(
            f"There is no file {path}. `--data` takes glucose, eigenworms, or the path of a .ts file."
        )
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise DataUnavailable(f"{path} is no text file in UTF-8, as .ts files are.") from error
    tags = {line.split()[0].lower(): line.split()[1:] for line in lines if line.startswith("@")}
    classes = tags.get("@classlabel", ["false"])
    stamped = tags.get("@timestamps", ["false"])[0].lower() == "true"
    if "@data" not in tags or classes[0].lower() != "true" or stamped:
        raise DataUnavailable(
            f"{path} must be a .ts file with a line `@data`, class labels (`@classLabel true ...`) and no time stamps."
        )
    start = next(number for number, line in enumerate(lines) if line.lower() == "@data")
    cases = [line.split(":") for line in lines[start + 1 :] if line and not line.startswith("#")]
    if not cases or any(len(case) < 2 for case in cases):
        raise DataUnavailable(f"{path} must have cases after `@data`, channels and label parted by `:`.")
    try:
        series = [np.array([[float(v.replace("?", "nan")) for v in c.split(",")] for c in case[:-1]]) for case in cases]
    except ValueError as error:
        raise DataUnavailable(f"{path} has a case that cannot be read as numbers: {error}.") from error
    return series, [case[-1].strip() for case in cases]


def classification(name: str, train: Cases, test: Cases, length: int) -> Series:
    """The first `length` steps of every case, each channel standardised by the training cases, NaN as 0."""
    shortest = min(case.shape[1] for case in (*train[0], *test[0]))
    if not 2 <= length <= shortest:
        raise ValueError(f"`--length` must lie between 2 and {shortest}, the shortest series of {name}, got {length}.")
    labels = sorted(set(train[1]) | set(test[1]))
    joined = np.concatenate([case[:, :length] for case in train[0]], 1)
    mean, spread = np.nanmean(joined, 1, keepdims=True), np.nanstd(joined, 1, keepdims=True).clip(1e-8)

    def samples(cases: Cases) -> list[Sample]:
        standard = (np.nan_to_num((case[:, :length] - mean) / spread) for case in cases[0])
        targets = (torch.tensor(labels.index(label), device="cpu") for label in cases[1])
        pairs = zip(standard, targets, strict=True)
        return [(torch.from_numpy(x.T.copy()).float(), target) for x, target in pairs]

    commonest = max(labels, key=train[1].count)
    return Series(
        title=f"{name}: {len(train[1])} series to learn from, {len(test[1])} held out, {len(mean)} channels",
        about=f"classification into {len(labels)} classes, {length:,} steps each",
        task=Classification(),
        train=samples(train),
        held_out=samples(test),
        outputs=len(labels),
        baselines={"the commonest class": sum(label == commonest for label in test[1]) / len(test[1])},
    )
