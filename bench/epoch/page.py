"""What the page says of it: see `python -m bench.epoch`."""

from __future__ import annotations

from typing import Any

COMMAND = "python -m bench.epoch"


def section(results: dict[str, Any]) -> str:
    """The table of the recipe's page."""
    setup, machine = results["setup"], results["lds_iter"]
    rows = [("torch.nn.GRU", results["peer"], ""), (results["solver"], results["ours"], results["iterations"])]
    lines = [
        f"Hardware: {machine['cpu']}, {machine['threads']} threads, no GPU; torch {machine['torch']}, Python "
        f"{machine['python']}. {setup['layers']} layers, D = {setup['width']}, T = {setup['length']:,}, batch "
        f"{setup['batch']}, float32: {results['steps']} steps and a validation. Each epoch in a process of its own, in "
        f"turns; medians of {results['rounds']}. The losses of all steps and of the validation agree to a relative "
        f"difference of {results['error']:.0e} (gate: {results['gate']:g}).",
        "",
        "| Layers by | epoch (s) | in training steps (s) | most iterations, by layer | peak memory (MiB) | before |",
        "|---|---:|---:|---|---:|---:|",
    ]
    lines += [
        f"| `{name}` | {row['seconds']:.1f} | {row['seconds_in_steps']:.1f} | {' '.join(map(str, counts))} "
        f"| {row['peak_mib']:.0f} | {row['before_mib']:.0f} |"
        for name, row, counts in rows
    ]
    return "\n".join([*lines, "", f"An epoch is **{results['ratio']:.1f}** times faster."])
