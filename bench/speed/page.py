"""The page `docs/background/speed.md`, from `bench/results/<device>/speed.json` alone."""

from __future__ import annotations

from typing import Any


def page(results: dict[str, Any]) -> str:
    """The documentation page."""
    rows = {name: [b["extra_info"] for b in results["benchmarks"] if b["name"].startswith(name)] for name in
            ("test_forward", "test_training", "test_layer", "test_plain", "test_tile", "test_newton")}  # fmt: skip
    machine, first = results["lds_iter"], rows["test_forward"][0]
    lines = [
        "# Speed and memory",
        "",
        "*Made by `python -m bench.speed` from `bench/results`; measured, not promised.*",
        "",
        f"Hardware: {machine['cpu']}, {machine['threads']} threads, no GPU. torch {machine['torch']}, Python "
        f"{machine['python']}. Peer: `torch.nn.GRU` with default initialisation, N(0, 1) inputs, float32, in the same "
        f"process and alternately with ours; medians of {first['rounds']} rounds. Ours: from zeros, residual at most "
        f"{first['atol']:g}, {'with' if results['compiled'] else 'without'} [compiled kernels](cpu.md). A row "
        f"is timed only after its largest difference to the peer has been found below {first['gate']:g}.",
        "",
        "## Forward pass",
        "",
        "| T | D | batch | method | `torch.nn.GRU` (ms) | ours (ms) | times faster | iterations | largest error |",
        "|---:|---:|---:|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows["test_forward"]:
        lines.append(
            f"| {row['T']:,} | {row['D']} | {row['batch']} | `{row['method']}` | {row['peer_ms']:.1f} "
            f"| {row['ours_ms']:.1f} | **{row['ratio']:.1f}** | {row['iterations']} | {row['error']:.0e} |"
        )
    lines += [
        "",
        "`torch.nn.GRU` costs about 10 microseconds a step at these widths, whatever the batch up to 8; ours costs "
        "arithmetic. So the ratio grows with T and shrinks with the width and the batch, until at some width the CPU "
        "has nothing left to win: rows below 1 are slower than the peer. A *compiled* step loop (such as "
        "`jax.lax.scan`) takes a microsecond a step or less; PyTorch users do not have one "
        "in `torch.nn`, and [beside other libraries](peers.md) shows ours next to it. "
        "[A map](map.md) shows all of it over T, D and batch. "
        "On these untrained networks the iteration converges easily; for trained ones see the recipe on "
        "pretrained networks. Figures for a GPU await the hardware.",
        "",
        "## Forward and backward pass",
        "",
        "The same networks in a training step, batch 1, the gradients of all parameters within the given relative "
        "difference of those of `torch.nn.GRU` (each norm by itself, the largest shown). The adjoint is solved "
        "directly where kernels are compiled, else by the method of the solve.",
        "",
        "| T | D | method | `torch.nn.GRU` (ms) | ours (ms) | times faster | largest relative difference |",
        "|---:|---:|---|---:|---:|---:|---:|",
    ]
    for row in rows["test_training"]:
        lines.append(
            f"| {row['T']:,} | {row['D']} | `{row['method']}` | {row['peer_ms']:.0f} | {row['ours_ms']:.1f} "
            f"| **{row['ratio']:.0f}** | {row['error']:.0e} |"
        )
    lines += [
        "",
        "## The drop-in layers",
        "",
        "`lds_iter.nn` with the method of `li.nn.fixed_method`, weights as initialised, against the layer of "
        "`torch.nn` with the same weights. A plain float32 `LSTM` has a fused kernel in torch (oneDNN), a compiled "
        "loop over time, which it cannot use with a projection. Its steps are too short to be shared among threads, "
        "so the rows that count for it are those where both sides have one thread: there it wastes nothing.",
        "",
        "| Layer | D | T | batch | threads | | method | torch (ms) | ours (ms) | times faster | iterations | error |",
        "|---|---:|---:|---:|---:|---|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows["test_layer"]:
        name = row["layer"] + "".join(f", {key}={value}" for key, value in row["further"].items())
        passes = "forward and backward" if row["training"] else "forward"
        lines.append(
            f"| {name} | {row['D']} | {row['T']:,} | {row['batch']} | {row['threads']} | {passes} "
            f"| `{row['method']}` | {row['peer_ms']:.1f} | {row['ours_ms']:.1f} | **{row['ratio']:.1f}** "
            f"| {row['iterations']} | {row['error']:.0e} |"
        )
    lines += [
        "",
        "## A plain function against the Python loop",
        "",
        "`tanh(W s + u)`, D = 8, batch 1, `Newton()` with derivatives from `torch.func`, against `li.sequential`.",
        "",
        "| T | the loop (ms) | ours (ms) | times faster | iterations | error |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows["test_plain"]:
        lines.append(
            f"| {row['T']:,} | {row['peer_ms']:.1f} | {row['ours_ms']:.1f} | **{row['ratio']:.1f}** "
            f"| {row['iterations']} | {row['error']:.0e} |"
        )
    lines += [
        "",
        "## Newton on a million steps",
        "",
    ]
    for row in rows["test_newton"]:
        lines.append(
            f"T = {row['T']:,}, D = {row['D']}, `Newton()`, `window={row['window']}`: {row['iterations']} iterations, "
            f"{row['evaluations']:.1f} evaluations of `f` per step, {row['seconds']:.0f} s, error {row['error']:.0e}. "
            f"Peak memory of the whole process {row['peak_mib'] / 1024:.2f} GiB, of which "
            f"{row['before_mib'] / 1024:.2f} GiB before the solve (PyTorch, inputs); the dense Jacobians of all "
            "steps alone would be 1 GiB."
        )
    lines += [
        "",
        "## The size of a tile",
        "",
        "On a CPU the loop sweeps the rows in tiles (see [windows](../learn/windows.md)). Smaller tiles fit the cache, "
        "larger ones dispatch fewer operations. T = 100,000, D = 8, `QuasiNewton()` without compiled kernels, "
        "numbers per tile and thread:",
        "",
        "| numbers | " + " | ".join(f"2^{row['tile']}" for row in rows["test_tile"]) + " |",
        "|---|" + "---:|" * len(rows["test_tile"]),
        "| ms | " + " | ".join(f"{row['ours_ms']:.0f}" for row in rows["test_tile"]) + " |",
        "",
    ]
    return "\n".join(lines)
