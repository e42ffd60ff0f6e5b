"""Draw samples step by step and in parallel from the same noise, and compare: `python -m recipes.diffusion`."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from lds_iter.auto import wall_clock
from recipes.command_line import check_folder, in_one_line
from recipes.devices import DeviceName, device_of
from recipes.diffusion.choices import DIGITS, MethodName, SchedulerName, load, method, null_class, scheduler

app = typer.Typer(add_completion=False)


@app.command()
@in_one_line
def main(
    scheduler_: Annotated[SchedulerName, typer.Option("--scheduler", help="Which to run.")] = SchedulerName.ddim,
    steps: Annotated[int, typer.Option(min=1, max=1000, help="num_inference_steps.")] = 50,
    method_: Annotated[MethodName, typer.Option("--method", help="Of the parallel solve.")] = MethodName.secant,
    window: Annotated[int | None, typer.Option(min=1, help="Steps evaluated at once; all if left out.")] = None,
    tol: Annotated[float, typer.Option(min=0, help="Error to aim at; a sample has size 1.")] = 1e-2,
    samples: Annotated[int, typer.Option(min=1, help="How many images.")] = 10,
    seed: Annotated[int, typer.Option(help="Of the noise.")] = 0,
    guidance: Annotated[float, typer.Option(help="Scale of classifier-free guidance; 1 for none.")] = 1.0,
    null: Annotated[int | None, typer.Option("--null-class", help="Label that guidance steers away from.")] = None,
    clip: Annotated[
        bool | None, typer.Option("--clip/--no-clip", help="Clip images; left out: as the model, not under guidance.")
    ] = None,
    model: Annotated[str, typer.Option(help="Folder or hub id with unet/ and scheduler/.")] = str(DIGITS),
    device: DeviceName = "cpu",
    max_batch: Annotated[int | None, typer.Option(min=1, help="Most images per call of the network.")] = 512,
    threads: Annotated[int, typer.Option(min=1, help="For torch.")] = 1,
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("out"),
) -> None:
    """Draw samples step by step and in parallel from the same noise, and compare."""
    from lds_iter.diffusion import ParallelSampler, SchedulerNotMapped
    from recipes.diffusion.pictures import comparison, gallery

    device_of(device)
    torch.set_num_threads(threads)
    if not math.isfinite(tol):
        raise typer.BadParameter("must be a finite number.", param_hint="--tol")
    try:
        unet, config = load(model, device)
        label = null_class(model, unet, null) if guidance != 1 else None
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    check_folder(out)
    if clip is None and guidance != 1 and config.get("clip_sample"):
        print("Under guidance the scheduler does not clip here: it would take two to four times the rounds (--clip).")
    chosen = scheduler(scheduler_, config, clip=guidance == 1 if clip is None else clip)
    sampler = ParallelSampler(unet, chosen, method(method_), window=window, tol=tol, max_batch=max_batch)
    noise, conditioning, options = _task(unet, sampler, samples, steps, seed, device, label, guidance)
    try:
        parallel = _timed(
            "in parallel", sampler, samples, noise, steps, conditioning, seed, {**options, "progress": True}
        )
        _show(out / "diffusion.svg", lambda path: gallery(parallel.sample, path))
        sequential = _timed("step by step", sampler.step_by_step, samples, noise, steps, conditioning, seed, options)
    except SchedulerNotMapped as error:
        raise typer.BadParameter(str(error)) from error
    _report(sequential, parallel, samples)
    title = f"{scheduler_}, {steps} steps, {method_}, {parallel.work.rounds} rounds"
    _show(out / "diffusion.svg", lambda path: comparison(sequential.sample, parallel.sample, path, title))
    _film(sampler, noise, conditioning, options, steps, seed, parallel.work.rounds, out)


def _task(
    unet: Any,
    sampler: Any,
    samples: int,
    steps: int,
    seed: int,
    device: str,
    label: int | None,
    guidance: float,
) -> tuple[Tensor, dict[str, Tensor], dict[str, Any]]:
    """Noise as the scheduler wants it, the classes if the network knows any, and the options of guidance."""
    from lds_iter.diffusion.schedule import prepared

    size, generator = unet.config.sample_size, torch.Generator("cpu").manual_seed(seed)
    height, width = (size, size) if isinstance(size, int) else size
    noise = torch.randn(samples, unet.config.in_channels, height, width, generator=generator, device="cpu")
    noise = noise.to(device) * float(getattr(prepared(sampler.scheduler, steps)[0], "init_noise_sigma", 1.0))
    classes = unet.config.get("num_class_embeds")
    if not classes:
        return noise, {}, {}
    labels = torch.arange(samples, device=device) % max(1, classes - 1)
    if label is None:
        return noise, {"class_labels": labels}, {}
    other = {"class_labels": torch.full_like(labels, label)}
    return noise, {"class_labels": labels}, {"unconditional": other, "guidance_scale": guidance}


def _timed(
    name: str,
    run: Any,
    samples: int,
    noise: Tensor,
    steps: int,
    conditioning: dict[str, Tensor],
    seed: int,
    options: dict[str, Any],
) -> Any:
    """Run, and print a line at once."""
    start = wall_clock(noise)
    sampled = run(noise, steps, conditioning, generator=torch.Generator("cpu").manual_seed(seed + 1), **options)
    work, seconds = sampled.work, wall_clock(noise) - start
    print(
        f"{name}: {work.rounds} rounds (sequential calls of the model), {work.evaluations / samples:.1f} evaluations "
        f"per sample, {seconds:.2f} s",
        flush=True,
    )
    return sampled


def _report(sequential: Any, parallel: Any, samples: int) -> None:
    error = parallel.sample - sequential.sample
    print(f"error of the samples: rms {error.square().mean().sqrt():.1e}, largest {error.abs().max():.1e}")
    if parallel.work.products:
        print(f"products with the derivative per sample: {parallel.work.products / samples:.1f}, an evaluation each")
    share = parallel.work.rounds / sequential.work.rounds
    print(f"{share:.2f} of the sequential calls; on a CPU time follows evaluations instead", flush=True)


def _film(
    sampler: Any,
    noise: Tensor,
    conditioning: dict[str, Tensor],
    options: dict[str, Any],
    steps: int,
    seed: int,
    rounds: int,
    out: Path,
) -> None:
    """The first sample's trajectory as every round found it, from one more run of that sample alone."""
    from recipes.diffusion.film import filmed
    from recipes.diffusion.pictures import animation, film_strip

    first = {name: value[:1] for name, value in conditioning.items()}
    alone = dict(options)
    if "unconditional" in alone:
        alone["unconditional"] = {name: value[:1] for name, value in alone["unconditional"].items()}
    generator = torch.Generator("cpu").manual_seed(seed + 1)
    iterates = filmed(sampler, noise[:1], steps, first, alone, generator)[: rounds + 1]
    _show(out / "diffusion-film.svg", lambda path: film_strip(iterates, path))
    _show(out / "diffusion-film.gif", lambda path: animation(iterates, path))


def _show(path: Path, draw: Callable[[Path], None]) -> None:
    """Draw a picture, and say where it is."""
    draw(path)
    print(path, flush=True)


if __name__ == "__main__":
    app()
