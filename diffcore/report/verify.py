"""Compare two reports of a profile number by number: the fresh one, and the one that is committed.

Compared are ``metrics.json`` and ``tables/*.csv`` of all notebooks. Times, which no other run can
equal, lie in ``times.json`` and ``times/``, and are no part of it; nor are texts, which repeat the
numbers or name the machine.
"""

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from diffcore.params import UserError, project_root

EQUAL, WITHIN, DIFFERENT = "equal", "within tolerance", "different"
MISSING, NEW = "missing", "new"
_ROUNDING = 1e-6  # relative; numbers are saved with six digits
_NOTHING = 1e-9  # so small, numbers are zero but for rounding


def verify(fresh: Path, committed: Path, tolerance: float = 1e-3) -> pd.DataFrame:
    """Compare two folders with a folder a notebook: file, number, committed, fresh, status.

    The tolerance is the relative difference that the arithmetic of another machine may make.
    """
    return compare(dict(_read(fresh)), dict(_read(committed)), tolerance)


def compare(fresh: dict, committed: dict, tolerance: float = 1e-3) -> pd.DataFrame:
    """Compare numbers by (file, name), those of the committed report first."""
    rows = [(*key, committed.get(key), fresh.get(key)) for key in committed | fresh]
    table = pd.DataFrame(rows, columns=["file", "number", "committed", "fresh"])
    return table.assign(status=[_status(new, old, tolerance) for *_, old, new in rows])


def _status(fresh: float | None, committed: float | None, tolerance: float) -> str:
    if fresh is None or committed is None:
        return MISSING if fresh is None else NEW
    both_empty = math.isnan(fresh) and math.isnan(committed)
    if both_empty or math.isclose(fresh, committed, rel_tol=_ROUNDING, abs_tol=_NOTHING):
        return EQUAL
    return WITHIN if math.isclose(fresh, committed, rel_tol=tolerance) else DIFFERENT


def _read(folder: Path) -> Iterator[tuple[tuple[str, str], float]]:
    """Yield every number of a report: (file, its name in it), value."""
    for path in sorted([*folder.glob("[!.]*/metrics.json"), *folder.glob("[!.]*/tables/*.csv")]):
        if path.suffix == ".csv":
            records = pd.read_csv(path).to_dict("records")
            found = {f"row {place}": record for place, record in enumerate(records, 1)}
        else:
            found = json.loads(path.read_text(encoding="utf-8"))
        for name, value in numbers(found):
            yield (path.relative_to(folder).as_posix(), name), value


def numbers(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Yield the numbers in nested mappings and lists, each with its dotted name.

    >>> dict(numbers({"a": {"b": 1, "c": "text"}, "d": [2.5, True]}))
    {'a.b': 1.0, 'd.0': 2.5, 'd.1': 1.0}
    """
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            yield from numbers(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, int | float):
        yield name, float(value)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what is not equal; return 1 if a number is different or missing."""
    parser = argparse.ArgumentParser(prog="diffcore verify", description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="demo", help="whose reports are compared")
    parser.add_argument("--tolerance", type=float, default=1e-3, help="relative (%(default)s)")
    for name in ("fresh", "committed"):
        parser.add_argument(f"--{name}", type=Path, help="folder, in place of the profile's")
    given = parser.parse_args(arguments)
    root = project_root()
    fresh = given.fresh or root / "runs" / given.profile / "report"
    committed = given.committed or root / "reports" / given.profile
    for folder in (fresh, committed):
        if not any(folder.glob("*/metrics.json")):
            raise UserError(f"{folder} holds no numbers to compare; run `make study` first")
    found = verify(fresh, committed, given.tolerance)
    unequal = found[found["status"] != EQUAL]
    if len(unequal):
        print(unequal.to_string(index=False))
    counts = found["status"].value_counts()
    print(", ".join(f"{counts.get(s, 0)} {s}" for s in (EQUAL, WITHIN, DIFFERENT, MISSING, NEW)))
    return int(not len(found) or unequal["status"].isin([DIFFERENT, MISSING]).any())
