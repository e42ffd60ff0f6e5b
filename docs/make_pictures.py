"""Draw the pictures of the guide: `python -m docs.make_pictures [NAME ...]` writes SVG for light and for dark.

Those of recipes and benchmarks are drawn by these. The names are the keys of `DRAWN`.
"""

import sys

import torch

from docs.drawing.curves import forms, window
from docs.drawing.lead import lead
from docs.drawing.maps import chaos, convergence
from docs.drawing.style import PICTURES, draw
from docs.drawing.trust import trust_region

DRAWN = {
    "lead": lead,
    "convergence": convergence,
    "chaos": chaos,
    "window": window,
    "forms": forms,
    "trust-region": trust_region,
}


def main(names: list[str]) -> None:
    """Those named, or all."""
    unknown = sorted(set(names) - set(DRAWN))
    if unknown:
        raise SystemExit(f"There is no picture {', '.join(unknown)}. Draw some of: {', '.join(DRAWN)}.")
    torch.set_num_threads(1)
    PICTURES.mkdir(exist_ok=True)
    for name in names or DRAWN:
        draw(name, DRAWN[name])


if __name__ == "__main__":
    main(sys.argv[1:])
