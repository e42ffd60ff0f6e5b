"""Every Triton kernel compiled for GPUs that are not here: `python -m bench.registers`.

Registers, shared memory and spills are read from the binaries, for compute capability 90 (H100, H200), 80 (A100) and
100 (B200), at each dtype and padded width that the library offers. Triton brings its own assembler, so no GPU is
needed. What is compiled is written at once to `bench/results/registers.json`, and at the end into
`docs/background/kernels.md`; a run that was cut off is gone on with, unless a kernel has changed.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.common.pages import between, keep
from bench.registers.page import COMMAND, section
from bench.registers.targets import TARGETS
from recipes.files import write

RESULTS = Path("bench/results/registers.json")
PAGE = Path("docs/background/kernels.md")
KERNELS = Path(__file__).parents[2] / "lds_iter/kernels/triton"


def digest() -> str:
    """Of the kernels' source."""
    text = "".join(file.read_text() for file in sorted(KERNELS.rglob("*.py")))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def main(
    target: Annotated[int, typer.Option(help="A compute capability; all of them when 0.")] = 0,
    only: Annotated[str, typer.Option(help="Launches whose names contain this.")] = "",
    out: Annotated[Path | None, typer.Option(help="The folder to write to, not the repository.")] = None,
) -> None:
    """Compile, keep, and write the page."""
    os.environ.pop("TRITON_INTERPRET", None)
    import triton  # pyright: ignore[reportMissingImports]

    from bench.registers.compiling import compiled
    from bench.registers.launches import launches

    file, page = (RESULTS, PAGE) if out is None else (out / "registers.json", out / "kernels.md")
    offered, kept = launches(), _kept(file)
    kept |= {"triton": triton.__version__, "offered": len(offered)}
    for one in [target] if target else TARGETS:
        seen: set[str] = set()
        for label, launch in offered.items():
            found = kept["launches"].setdefault(label, {})
            if only in label and str(one) not in found:
                found[str(one)] = compiled(launch, one, seen)
                keep(kept, file)
                print(one, label, *(_words(row) for row in found[str(one)]), sep="; ", flush=True)
    kept["launches"] = {label: of for label, of in kept["launches"].items() if of}
    keep(kept, file)
    write(page, between(PAGE.read_text(), COMMAND, section(kept)))


def _kept(file: Path) -> dict[str, Any]:
    """What a former run has compiled of the same kernels."""
    kept = json.loads(file.read_text()) if file.exists() else {}
    return kept if kept.get("source") == digest() else {"source": digest(), "launches": {}}


def _words(row: dict[str, Any]) -> str:
    return f"{row['kernel']} {row['registers']} registers, {row['shared']} bytes shared, {row['spilled']} spilled"


if __name__ == "__main__":
    typer.run(main)
