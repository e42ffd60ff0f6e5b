"""All steps of a training at once: `python -m recipes.optimizer [--task irises --optimizer adam --window 100]`.

Trains in parallel and step by step, prints how the two trajectories agree and what each took, then improves every
learning rate of the training by the gradient of its last loss, and draws both. The network of 609 parameters is
trained with blocks per parameter, 100 steps at a time, for its whole Jacobians would take gigabytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from torch import Tensor

import lds_iter as li
from lds_iter.auto import wall_clock
from recipes.command_line import check_choice, check_folder, fail, in_one_line
from recipes.devices import DeviceName, device_of
from recipes.optimizer.curvature import GaussNewton, PerParameter
from recipes.optimizer.problems import TASKS, Task
from recipes.optimizer.report import picture
from recipes.optimizer.training import SGD, AbstractOptimizer, Adam, Momentum, Training
from recipes.optimizer.tuning import tune_rates

OPTIMIZERS: dict[str, tuple[AbstractOptimizer, float]] = {
    "sgd": (SGD(), 0.1), "momentum": (Momentum(), 0.02), "adam": (Adam(), 0.01),
}  # fmt: skip
"""With their learning rates."""

METHODS = ("newton", "blocks", "gauss")
WIDE = 100
"""Parameters from which a Jacobian for every step is not made, nor for the gradient of the learning rates."""

WINDOW = 100
"""Steps at a time of so wide a training."""

app = typer.Typer(add_completion=False)


@app.command()
@in_one_line
def main(
    task: Annotated[str, typer.Option(help=f"What to train: {' or '.join(TASKS)}.")] = "tumours",
    optimizer: Annotated[str, typer.Option(help=f"One of {', '.join(OPTIMIZERS)}.")] = "adam",
    steps: Annotated[int, typer.Option(min=2, help="Steps of the training.")] = 1000,
    batch: Annotated[int, typer.Option(min=1, help="Examples per step.")] = 16,
    rate: Annotated[float, typer.Option(min=0, help="Learning rate; 0 for the optimizer's own.")] = 0,
    window: Annotated[int, typer.Option(min=0, help="Steps at a time; 0 for all, or for 100 of the network.")] = 0,
    method: Annotated[str, typer.Option(help="newton, blocks per parameter, or gauss, for sgd.")] = "",
    tunings: Annotated[int, typer.Option(min=0, help="Improvements of the learning rates.")] = 10,
    device: DeviceName = "cpu",
    out: Annotated[Path, typer.Option(help="Folder of the picture.")] = Path("out/optimizer"),
) -> None:
    """Train in parallel and step by step, compare, tune the learning rates, draw."""
    check_choice("--task", task, TASKS)
    check_choice("--optimizer", optimizer, OPTIMIZERS)
    if method:
        check_choice("--method", method, METHODS)
    if method == "gauss" and optimizer != "sgd":
        fail(f"--method gauss is for --optimizer sgd, got {optimizer}. Type --method blocks.")
    place = device_of(device, torch.float64)
    check_folder(out)
    console, problem = Console(), TASKS[task]().to(place)
    kind, usual = OPTIMIZERS[optimizer]
    training = Training(problem.loss, problem.data, kind)
    given = training.inputs(rate or usual, steps, batch)
    wide = len(problem.x) > WIDE
    window, tunings = (window or (WINDOW if wide else 0)), 0 if wide else tunings
    chosen = _method(method or ("blocks" if wide else "newton"), problem, training)
    parallel = _compare(console, training, problem, given, chosen, window or None)
    rates, history = [given[1]], []
    for rates_now, loss in tune_rates(training, problem.x, given, tunings, window or None):
        rates.append(rates_now)
        history.append(loss)
    if history:
        console.print(f"loss of all examples after tuning every learning rate: {history[0]:.4f} to {history[-1]:.4f}")
    curves = [training.parameters(parallel)]
    if tunings:
        tuned = li.solve(training, training.start(problem.x), (given[0], rates[-1], given[2]), window=window or None)
        curves.append(training.parameters(tuned.states))
    path = picture(problem, curves, [rates[0], rates[-1]][: len(curves)], out / "optimizer.svg")
    console.print(f"picture: {path}", soft_wrap=True)


def _method(name: str, problem: Task, training: Training) -> li.LDSApproximation:
    if name == "newton":
        return li.Newton()
    return PerParameter(problem, training) if name == "blocks" else GaussNewton(problem)


def _compare(
    console: Console, training: Training, problem: Task, given: tuple[Tensor, ...], method: li.LDSApproximation,
    window: int | None,
) -> Tensor:  # fmt: skip
    """Both ways; returns the states."""
    s0 = training.start(problem.x)
    begin = wall_clock(s0)
    try:
        solution = li.solve(training, s0, given, method, window=window, rtol=1e-8, atol=1e-8, max_iters=len(given[1]))
    except li.SolveError as error:
        fail(f"{str(error).splitlines()[0]} Try --window 100.")
    between = wall_clock(s0)
    states = li.sequential(training, s0, given)
    end = wall_clock(s0)
    away = (training.parameters(solution.states) - training.parameters(states)).abs().max()
    count, steps = int(solution.iterations), len(states)
    console.print(
        f"{steps} steps in {count} iterations, {steps / count:.0f} times fewer one after the other; parameters differ "
        f"by {float(away):.0e} at most; {between - begin:.2f} s in parallel, {end - between:.2f} s step by step"
    )
    before, after = (float(problem.loss(x, problem.data)) for x in (problem.x, training.parameters(states[-1])))
    console.print(f"loss of all examples: {before:.4f} to {after:.4f}")
    return solution.states


if __name__ == "__main__":
    app()
