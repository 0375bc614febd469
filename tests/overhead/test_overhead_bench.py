"""The benchmark: its ways do the same work, and its report can be read."""

import json

import numpy as np
import pytest

from diffcore.filtering.encoders import load_encoder
from diffcore.overhead import bench
from diffcore.params import load_params


def test_the_two_ways_of_filtering_find_the_same():
    encoder = load_encoder(load_params("smoke").filtering.encoder)
    real, drawn = bench.make_renders("train", 0.6, 12), bench.make_renders("test_shifted", 0.0, 15)
    assert real["class_name"].nunique() == 12
    at_once = bench.filter_at_once(encoder, drawn, real)
    one_by_one = bench.filter_one_by_one(encoder, drawn, real)
    np.testing.assert_allclose(at_once, one_by_one, atol=1e-5)


@pytest.mark.slow
def test_the_report_holds_ratios_of_one_run(tmp_path, capsys):
    path = tmp_path / "new" / "bench.json"
    assert bench.main(["--profile", "smoke", "--images", "4", "--out", str(path)]) == 0
    measured = json.loads(path.read_text())
    assert (measured["images"], measured["filtered_images"]) == (4, 12)
    assert measured["batch_size"] == load_params("smoke").generation.batch_size
    speedup = measured["seconds_per_image_one_by_one"] / measured["seconds_per_image"]
    assert measured["batching_speedup"] == pytest.approx(speedup)
    assert 0 < measured["model_time_share"] < 1
    assert measured["filter_speedup_again"] > 1
    ratio = measured["patch_mix_ms"] / measured["cutmix_ms"]
    assert measured["patch_mix_vs_cutmix"] == pytest.approx(ratio)
    assert "batching_speedup" in capsys.readouterr().out
