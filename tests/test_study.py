"""A study: its parts are made once and kept, and no model is loaded for what is already there."""

import json
import math
import shutil

import numpy as np
import pandas as pd
import pytest
from conftest import PROJECT
from PIL import Image

from diffcore.checks import CapabilityError
from diffcore.cli import main
from diffcore.filtering.encoders import Encoder
from diffcore.generation.pipelines import LazyPipeline
from diffcore.report.verify import verify
from diffcore.stats import reduction
from diffcore.study import FilterError, Study
from diffcore.sweeps import filter_conditions, plan_methods
from diffcore.training.networks import load_classifier

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder in which a small study has drawn, decided and trained."""
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        study = opened(folder, patch)
        study.train_classifiers(plan_methods(study, seeds=1))
    return folder


def opened(folder, patch, **overrides):
    """Open the smoke profile in a folder of its own."""
    shutil.copytree(PROJECT / "params", folder / "params", dirs_exist_ok=True)
    shutil.copy(PROJECT / "params" / "smoke.yaml", folder / "params" / "tiny.yaml")
    patch.chdir(folder)
    return Study.open("04_training", "tiny", overrides)


@pytest.fixture
def study(home, monkeypatch):
    """The same study opened once more, where no model may be loaded."""

    def refuse(*arguments):
        raise AssertionError("a model was loaded for what is already there")

    monkeypatch.setattr(LazyPipeline, "load", refuse)
    monkeypatch.setattr("diffcore.training.runs.build_classifier", refuse)
    return opened(home, monkeypatch)


def test_a_second_opening_finds_everything_without_a_model(study, monkeypatch):
    monkeypatch.setattr(Encoder, "_see", lambda *images: pytest.fail("an image is embedded again"))
    assert len(study.generated) == len(study.plan)
    assert set(study.decisions["source_id"]) <= set(study.train.metadata["source_id"])
    assert len(study.accepted) == study.decisions["accepted"].sum()
    runs = study.train_classifiers(plan_methods(study, seeds=1))
    assert (runs["seed"] == study.params.seed).all()
    weights, classes = runs["weights"].iloc[0], len(study.train.classes)
    assert not load_classifier(weights, study.params.training, classes).training


def test_accepted_images_are_paired_with_the_ones_they_were_drawn_for(study):
    pairs = study.pairs
    sources = study.train.metadata["source_id"].to_numpy()[pairs.source]
    np.testing.assert_array_equal(sources, study.accepted.metadata["source_id"])
    similarity, threshold = study.image_filter.similarity(study.accepted)
    assert (similarity >= threshold).all()


def test_every_way_of_filtering_stands_beside_what_is_wrong(study):
    kept, wrong = filter_conditions(study, study.generated)
    assert wrong.tolist() == study.judge()["wrong"].tolist()
    rules = ["source", "class_mean", "class_nearest", "class_first", "margin", "text"]
    assert list(kept) == ["no filter", "at random", *rules, "the oracle"]
    similarity, threshold = study.image_filter.similarity(study.generated)
    own = study.params.filtering.rule
    assert kept[own].tolist() == (similarity >= threshold).tolist()
    first = study.decisions["attempt"] == 0
    assert kept[own].tolist() == study.decisions.loc[first, "accepted"].tolist()


def test_another_threshold_is_decided_anew_on_the_same_images(study, home, monkeypatch):
    strict = opened(home, monkeypatch, **{"filtering.threshold": 1.0, "filtering.max_attempts": 0})
    assert not strict.decisions["accepted"].any()
    with pytest.raises(FilterError, match=r"accepted none of \d+ images: .*lower filtering.thresh"):
        strict.pairs  # noqa: B018
    assert study.decisions["accepted"].any()


def test_another_text_to_image_setting_has_decisions_of_its_own(study, home, monkeypatch):
    other = opened(home, monkeypatch, **{"generation.guidance_scale": 3.0})
    with pytest.raises(AssertionError, match="a model was loaded"):
        other.decisions  # noqa: B018


def test_what_a_study_cannot_know_is_refused_in_words(home, monkeypatch):
    drawn = home / "drawn" / "northern cardinal"
    drawn.mkdir(parents=True)
    Image.new("RGB", (64, 64)).save(drawn / "a.png")
    photos = {"generation.pipeline.kind": "import", "generation.pipeline.location": "drawn"}
    study = opened(home, monkeypatch, **photos)
    assert not study.has("truth")
    with pytest.raises(CapabilityError, match="it needs to know which generated images are wrong"):
        study.judge(None)
    with pytest.raises(CapabilityError, match="it needs a text-to-image model"):
        study._pipeline  # noqa: B018


# ----------------------------------------------------------------------------------------- results
def test_numbers_have_six_digits_and_times_lie_apart(study):
    study.report.record(rate=np.float32(1) / 3, nested={"a": [np.int64(2), True]}, name="x")
    study.report.record(more=1e-9 / 3)
    study.report.record_times(seconds=0.123456789)
    folder, table = study.report.report_dir, pd.DataFrame({"value": [1 / 3]})
    numbers = json.loads((folder / "metrics.json").read_text())
    expected = {"rate": 0.333333, "nested": {"a": [2, True]}, "name": "x", "more": 3.33333e-10}
    assert numbers == expected
    assert json.loads((folder / "times.json").read_text()) == {"seconds": 0.123457}
    study.report.table(table, "a")
    study.report.table(table, "b", times=True)
    assert (folder / "tables" / "a.csv").read_text() == "value\n0.333333\n"
    assert (folder / "times" / "b.csv").exists()


def test_an_interval_without_an_upper_end_is_saved_and_compared(study):
    row = reduction([True] * 9, [False] * 9)
    study.report.record(rarer=row)
    study.report.table(pd.DataFrame([row]), "rarer")
    text = (study.report.report_dir / "metrics.json").read_text()
    assert float(json.loads(text)["rarer"]["high"]) == math.inf
    assert "inf" in study.report.table(pd.DataFrame([row]), "rarer").to_html()
    folder = study.report.report_dir.parent
    assert set(verify(folder, folder)["status"]) == {"equal"}
    with pytest.raises(ValueError, match="gain is inf"):
        study.report.record(gain=math.inf)


# ------------------------------------------------------------------------------------ command line
def test_every_command_has_a_line(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    named = "study index publish verify tune estimate draw train"
    for name in named.split():
        assert any(line.split()[:1] == [name] for line in shown.splitlines()), name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["study", "--profile", "demmo"], "no profile 'demmo'; nearest: 'demo'"),
        (["study", "--set", "sead=3"], "unknown key sead (value 3); nearest valid key: seed"),
        (["study", "--notebook", "09_none"], "no notebook 09_none"),
        (["index", "--profile", "imagenet"], "no executed notebook"),
    ],
)
def test_a_mistake_is_message_in_a_line(arguments, message, capsys, study_folder):
    assert main(arguments) == 1
    assert message in capsys.readouterr().err
