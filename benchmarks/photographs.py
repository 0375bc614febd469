"""What the filter finds on photographs: planted wrong images, by set, encoder and rule.

No model draws here: other photographs are substitutes for generated images, and one in ten shows
another class (`diffcore.generation.substitutes`). Our choice: each seed draws training photographs,
substitutes and wrong ones anew, so that no row rests on one draw. `photographs.yaml` lists sets and
encoders.
"""

import argparse
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import yaml

from diffcore import stats
from diffcore.filtering.rules import hard_filter
from diffcore.measure import filter as evaluate
from diffcore.params import UserError, load_params, project_root
from diffcore.store import write_text
from diffcore.study import Study

_BESIDE = Path(__file__)


def score(study: Study) -> pd.DataFrame:
    """Decide on a study's images by all rules: rule, source_id, similarity, rejected, wrong."""
    image_filter, real = study.image_filter, study.image_filter.reference
    texts = evaluate.class_texts(image_filter.encoder, study.prompt_set, study.train.classes)
    limits = evaluate.thresholds(real, texts, study.params.filtering.quantile)
    drawn = image_filter.embed(study.generated)
    known = drawn[["source_id"]].assign(wrong=study.judge()["wrong"].to_numpy())
    scores = evaluate.similarities(drawn, real, texts)
    return pd.concat(
        known.assign(rule=rule, similarity=values, rejected=~hard_filter(values, limits[rule]))
        for rule, values in scores.items()
    )


def summarise(decided: pd.DataFrame) -> pd.DataFrame:
    """Sum up `score` of several seeds, one row per rule, with intervals.

    That of AUC is over source images, each with all that stands in for it in any seed; those of
    recall, precision and the share rejected are over seeds and source images at once.
    """
    rows = []
    for rule, table in decided.groupby("rule", sort=False):
        similarity, wrong = table["similarity"].to_numpy(), table["wrong"].to_numpy()
        area = evaluate.auc_table({rule: similarity}, wrong, 0, table["source_id"])
        row = {"rule": rule, "images": len(table), "wrong": int(wrong.sum())}
        row |= stats.flatten("auc", area.iloc[0])
        rejected = table["rejected"]
        row |= stats.flatten("recall", _share(table[wrong], "rejected"))
        row |= stats.flatten("precision", _share(table[rejected], "wrong"))
        row |= stats.flatten("rejected", _share(table, "rejected"))
        rows.append(row)
    return pd.DataFrame(rows)


def _share(table: pd.DataFrame, column: str) -> stats.Row:
    """Share of True, with an interval over seeds and sources; Wilson's where there is one each."""
    factors = table["seed"], table["source_id"]
    if max(factor.nunique() for factor in factors) < 2:
        return stats.proportion(table[column])
    found = stats.crossed(table[column], *factors)
    return found | {"low": max(0.0, found["low"]), "high": min(1.0, found["high"])}


def measure(
    spec: Mapping[str, Any], encoder: Mapping[str, Any], seeds: int, data: Path, run_dir: Path
) -> pd.DataFrame:
    """Measure a set by an encoder: `summarise`, with the set's size; UserError if it is absent."""
    if not (root := data / spec["overrides"]["data.root"]).is_dir():
        raise UserError(f"{root} is not there; docs/photographs.md says where it is from")
    changes = {**spec["overrides"], "data.root": str(root), "filtering.encoder": dict(encoder)}
    tables = []
    for seed in range(seeds):
        study = Study(load_params(spec["profile"], changes | {"seed": seed}), run_dir, run_dir)
        tables.append(score(study).assign(seed=seed))
    train, side = study.train, study.params.data.image_size
    sizes = {"pixels": side, "classes": len(train.classes), "references": len(train)}
    return summarise(pd.concat(tables)).assign(seeds=seeds, **sizes)


def page(table: pd.DataFrame, sets: Mapping[str, Any]) -> str:
    """Write docs/photographs.md from the table of all rows."""
    template = _BESIDE.with_suffix(".md.j2").read_text(encoding="utf-8")
    made = jinja2.Template(template, trim_blocks=True, keep_trailing_newline=True)
    return made.render(table=table, sets=sets)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what the filter finds on photographs; write docs/photographs.md and a CSV."""
    listed = yaml.safe_load(_BESIDE.with_suffix(".yaml").read_text(encoding="utf-8"))
    sets, encoders = listed["sets"], listed["encoders"]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.photographs", description=main.__doc__
    )
    parser.add_argument("sets", nargs="*", help=f"of {', '.join(sets)}; all if none is given")
    parser.add_argument("--encoder", action="append", choices=encoders, help="only this one")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="holds the sets")
    parser.add_argument("--seeds", type=int, default=10, help="draws of errors (%(default)s)")
    options, root, tables = parser.parse_args(arguments), project_root(), []
    for name, encoder in product(options.sets or sets, options.encoder or encoders):
        folder = root / "runs" / "photographs" / name
        table = measure(sets[name], encoders[encoder], options.seeds, options.data, folder)
        tables.append(pd.concat({(name, encoder): table}, names=["set", "encoder"]))
    table = pd.concat(tables).reset_index(["set", "encoder"]).round(4)
    csv = root / "reports" / "photographs" / "filter.csv"
    print(write_text(csv, table.to_csv(index=False)))
    print(write_text(root / "docs" / "photographs.md", page(table, sets)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
