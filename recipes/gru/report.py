"""What the logs of a run say: the table, the comparison of two runs, and the picture of the losses."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from recipes.canvas import COLOURS, MARKERS, pyplot, save
from recipes.files import whole_lines
from recipes.gru.tasks import AbstractTask, Series


@dataclass(frozen=True)
class Step:
    """One training step, as logged.

    Attributes:
        loss: of the batch, before the step.
        seconds: spent in training steps up to here.
        iterations: the most that each layer took; empty for torch.
        residual: the largest of all layers; NaN for torch.
        fell_back: whether torch's kernel had to step in.
    """

    loss: float
    seconds: float
    iterations: tuple[int, ...]
    residual: float
    fell_back: bool


@dataclass(frozen=True)
class Run:
    """A run, as its logs have it.

    Attributes:
        name: of the solver.
        steps: by number, from 0.
        held_out: mean loss and mean measure on the held-out samples, by the number of the step before it.
    """

    name: str
    steps: dict[int, Step]
    held_out: dict[int, tuple[float, float]]

    @property
    def seconds(self) -> float:
        """In training steps, altogether."""
        return self.steps[max(self.steps)].seconds


def read_run(name: str, folder: Path) -> Run:
    """Join the logs of a run, one for every time that it was started.

    A step that was logged, lost in an interruption and made again counts once.
    """
    run = Run(name, {}, {})
    logs = sorted(folder.glob("version_*/metrics.csv"), key=lambda path: int(path.parent.name.split("_")[1]))
    for log in logs:
        for row in csv.DictReader(whole_lines(log)):
            if row.get("loss"):
                run.steps[int(row["step"])] = _step(row)
            if row.get("held_out_loss"):
                run.held_out[int(row["step"])] = (float(row["held_out_loss"]), float(row["held_out_measure"]))
    return run


def _step(row: dict[str, str]) -> Step:
    layers = sorted((name for name in row if name.startswith("iterations_")), key=lambda name: int(name.split("_")[1]))
    return Step(
        loss=float(row["loss"]),
        seconds=float(row["seconds"]),
        iterations=tuple(int(float(row[name])) for name in layers if row[name]),
        residual=float(row.get("residual") or "nan"),
        fell_back=float(row.get("fell_back") or 0) > 0,
    )


def summary(series: Series, run: Run) -> Table:
    """The course of one run, in at most a dozen lines, with the baselines below."""
    view = Table(
        title=f"[bold]{run.name}[/bold]: {len(run.steps)} steps, {run.seconds:.0f} s in training steps, "
        f"{run.seconds / len(run.steps):.2f} s each",
        title_justify="left",
    )
    for heading in (
        "steps",
        "loss (mean)",
        "held-out loss",
        series.task.score_name,
        "iterations, by layer",
        "residual",
    ):
        view.add_column(heading, justify="right")
    ends = sorted({*run.held_out, max(run.steps)})  # the last epoch may have been cut short
    starts = dict(zip(ends, [0, *(end + 1 for end in ends)], strict=False))
    every = -(-len(ends) // 12)
    for end in [end for number, end in enumerate(ends, 1) if number % every == 0 or number == len(ends)]:
        steps = [run.steps[number] for number in range(starts[end], end + 1) if number in run.steps]
        loss, measure = run.held_out.get(end, (None, None))
        view.add_row(
            str(end + 1),
            f"{sum(step.loss for step in steps) / len(steps):.4f}",
            "" if loss is None else f"{loss:.4f}",
            "" if measure is None else f"{series.task.score(measure):.4g}",
            _spans(steps),
            f"{max(step.residual for step in steps):.1g}" if steps[0].iterations else "",
        )
    view.add_section()
    for name, score in series.baselines.items():
        view.add_row("", "", "", f"{score:.4g}", f"[dim]{name}[/dim]", "")
    return view


def _spans(steps: list[Step]) -> str:
    """Least and most iterations of each layer."""
    counts = zip(*(step.iterations for step in steps), strict=False)
    spans = " ".join(f"{min(c)}" if min(c) == max(c) else f"{min(c)}-{max(c)}" for c in counts)
    lost = sum(step.fell_back for step in steps)
    return f"{spans} [red]fell back: {lost}[/red]" if lost else spans


def comparison(task: AbstractTask, ours: Run, theirs: Run) -> tuple[Table, float]:
    """Two runs step by step, and the greatest relative difference of their losses.

    Raises:
        ValueError: when they have no step in common.
    """
    common = sorted(ours.steps.keys() & theirs.steps.keys())
    if not common:
        raise ValueError(f"`{ours.name}` and `{theirs.name}` have no training step in common.")
    pairs = {number: (ours.steps[number], theirs.steps[number]) for number in common}
    apart = {number: abs(a.loss - b.loss) / abs(b.loss) for number, (a, b) in pairs.items()}
    worst = max(apart, key=lambda number: apart[number])
    view = Table(
        title=f"[bold]{ours.name} and {theirs.name}[/bold]: the greatest relative difference of the losses of "
        f"{len(common)} steps is {apart[worst]:.1e}, in step {worst + 1}",
        title_justify="left",
        caption=f"seconds in training steps: {ours.name} {pairs[common[-1]][0].seconds:.1f}, {theirs.name} "
        f"{pairs[common[-1]][1].seconds:.1f}" + _scores(task, ours, theirs),
        caption_justify="left",
    )
    for heading in ("step", f"loss, {ours.name}", f"loss, {theirs.name}", "relative difference"):
        view.add_column(heading, justify="right")
    every = -(-len(common) // 12)
    for number in [step for step in common if step % every == 0 or step in (worst, common[-1])]:
        a, b = pairs[number]
        view.add_row(str(number + 1), f"{a.loss:.7f}", f"{b.loss:.7f}", f"{apart[number]:.1e}")
    return view, apart[worst]


def _scores(task: AbstractTask, ours: Run, theirs: Run) -> str:
    common = sorted(ours.held_out.keys() & theirs.held_out.keys())
    if not common:
        return ""
    a, b = (task.score(run.held_out[common[-1]][1]) for run in (ours, theirs))
    return f"; {task.score_name} on the held-out samples after {common[-1] + 1} steps: {a:.6g} and {b:.6g}"


def picture(series: Series, runs: list[Run], path: Path) -> None:
    """Loss over the steps of training, held-out loss as points; with two runs also the seconds of both."""
    figure, axes = pyplot().subplots(1, len(runs), figsize=(8, 3.8), layout="constrained", squeeze=False)
    losses = axes[0, 0]
    for run, colour, marker, width in zip(runs, COLOURS, MARKERS, (4, 1.5), strict=False):
        numbers = sorted(run.steps)
        each = [run.steps[number].loss for number in numbers]
        held = sorted((number + 1, loss) for number, (loss, _) in run.held_out.items())
        name = f"{run.name}: a batch"
        losses.plot([n + 1 for n in numbers], each, color=colour, linewidth=width, label=name)
        if held:
            look = {"linestyle": "", "marker": marker, "color": colour}
            losses.plot(*zip(*held, strict=True), **look, label=f"{run.name}: held out")
    losses.set(xlabel="step of training", ylabel="loss", yscale="log")
    figure.suptitle(series.title, fontweight="bold", fontsize=11.5)
    losses.yaxis.set_major_formatter("{x:g}")
    losses.yaxis.set_minor_formatter("{x:.2g}")
    losses.legend(fontsize=9)
    if len(runs) > 1:
        seconds = [run.seconds for run in runs]
        drawn = axes[0, 1].bar([run.name for run in runs], seconds, color=COLOURS[: len(runs)], width=0.5)
        axes[0, 1].bar_label(drawn, [f"{value:.3g} s" for value in seconds])
        axes[0, 1].set(title=f"{len(runs[0].steps)} steps of training", ylabel="seconds")
    save(figure, path)
