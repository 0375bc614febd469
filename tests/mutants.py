"""Measure how many faults the tests notice, by package: `make mutants`.

mutmut writes copies of each function that differ in one place, and tries on each the quick tests
that call the function. Its results stay in `mutants/`: what was killed goes on where it was.
"""

import argparse
import difflib
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pandas as pd

from diffcore.stats import proportion

PACKAGES = ("prompts", "generation", "filtering", "mixing", "methods", "training", "stats", "store")
WANTED = 0.85  # share of mutants that the tests of a package are to notice
#: Of mutmut's codes: a test failed, could not be imported (2), or came to no end.
NOTICED = {1, 2, 3, -24, 24, 36, 152, 255}


def find_mutants(package: str) -> Iterator[dict[str, str]]:
    """Yield the mutants of a package: mutmut's name, the file, and the change with its line.

    They are known before mutmut has run, so that a sample can be drawn.
    """
    from mutmut.mutation.file_mutation import mutate_file_contents
    from mutmut.utils.format_utils import get_mutant_name

    folder = Path("diffcore", package)
    for path in sorted(folder.glob("*.py")) or [folder.with_suffix(".py")]:
        text = path.read_text(encoding="utf-8")
        mutated = mutate_file_contents(str(path), text)
        lines = re.sub(r"\bx(?:_|ǁ\w+ǁ)(\w+?)__mutmut_\w+\b", r"\1", mutated.code).splitlines()
        spans = mutated.line_span_by_function_name
        for name in mutated.mutant_names:
            whole = spans[name.rpartition("__mutmut_")[0] + "__mutmut_orig"], spans[name]
            before, after = (lines[span.start - 1 : span.end] for span in whole)
            change = _locate(before, after, text.splitlines())
            yield {"name": get_mutant_name(path, name), "path": str(path), "change": change}


def _locate(before: list[str], after: list[str], text: list[str]) -> str:
    """Tell where in the file's text a function was changed, and how."""
    first = next(line for line in range(len(text)) if text[line:][: len(before)] == before)
    matches = difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
    _, *old, start, end = next(match for match in matches if match[0] != "equal")
    marked = [f"-{line}" for line in before[slice(*old)]]
    marked += [f"+{line}" for line in after[start:end]]
    return "\n".join([str(first + old[0] + 1), *marked])


def read_codes(paths: Iterable[str]) -> dict[str, int | None]:
    """Read how mutmut's trial of each mutant ended, by name; of files that changed, nothing."""
    codes = {}
    for path in map(Path, paths):
        results = Path("mutants", f"{path}.meta")
        if results.exists() and results.stat().st_mtime > path.stat().st_mtime:
            codes |= json.loads(results.read_text(encoding="utf-8"))["exit_code_by_key"]
    return codes


def main() -> None:
    """Try the mutants, list those that no test notices, and print the score of each package."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--package", choices=["", *PACKAGES], default="", help="all by default")
    parser.add_argument("--sample", default="", help="mutants to try, shared among the packages")
    parser.add_argument("--processes", default="2", help="mutants to try at a time")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--again", action="store_true", help="also try those that no test noticed")
    asked = parser.parse_args()
    packages = [asked.package] if asked.package else PACKAGES
    known = {
        package: pd.DataFrame(find_mutants(package)).sample(frac=1, random_state=asked.seed)
        for package in packages
    }
    count = -(-int(asked.sample) // len(packages)) if asked.sample else None
    tried = pd.concat(table[:count].assign(package=package) for package, table in known.items())
    paths = tried["path"].unique()
    codes = tried["name"].map(read_codes(paths))
    left = tried.loc[~codes.isin(NOTICED) if asked.again else codes.isna(), "name"]
    if asked.again:  # which tests call what is found anew
        Path("mutants", "mutmut-stats.json").unlink(missing_ok=True)
    if len(left):
        mutmut = [sys.executable, "-m", "mutmut", "run", "--max-children", asked.processes]
        subprocess.run([*mutmut, *left], check=True)
    tried["noticed"] = tried["name"].map(read_codes(paths)).isin(NOTICED)
    for mutant in tried[~tried["noticed"]].sort_values("name").itertuples():
        print(f"\n{mutant.path}:{mutant.change}")
    short = []
    for package, mutants in tried.groupby("package", sort=False)["noticed"]:
        row = proportion(mutants)
        sampled = len(mutants) < len(known[package])
        interval = f", of all {row['low']:.0%} to {row['high']:.0%}" if sampled else ""
        print(f"{package}: {mutants.sum()} of {len(mutants)} noticed, {row['value']:.1%}{interval}")
        short += [package] * (row["high" if sampled else "value"] < WANTED)
    sys.exit(f"Below {WANTED:.0%}: {', '.join(short)}" if short else 0)


if __name__ == "__main__":
    main()
