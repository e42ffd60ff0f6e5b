"""The tables of `docs/background/kalman.md`, from `bench/results/<device>/kalman.json` alone."""

from __future__ import annotations

from typing import Any

from bench.common.pages import between, markdown

COUNTS, COSTS = "python -m bench.kalman --counts", "python -m bench.kalman --costs"


def counts_section(results: dict[str, Any]) -> str:
    """Iterations over decades of sigma^2, the fewest of a column in bold."""
    found = {(row["of"], row["form"], row["sigma2"]): row["iterations"] for row in results["counts"]}
    columns = [(of, form) for of in ("Newton", "QuasiNewton") for form in ("Filter", "Smoother")]
    decades = sorted({sigma2 for _, _, sigma2 in found if sigma2 is not None})
    least = {column: min(found[*column, sigma2] for sigma2 in decades) for column in columns}
    lines = [
        [f"{sigma2:.0e}".replace("e+0", "e"), *(_bold(found[*column, sigma2], least[column]) for column in columns)]
        for sigma2 in decades
    ]
    head = [r"\(\sigma^2\)", "filter", "smoother", "filter, diagonal", "smoother, diagonal"]
    plain = [f"`{of}()` takes {found[of, 'undamped', None]}" for of in ("Newton", "QuasiNewton")]
    return f"Undamped, {' and '.join(plain)}.\n\n{markdown(head, lines)}"


def _bold(number: int, least: int) -> str:
    return f"**{number}**" if number == least else str(number)


def costs_section(results: dict[str, Any]) -> str:
    """One iteration of each form, in milliseconds and in units of one of the undamped method."""
    machine = results["machine"]
    dense, diagonal = (
        _costs_of(of, [row for row in results["costs"] if row["of"] == of]) for of in ("Newton", "QuasiNewton")
    )
    return (
        f"Float32, {machine['cpu']}, {machine['threads']} thread, torch {machine['torch']}; CPU time of the process, "
        f"medians of {results['rounds']}, all methods in turns, milliseconds per iteration. Columns with a times sign "
        "are multiples of the undamped method, from explicit Jacobians and as compiled for the GRU (fused).\n\n"
        f"Dense:\n\n{dense}\nDiagonal:\n\n{diagonal}"
    )


def _costs_of(of: str, rows: list[dict[str, Any]]) -> str:
    head = ["problem", "D", "T", f"`{of}()`", "fused", "filter", "smoother", "filter, ×", "smoother, ×"]
    head += ["filter, × fused", "smoother, × fused"]
    lines = []
    for row in rows:
        ratios = [
            f"{row[f'{form}_ms'] / row[base]:.2f}" if base in row else ""
            for base in ("plain_ms", "fused_ms")
            for form in ("filter", "smoother")
        ]
        times = [
            f"{row[key]:.2f}" if key in row else "" for key in ("plain_ms", "fused_ms", "filter_ms", "smoother_ms")
        ]
        name = f"{row['problem']}, {'closed form' if row['problem'] == 'GRU' else '`torch.func`'}"
        lines.append([name, str(row["D"]), f"{row['T']:,}", *times, *ratios])
    return markdown(head, lines)


def page(text: str, results: dict[str, Any]) -> str:
    """The page with the tables of these results."""
    for command, key, section in (COUNTS, "counts", counts_section), (COSTS, "costs", costs_section):
        text = between(text, command, section(results)) if key in results else text
    return text
