"""A threshold to move on a page, without a kernel or a network: scores and a small script."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import jinja2
import numpy as np
from IPython.display import HTML
from matplotlib.colors import to_hex

from diffcore.figures import style

_TEMPLATE = Path(__file__).with_name("slider.html.j2")
_COLOURS = (0, 3, 1, 2, 4)  # of the palette: right images, then each kind of wrong ones


def threshold_slider(
    scores: Mapping[str, np.ndarray], limits: Mapping[str, float], faults: Sequence[str], rule: str
) -> HTML:
    """A slider over the similarities of N images by each rule, and what it makes of them.

    Args:
        scores: rule -> similarities (N,), each with its own threshold in `limits`.
        faults: what is wrong with each image, "" for nothing.
        rule: the one that is shown first.
    """
    kinds = ["", *sorted(set(faults) - {""})]
    data = {
        "rules": [
            {"name": name, "limit": round(limits[name], 5), "scores": np.round(v, 5).tolist()}
            for name, v in scores.items()
        ],
        "faults": [kinds.index(fault) for fault in faults],
        "kinds": ["right", *kinds[1:]],
        "colours": [to_hex(style.PALETTE[place]) for place in _COLOURS],
        "rule": rule,
    }
    template = jinja2.Template(_TEMPLATE.read_text(encoding="utf-8"), trim_blocks=True)
    # "</" could end the script that holds it.
    return HTML(template.render(data=json.dumps(data, separators=(",", ":")).replace("</", "<\\/")))
