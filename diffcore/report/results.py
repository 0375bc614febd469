"""Where the results of one notebook go: figures, tables, numbers, and what they rest on.

Times, which no other run can equal, are kept apart in ``times.json`` and ``times/``.
"""

import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from IPython import display
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler
from PIL import Image

from diffcore.params import SAVED, StudyParams, dump_params
from diffcore.store import write_bytes, write_text, written_whole

_DIGITS = 6  # of a saved number: more would differ between machines


class Report:
    """The folder of one notebook's results."""

    def __init__(self, report_dir: Path):
        self.report_dir = report_dir
        self._numbers: dict[str, dict[str, Any]] = {"metrics": {}, "times": {}}

    def begin(self, params: StudyParams, versions: Mapping[str, Any]) -> None:
        """Print and save the parameters and versions that all results rest on."""
        settings = dump_params(params)
        write_text(self.report_dir / SAVED, settings)
        write_text(self.report_dir / "versions.json", json.dumps(versions, indent=2) + "\n")
        lines = [f"{name}: {value}" for name, value in versions.items() if name != "packages"]
        packages = [f"{name} {version}" for name, version in versions["packages"].items()]
        print(*lines, ", ".join(packages), "", settings, sep="\n", end="")

    def show(self, fig: Figure, name: str) -> None:
        """Save a figure as PNG, and as SVG unless it holds images, and show it."""
        folder, holds_images = self.report_dir / "figures", any(ax.images for ax in fig.axes)
        if not holds_images:
            # No date and a fixed salt for its ids: an SVG changes only if the figure does.
            svg = folder / f"{name}.svg"
            with plt.rc_context({"svg.hashsalt": name}), written_whole(svg) as at:
                fig.savefig(at, format="svg", bbox_inches="tight", metadata={"Date": None})
        drawn = io.BytesIO()
        fig.savefig(drawn, format="png", bbox_inches="tight", dpi=110)
        png = _in_256_colours(Image.open(drawn).convert("RGB"), holds_images)
        write_bytes(folder / f"{name}.png", png)
        plt.close(fig)  # else the notebook would show it once more
        metadata = {"figure": name, "alt": f"Figure {name}"}  # a page links the file by its name
        display.display(display.Image(png, metadata=metadata))

    def table(
        self, table: pd.DataFrame, name: str, precision: int = 3, times: bool = False
    ) -> Styler:
        """Save a table, of measured times or not, as CSV with six digits; return it to be shown."""
        path = self.report_dir / ("times" if times else "tables") / f"{name}.csv"
        write_text(path, table.to_csv(index=False, float_format=f"%.{_DIGITS}g"))
        return table.style.format(precision=precision, na_rep="").hide(axis="index")

    def record(self, **numbers: Any) -> None:
        """Add numbers, texts, mappings or lists to ``metrics.json``.

        ValueError for an infinite number; only an upper end ("high") may be: as the text "inf".
        """
        self._save("metrics", numbers)

    def record_times(self, **numbers: Any) -> None:
        """Add measured times, or what follows from them, to ``times.json``."""
        self._save("times", numbers)

    def _save(self, kind: str, numbers: Mapping[str, Any]) -> None:
        self._numbers[kind] |= {name: _plain(value, name) for name, value in numbers.items()}
        text = json.dumps(self._numbers[kind], indent=2, sort_keys=True, allow_nan=False)
        write_text(self.report_dir / f"{kind}.json", text + "\n")


def _plain(value: Any, name: str) -> Any:
    """Turn numpy's and torch's numbers into Python's, rounded to six digits."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{name}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{name}[{place}]") for place, item in enumerate(value)]
    if isinstance(value, float):
        if value == math.inf and name.endswith("high"):
            return "inf"
        if not math.isfinite(value):
            raise ValueError(f"{name} is {value}; a recorded number must be finite")
        return float(f"{value:.{_DIGITS}g}")
    return value


def _in_256_colours(picture: Image.Image, dithered: bool) -> bytes:
    """Compress to a PNG with a palette of 256 colours: it looks the same in half the bytes."""
    slim, file = picture.quantize(256, kmeans=1), io.BytesIO()
    if dithered:  # else a sky would show bands; but the paper stays white
        paper, plain = picture.convert("L").point(lambda grey: 255 * (grey == 255)), slim
        slim = picture.quantize(palette=plain)
        slim.paste(plain, mask=paper)
    slim.save(file, "PNG", optimize=True)
    return file.getvalue()
