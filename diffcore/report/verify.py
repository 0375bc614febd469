"""Compare two reports of a profile number by number: the fresh one with the committed one.

``metrics.json`` and ``tables/*.csv`` of all notebooks are compared. Left out are ``times.json`` and
``times/``, which no other run can equal, and texts, which repeat the numbers or name the machine.
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from diffcore.params import UserError, project_root

EQUAL, WITHIN, DIFFERENT = "equal", "within tolerance", "different"
MISSING, NEW = "missing", "new"
_TOLERANCE = 1e-3  # relative difference that the arithmetic of another machine may make
_ROUNDING = 1e-6  # relative; numbers are saved with six digits
_NOTHING = 1e-9  # smaller numbers are zero but for rounding


def verify(fresh: Path, committed: Path) -> pd.DataFrame:
    """Compare the numbers of two folders of reports: file, number, committed, fresh, status."""
    return compare(_read(fresh), _read(committed))


def compare(fresh: dict, committed: dict) -> pd.DataFrame:
    """Compare numbers by (file, name), those of the committed report first."""
    rows = [(*key, committed.get(key), fresh.get(key)) for key in committed | fresh]
    table = pd.DataFrame(rows, columns=["file", "number", "committed", "fresh"])
    return table.assign(status=[_status(new, old) for *_, old, new in rows])


def _status(fresh: float | None, committed: float | None) -> str:
    if fresh is None or committed is None:
        return MISSING if fresh is None else NEW
    both_empty = math.isnan(fresh) and math.isnan(committed)
    if both_empty or math.isclose(fresh, committed, rel_tol=_ROUNDING, abs_tol=_NOTHING):
        return EQUAL
    return WITHIN if math.isclose(fresh, committed, rel_tol=_TOLERANCE) else DIFFERENT


def _read(folder: Path) -> dict[tuple[str, str], float]:
    """Read every number of a report, by its file and its name in it."""
    recorded = {}
    files = {
        path: json.loads(path.read_text("utf-8")) for path in folder.glob("[!.]*/metrics.json")
    }
    for path in folder.glob("[!.]*/tables/*.csv"):
        records = pd.read_csv(path).to_dict("records")
        files[path] = {f"row {place}": record for place, record in enumerate(records, 1)}
    for path, values in sorted(files.items()):
        file = path.relative_to(folder).as_posix()
        recorded |= {(file, name): value for name, value in numbers(values)}
    if not recorded:
        raise UserError(f"{folder} holds no numbers to compare; run `make study` first")
    return recorded


def numbers(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Yield the numbers in nested mappings and lists, each with its dotted name: ``a.0.b``."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            yield from numbers(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, int | float):
        yield name, float(value)


def verify_profile(profile: str) -> int:
    """Print what is not equal in a profile's reports; return 1 for what is different or missing."""
    root, name = project_root(), Path(profile).stem
    table = verify(root / "runs" / name / "report", root / "reports" / name)
    unequal = table[table["status"] != EQUAL]
    if len(unequal):
        print(unequal.to_string(index=False))
    counts = table["status"].value_counts()
    print(", ".join(f"{counts.get(s, 0)} {s}" for s in (EQUAL, WITHIN, DIFFERENT, MISSING, NEW)))
    return int(unequal["status"].isin([DIFFERENT, MISSING]).any())
