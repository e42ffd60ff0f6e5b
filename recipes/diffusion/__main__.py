"""Draw samples step by step and in parallel from the same noise, and compare: `python -m recipes.diffusion`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from recipes.diffusion.choices import DIGITS, NO_CLASS, MethodName, SchedulerName, load, method, scheduler

app = typer.Typer(add_completion=False)


@app.command()
def main(
    scheduler_: Annotated[SchedulerName, typer.Option("--scheduler", help="Which to run.")] = SchedulerName.ddim,
    steps: Annotated[int, typer.Option(min=2, max=1000, help="num_inference_steps.")] = 50,
    method_: Annotated[MethodName, typer.Option("--method", help="Of the parallel solve.")] = MethodName.secant,
    window: Annotated[int | None, typer.Option(min=1, help="Steps evaluated at once; all if left out.")] = None,
    tol: Annotated[float, typer.Option(min=0, help="Error to aim at; a sample has size 1.")] = 1e-2,
    samples: Annotated[int, typer.Option(min=1, help="How many images.")] = 10,
    seed: Annotated[int, typer.Option(help="Of the noise.")] = 0,
    guidance: Annotated[float, typer.Option(help="Scale of classifier-free guidance; 1 for none.")] = 1.0,
    model: Annotated[str, typer.Option(help="Folder or hub id with unet/ and scheduler/.")] = str(DIGITS),
    device: Annotated[str, typer.Option(help="Such as cpu or cuda.")] = "cpu",
    max_batch: Annotated[int | None, typer.Option(min=1, help="Most images per call of the network.")] = 512,
    threads: Annotated[int, typer.Option(min=1, help="For torch.")] = 1,
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("out"),
) -> None:
    """Draw samples step by step and in parallel from the same noise, and compare."""
    from lds_iter.diffusion.sampler import ParallelSampler

    torch.set_num_threads(threads)
    try:
        unet, config = load(model, device)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    chosen = scheduler(scheduler_, config)
    sampler = ParallelSampler(unet, chosen, method(method_), window=window, tol=tol, max_batch=max_batch)
    noise, conditioning, other = _task(unet, sampler, samples, steps, seed, device)
    options: dict[str, Any] = {"unconditional": other if guidance != 1 else None, "guidance_scale": guidance}
    results = []
    for run in sampler.step_by_step, sampler:
        generator, start = torch.Generator().manual_seed(seed + 1), time.perf_counter()
        sampled = run(noise, steps, conditioning, generator=generator, **options)
        results.append((sampled, time.perf_counter() - start))
    (sequential, slow), (parallel, fast) = results
    _report(sequential, parallel, slow, fast, f"{scheduler_}, {steps} steps, {method_}, {samples} samples", samples)
    iterates = _iterates(sampler, noise, conditioning, options, steps, seed, parallel.work.rounds)
    _pictures(
        sequential.sample,
        parallel.sample,
        iterates,
        out,
        f"{scheduler_}, {steps} steps, {method_}, {parallel.work.rounds} rounds",
    )


def _task(
    unet: Any, sampler: Any, samples: int, steps: int, seed: int, device: str
) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor] | None]:
    """Noise as the scheduler wants it, and the classes if the network knows any."""
    from lds_iter.diffusion.schedule import prepared

    size, generator = unet.config.sample_size, torch.Generator().manual_seed(seed)
    noise = torch.randn(samples, unet.config.in_channels, size, size, generator=generator)
    noise = noise.to(device) * float(getattr(prepared(sampler.scheduler, steps)[0], "init_noise_sigma", 1.0))
    if not unet.config.get("num_class_embeds"):
        return noise, {}, None
    labels = torch.arange(samples, device=device) % (unet.config.num_class_embeds - 1)
    return noise, {"class_labels": labels}, {"class_labels": torch.full_like(labels, NO_CLASS)}


def _report(sequential: Any, parallel: Any, slow: float, fast: float, title: str, samples: int) -> None:
    table = Table("", "rounds (sequential model calls)", "evaluations per sample", "time", title=title)
    for name, sampled, seconds in ("step by step", sequential, slow), ("parallel", parallel, fast):
        work = sampled.work
        table.add_row(name, str(work.rounds), f"{work.evaluations / samples:.1f}", f"{seconds:.2f} s")
    Console(width=None if Console().is_terminal else 110).print(table)
    error = parallel.sample - sequential.sample
    print(f"error of the samples: rms {error.square().mean().sqrt():.1e}, largest {error.abs().max():.1e}")
    if parallel.work.products:
        print(f"products with the derivative per sample: {parallel.work.products / samples:.1f}, an evaluation each")
    print(
        f"{parallel.work.rounds / sequential.work.rounds:.2f} of the sequential calls; "
        "on a CPU time follows evaluations instead"
    )


def _iterates(
    sampler: Any,
    noise: Tensor,
    conditioning: dict[str, Tensor],
    options: dict[str, Any],
    steps: int,
    seed: int,
    rounds: int,
) -> list[Tensor]:
    """The first sample's trajectory as every round found it, from one more run of that sample alone."""
    from recipes.diffusion.film import filmed

    first = {name: value[:1] for name, value in conditioning.items()}
    other = options["unconditional"] and {name: value[:1] for name, value in options["unconditional"].items()}
    generator = torch.Generator().manual_seed(seed + 1)
    return filmed(sampler, noise[:1], steps, first, {**options, "unconditional": other}, generator)[: rounds + 1]


def _pictures(sequential: Tensor, parallel: Tensor, iterates: list[Tensor], out: Path, title: str) -> None:
    from recipes.diffusion.pictures import animation, comparison, film_strip

    comparison(sequential, parallel, out / "diffusion.png", title)
    film_strip(iterates, out / "diffusion-film.png")
    animation(iterates, out / "diffusion-film.gif")
    for name in "diffusion.png", "diffusion-film.png", "diffusion-film.gif":
        print(out / name)


if __name__ == "__main__":
    app()
