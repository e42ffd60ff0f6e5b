"""Train a five-layer GRU on a long real series: `python -m recipes.gru`."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import torch
import typer
from rich.console import Console

import lds_iter as li
from recipes.command_line import check_checkpoint, check_choice, check_folder, fail, in_one_line
from recipes.gru.archive import load_eigenworms, load_ts
from recipes.gru.glucose import load_glucose
from recipes.gru.report import Run, comparison, picture, read_run, summary
from recipes.gru.solvers import SOLVERS, Options
from recipes.gru.tasks import DataUnavailable, Series
from recipes.pretrained.networks import AssetMissing

if TYPE_CHECKING:
    from recipes.gru.training import Limits, Setup

app = typer.Typer(add_completion=False)
DEVICES = ("auto", "cpu", "cuda")


@app.command()
@in_one_line
def main(
    data: Annotated[
        str, typer.Option(help="glucose (comes with a package), eigenworms (by aeon), or the path of a .ts file.")
    ] = "glucose",
    solver: Annotated[str, typer.Option(help=f"How to evaluate the layers: {', '.join(SOLVERS)}.")] = "quasi",
    compare: Annotated[
        tuple[str, str] | None, typer.Option(help="Train with two solvers instead, and compare their losses.")
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes through the training samples.")] = 12,
    steps: Annotated[int | None, typer.Option(min=1, help="Stop after so many training steps even so.")] = None,
    length: Annotated[int, typer.Option(min=2, help="Time steps per sample.")] = 17_984,
    crops: Annotated[int, typer.Option(min=1, help="Samples that the glucose record is cut into.")] = 8,
    width: Annotated[int, typer.Option(min=1, help="Of every layer.")] = 32,
    layers: Annotated[int, typer.Option(min=1, help="How many.")] = 5,
    batch: Annotated[int, typer.Option(min=1, help="Samples per step.")] = 1,
    learning_rate: Annotated[float, typer.Option("--lr", min=0, help="Of Adam.")] = 3e-3,
    seed: Annotated[int, typer.Option(min=0, help="Of the weights and the order of the batches.")] = 0,
    tolerance: Annotated[
        float | None, typer.Option(min=0, help="rtol and atol of the solves; 1e-5 when left out.")
    ] = None,
    window: Annotated[int | None, typer.Option(min=1, help="Time steps to look ahead in a solve; all of them.")] = None,
    warm_start: Annotated[
        bool, typer.Option("--warm-start", help="Start from each sample's states of the epoch before. Not kept "
                           "in checkpoints: a resumed run differs within the tolerance.")
    ] = False,
    device: Annotated[str, typer.Option(help=f"{', '.join(DEVICES)}.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="Threads for torch; its own choice when left out.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    time_shards: Annotated[
        int | None, typer.Option(min=1, help="Under torchrun: so many processes share the time steps, the others the "
                                 "batch. Checkpoints may be resumed by another number of processes.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for checkpoints, logs and the picture.")] = Path("out/gru"),
) -> None:  # fmt: skip
    """Train a stack of GRU layers on a long real series, in parallel over time, with pytorch-lightning."""
    names = [solver] if compare is None else list(compare)
    for name in names:
        check_choice("--solver" if compare is None else "--compare", name, SOLVERS)
    if len(set(names)) < len(names):
        raise typer.BadParameter("name two different solvers, such as --compare quasi torch.")
    if tolerance is not None and not math.isfinite(tolerance):
        raise typer.BadParameter("must be a finite number.", param_hint="--tolerance")
    if device == "cuda" and not torch.cuda.is_available():
        raise typer.BadParameter("torch sees no CUDA device here; leave it out.", param_hint="--device")
    check_choice("--device", device, DEVICES)
    if data not in ("glucose", "eigenworms") and not Path(data).is_file():
        raise typer.BadParameter(f"There is no file {data}: --data must be glucose, eigenworms, or a .ts file.")
    if threads is not None:
        torch.set_num_threads(threads)
    from recipes.gru.training import Limits, Setup  # Lightning takes seconds to import

    setup = Setup(data, length, crops, width, layers, batch, learning_rate, seed)
    if time_shards is not None:
        options = Options(tolerance, window, li.nn.WarmStart() if warm_start else None)
        _train_shared(
            names, setup, Limits(epochs, steps, device), options, shards=time_shards, resume=resume, folder=out
        )
        return
    _check_folders([out / name for name in names], resume)
    check_folder(out)
    console = Console(width=None if Console().is_terminal else 120)
    series = _load(setup, out)
    console.print(f"[bold]{series.title}[/bold]\n{series.about}", soft_wrap=True)
    console.print(f"torch {torch.__version__}, {torch.get_num_threads()} thread(s); {layers} layers, D = {width}")
    runs = []
    for name in names:
        options = Options(tolerance, window, li.nn.WarmStart() if warm_start else None)
        _train(name, series, setup, Limits(epochs, steps, device), options=options, folder=out / name)
        runs.append(read_run(name, out / name))
    _report(series, runs, console, out)


def _train_shared(
    names: list[str], setup: Setup, limits: Limits, options: Options, *, shards: int, resume: bool, folder: Path
) -> None:
    """A training by all processes of torchrun; the first one reports."""
    from recipes.gru.shared import SharedRun, check_shards, whole_checkpoints
    from recipes.gru.training import SetupChanged

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    if len(names) > 1:
        raise typer.BadParameter("trains with one solver; leave --compare out.", param_hint="--time-shards")
    where = folder / f"{names[0]}-shared"
    there = bool(whole_checkpoints(where))
    try:
        check_shards(shards, names[0], setup)
        if there != resume:
            words = "holds a run already; type --resume, or another --out" if there else "holds no run to resume"
            raise ValueError(f"{where} {words}.")
        check_folder(where)
        series = _load(setup, folder)
        run = SharedRun.begin(series, setup, limits, options, solver=names[0], shards=shards, folder=where)
        rows = run.train(limits, resume=resume)
    except (SetupChanged, ValueError) as error:
        fail(error)
    if run.fabric.is_global_zero:
        print(f"{series.title}: {run.mesh.shape[0]} x {shards} ranks of batch x time")
        for row in rows:
            held_out = f", held out {row['held_out_loss']:.6f}" if "held_out_loss" in row else ""
            print(f"step {row['step']}: loss {row['loss']:.6f}{held_out}")
    torch.distributed.destroy_process_group()


def _load(setup: Setup, out: Path) -> Series:
    try:
        match setup.data:
            case "glucose":
                return load_glucose(setup.length, setup.crops)
            case "eigenworms":
                return load_eigenworms(setup.length, out / "data")
            case path:
                return load_ts(Path(path), setup.length, setup.seed)
    except (AssetMissing, DataUnavailable, ValueError) as error:
        fail(error)


def _check_folders(folders: list[Path], resume: bool) -> None:
    """A run is neither overwritten nor resumed by accident."""
    for folder in folders:
        there = (folder / "checkpoints" / "last.ckpt").is_file()
        if there and not resume:
            raise typer.BadParameter(
                f"{folder} holds a run already. Go on with it: --resume. Start anew: another --out, or delete it."
            )
        if resume and not there:
            raise typer.BadParameter(f"{folder} holds no run to resume; leave --resume out to begin one.")
        if there:
            check_checkpoint(folder / "checkpoints" / "last.ckpt", folder / "checkpoints" / "best.ckpt")


def _train(name: str, series: Series, setup: Setup, limits: Limits, *, options: Options, folder: Path) -> None:
    from pytorch_lightning.callbacks import RichProgressBar

    from recipes.gru.training import SetupChanged, network, train

    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)  # not: which accelerators there are, and tips
    model = network(series, SOLVERS[name], setup, options)
    try:
        train(model, series, setup, limits, folder=folder, callbacks=[RichProgressBar()])
    except SetupChanged as error:
        fail(error)


def _report(series: Series, runs: list[Run], console: Console, out: Path) -> None:
    for run in runs:
        console.print(summary(series, run))
    if len(runs) == 2:
        console.print(comparison(series.task, runs[0], runs[1])[0])
    path = out / f"{'-'.join(run.name for run in runs)}.svg"
    picture(series, runs, path)
    console.print(str(path), soft_wrap=True)


if __name__ == "__main__":
    app()
