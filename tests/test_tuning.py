"""Tuning: equal effort for all, on training images alone, and the profile holds what won."""

import numpy as np
import pandas as pd
import pytest
from conftest import PROJECT
from test_training_study import materials, params  # noqa: F401 fixtures

from diffcore import tuning
from diffcore.methods import METHODS
from diffcore.params import change_params, load_params


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_four_legal_candidates(method):
    demo = load_params("demo")
    changed = [repr(change_params(demo, changes)) for changes in tuning.candidates(method)]
    assert len(set(changed)) == len(changed) == 4


def test_folds_hold_out_images_with_their_counterparts(materials):  # noqa: F811
    corpora = tuning.folds(materials, materials.accepted)
    assert len(corpora) == 2
    held = np.concatenate([corpus.tests["validation"].ids for corpus in corpora])
    assert sorted(held) == sorted(materials.train.ids)
    for corpus in corpora:
        assert list(corpus.tests) == ["validation"]
        assert len(corpus.data) == 3
        assert len(corpus.data.source) == 9  # three for each that is left
        assert np.bincount(corpus.tests["validation"].labels).tolist() == [1, 1, 1]
        own = {int(p[0, 0, 0]) for p in corpus.data.generated}
        place = {name: i for i, name in enumerate(materials.train.ids)}
        out = {place[name] for name in corpus.tests["validation"].ids}
        assert not own & {100 + 3 * i + copy for i in out for copy in range(3)}


def test_the_best_candidate_is_marked(materials, tmp_path, monkeypatch):  # noqa: F811
    scores = iter([[0.5, 0.7], [0.8, 0.6], [0.9, 0.5], [0.1, 0.1]])
    monkeypatch.setattr(tuning, "_score", lambda *_: np.array(next(scores)))
    table = tuning.tune(materials, ["mixup"], tmp_path)
    assert table["accuracy"].tolist() == pytest.approx([0.6, 0.7, 0.7, 0.1])
    assert table["chosen"].tolist() == [False, True, False, False]  # of two, the first
    assert table["sem"][0] == pytest.approx(0.1)


def test_the_demo_uses_what_was_chosen():
    table = pd.read_csv(PROJECT / "params" / "tuning" / "demo.csv")
    assert set(table["method"]) == set(METHODS)
    demo = load_params("demo")
    for text in table.loc[table["chosen"], "candidate"]:
        changes = {key: float(value) for key, value in (c.split("=") for c in text.split(", "))}
        assert change_params(demo, changes) == demo, text
