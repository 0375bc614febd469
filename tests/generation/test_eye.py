"""Labels by eye: images by chance, sheets without a verdict, agreement counted by hand."""

import numpy as np
import pandas as pd
import pytest

from diffcore.params import load_params
from paperbirds.pretrain import labels as eye

MADE = pd.DataFrame({
    "sample_id": ["s0", "s1", "s2", "s3"], "model_hash": "abc", "guidance_scale": 2.0,
    "num_inference_steps": 12,
})  # fmt: skip


@pytest.fixture
def labels_file(tmp_path, monkeypatch):
    path = tmp_path / "demo.csv"
    monkeypatch.setattr(eye, "labels_path", lambda profile: path)
    return path


def test_sheets_show_every_image_once_in_order():
    images = np.arange(70, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 3), np.uint8)
    sheets = eye.contact_sheets(images, [str(n) for n in range(70)])
    shown = [ax for sheet in sheets for ax in sheet.axes if ax.images]
    assert [len(sheet.axes) for sheet in sheets] == [60, 10]
    assert [ax.images[0].get_array()[0, 0, 0] for ax in shown] == [*range(70)]
    assert [ax.get_xlabel() for ax in shown] == [str(n) for n in range(70)]


def test_labels_count_for_the_images_of_one_model_and_setting(labels_file):
    assert eye.read_labels("demo", MADE).empty  # none are given yet
    rows = MADE.iloc[[2, 0, 3]].assign(number=[1, 2, 3], species=["blue jay", "", "indigo bunting"],
                                       whole=[1, 0, 0])  # fmt: skip
    rows.to_csv(labels_file, index=False)
    found = eye.read_labels("demo", MADE)
    assert found["place"].tolist() == [2, 0, 3]
    assert found["species"].tolist() == ["blue jay", "", "indigo bunting"]
    assert found["whole"].tolist() == [True, False, False]
    assert eye.read_labels("demo", MADE.assign(guidance_scale=3.0)).empty
    assert eye.read_labels("demo", MADE.assign(model_hash="other")).empty


@pytest.mark.parametrize("wrong", [{"species": "dodo"}, {"whole": 2}])
def test_what_is_no_label_is_named_by_its_line(labels_file, wrong):
    rows = MADE.iloc[:3].assign(species="blue jay", whole=1)
    for name, value in wrong.items():
        rows.loc[1, name] = value
    rows.to_csv(labels_file, index=False)
    with pytest.raises(eye.LabelsError, match=r"demo\.csv, line 3: species must be one of"):
        eye.read_labels("demo", MADE)


def test_agreement_is_counted_by_question_and_by_what_the_eye_sees():
    labels = pd.DataFrame({
        "place": [0, 1, 2, 3, 4], "species": ["jay", "jay", "wren", "", "jay"],
        "whole": [True, True, True, False, False],
    })  # fmt: skip
    truth = pd.DataFrame({
        "class_name": "jay", "seen_species": ["jay", "wren", "wren", "jay", "jay"],
        "wellformed": [True, True, True, False, True],
    })  # fmt: skip
    found = eye.agreement(labels, truth, 0.95).set_index(["question", "seen"])
    shares = found["value"].to_dict()
    assert shares == pytest.approx({
        ("species", "a bird"): 3 / 4, ("one whole bird", "all"): 4 / 5, ("both", "all"): 3 / 5,
        ("both", "the bird that was asked for"): 1 / 2, ("both", "another species"): 1,
        ("both", "malformed"): 0, ("both", "no bird"): 1,
    })  # fmt: skip
    assert found["n"].tolist() == [4, 5, 5, 2, 1, 1, 1]


def test_the_labels_that_are_committed_are_legal_and_of_many_images():
    table = pd.read_csv(eye.labels_path("demo"), dtype={"species": str})
    made = table[["sample_id", "model_hash", "guidance_scale", "num_inference_steps"]]
    assert len(eye.read_labels("demo", made.drop_duplicates())) == len(table) >= 300
    generation = load_params("demo").generation
    assert set(table["guidance_scale"]) == {generation.guidance_scale}
    assert set(table["num_inference_steps"]) == {generation.num_inference_steps}
