"""What the page says of it: see `python -m bench.generation`."""

from __future__ import annotations

from typing import Any

from bench.common.pages import markdown

PROSE = """# Generating from a recurrent-depth model

The model of [the recipe](../recipes/recurrent_depth.md), {prompts} held-out prompts of {length} characters, {count}
characters each, R = {depth} steps of the core for each character, greedy. Measured by `python -m bench.generation`;
torch {torch}, Python {python}, {cpu}, {threads} thread.

*Same text* is how many of the prompts got the text of the loop to the last character, and the fewest characters that
agreed. *Steps* are calls of the core one after the other, {loop} in the loop; *fewer calls* counts those of prelude and
coda too. *Work* is characters through the core, in units of the loop's. Prompts are read alike by all ways and not
counted. In *one batch* all prompts go side by side, in the loop as well, and each at its own pace: the steps are those
of the slowest text, and the work is that of all of them.
"""


def page(results: dict[str, Any]) -> str:
    """The documentation page, from the content of the JSON file alone."""
    head = ["way", "prompts", "same text", "steps", "fewer calls", "work"]
    timed = results["rounds"] > 0
    facts = {key: results[key] for key in ("torch", "python", "cpu", "threads", "prompts", "count", "depth", "length")}
    text = PROSE.format(**facts, loop=results["count"] * results["depth"])
    lines = [_cells(row, results["count"], timed) for row in results["rows"]]
    if timed:
        head.append("characters/s: ours / loop")
    return text + "\n" + markdown(head, lines) + ("" if timed else "\nCounts only: times need an idle machine.\n")


def _cells(row: dict[str, Any], count: int, timed: bool) -> list[str]:
    same = sum(agree == count for agree in row["agree"])
    cells = [row["way"], str(row["prompts"]), f"{same} of {row['prompts']}, least {min(row['agree'])}"]
    cells += [f"{min(row['steps'])} to {max(row['steps'])}"]
    cells += [f"{min(row[name]):.1f} to {max(row[name]):.1f}" for name in ("fewer_calls", "work")]
    if timed:
        speed = row["tokens_per_second"]
        cells.append(f"{speed['ours']:.0f} / {speed['loop']:.0f}" + ("" if speed["same"] else " (other text)"))
    return cells
