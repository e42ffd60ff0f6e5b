"""The section of `docs/background/auto.md` that `bench.auto` writes, from its JSON file alone."""

from __future__ import annotations

from typing import Any

from bench.common.pages import markdown

COMMAND = "python -m bench.auto"
STEPWISE, FIRST, KEPT = "step by step", "Auto, first", "Auto, kept"
BARS = {"best": 1.25, STEPWISE: 1.1}
"""What is asked for: never above these ratios, to the best fixed choice in hindsight and to step by step."""


def section(results: dict[str, Any]) -> str:
    """Hardware, and verdicts and tables for what `Auto` was built on and for what was held out."""
    machine, rows = results["machine"], list(results["rows"].values())
    wrong = sorted({row["problem"] for row in rows if {FIRST, KEPT} & set(row["wrong"])})
    text = (
        f"{machine['cpu']}, {machine['threads']} thread(s), torch {machine['torch']}. Made by `{COMMAND}`.\n\n"
        f"- Wrong answers: {', '.join(wrong) or 'none'}.\n"
    )
    chosen, others = ([row for row in rows if row.get("held_out", False) is held_out] for held_out in (False, True))
    text += _table(chosen)
    return text + "\n\nHeld out, nothing was chosen on these:\n\n" + _table(others) if others else text


def _table(rows: list[dict[str, Any]]) -> str:
    """Verdict and rows."""
    ratios = [ratios_of(row) for row in rows]
    head = ["problem", "step by step (ms)", "best fixed choice", "ms", "kept (ms)", "to best", "to steps", "first (ms)"]
    head += ["to best", "to steps"]
    lines = [line(row, ratio) for row, ratio in zip(rows, ratios, strict=True)]
    return "".join(_verdict(name, ratios) for name in (KEPT, FIRST)) + "\n" + markdown(head, lines)


def ratios_of(row: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Of both kinds of `Auto`, to the best fixed choice in hindsight and to step by step; empty where it was wrong."""
    ms = row["ms"]
    best = min(value for name, value in ms.items() if name not in (FIRST, KEPT))
    return {name: {"best": ms[name] / best, STEPWISE: ms[name] / ms[STEPWISE]} for name in (KEPT, FIRST) if name in ms}


def _verdict(name: str, ratios: list[dict[str, dict[str, float]]]) -> str:
    text = f"- **{name}**: "
    parts = []
    for to, words in ("best", "the best fixed choice in hindsight"), (STEPWISE, "step by step"):
        values = [ratio[name][to] for ratio in ratios if name in ratio]
        met = sum(value <= BARS[to] for value in values)
        verdict = "met" if met == len(ratios) else "missed"
        parts.append(f"at most {BARS[to]} times {words} on {met} of {len(ratios)} ({verdict}; worst {max(values):.2f})")
    return text + "; ".join(parts) + ".\n"


def line(row: dict[str, Any], ratio: dict[str, dict[str, float]]) -> list[str]:
    """One row of the table."""
    ms = row["ms"]
    best = min((name for name in ms if name not in (FIRST, KEPT)), key=lambda name: ms[name])
    cells = [row["problem"], f"{ms[STEPWISE]:.3g}", best, f"{ms[best]:.3g}"]
    for name in KEPT, FIRST:
        if name not in ms:
            cells += ["wrong", "", ""]
            continue
        values = [(ratio[name][to], BARS[to]) for to in ("best", STEPWISE)]
        cells += [f"{ms[name]:.3g}", *(f"{value:.2f}" if value <= bar else f"**{value:.2f}**" for value, bar in values)]
    return cells
