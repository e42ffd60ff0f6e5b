"""The tables of `docs/background/kalman.md`, from `bench/results/<device>/kalman.json` alone."""

from __future__ import annotations

from typing import Any

from bench.pages import markdown

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


HEAD = [
    "problem",
    "D",
    "T",
    "`Newton()`, ms",
    "filter, ms",
    "filter",
    "smoother",
    "`QuasiNewton()`, ms",
    "filter, diagonal",
    "smoother, diagonal",
]


def costs_section(results: dict[str, Any]) -> str:
    """One iteration of each form, in units of one of the undamped method, and milliseconds of what these are."""
    machine, rows = results["machine"], results["costs"]
    pairs = [(row, other) for row in rows for other in rows if row["of"] == "Newton" and _same(row, other)]
    lines = [
        [
            f"{row['problem']}, {'closed form' if row['problem'] == 'GRU' else '`torch.func`'}",
            str(row["D"]),
            f"{row['T']:,}",
            f"{row['plain_ms']:.1f}",
            f"{row['filter_ms']:.1f}",
            f"{row['filter_ratio']:.2f}",
            f"{row['smoother_ratio']:.2f}",
            f"{other['plain_ms']:.1f}",
            f"{other['filter_ratio']:.2f}",
            f"{other['smoother_ratio']:.2f}",
        ]
        for row, other in pairs
    ]
    return (
        f"Float32, {machine['cpu']}, {machine['threads']} thread, torch {machine['torch']}; CPU time of the process, "
        f"medians of {results['rounds']}, all methods in turns. Columns without a unit are multiples of one iteration "
        f"of the undamped method beside them.\n\n{markdown(HEAD, lines)}"
    )


def _same(row: dict[str, Any], other: dict[str, Any]) -> bool:
    """The other row is that of the diagonal method on the same problem."""
    return other["of"] == "QuasiNewton" and all(row[key] == other[key] for key in ("problem", "D", "T"))
