"""What a profile will need: counts against published numbers, sums by hand."""

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from diffcore.data.published import PUBLISHED
from diffcore.measure import estimate
from diffcore.params import ParamsError, TrainingParams, load_params

#: That of all seven profiles, so that it is counted once.
SDXL = load_params("cub200").generation.pipeline.location


@pytest.mark.slow
def test_sdxl_has_the_published_weights_and_operations():
    # UNet 2.567 billion; autoencoder 83.65 million; text encoders 123.06 and 694.66 million: the
    # numbers that the weights' files on the hub hold.
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(estimate.SDXL["unet"]).num_parameters()
        vae = AutoencoderKL.from_config(estimate.SDXL["vae"]).num_parameters()
    assert (unet, vae) == (pytest.approx(2.567e9, rel=0.001), pytest.approx(83.65e6, rel=0.001))
    assert pytest.approx(unet + vae + 123.06e6 + 694.66e6, rel=0.001) == estimate.SDXL_WEIGHTS
    # 2.98 tera multiplications and additions at 1024 x 1024 are often quoted, without attention's.
    small, large = (estimate.image_flops(SDXL, side)["denoise"] for side in (512, 1024))
    assert 2 * 2.98e12 < large < 1.2 * 2 * 2.98e12
    assert 4 * small < large < 4.4 * small  # attention grows faster than pixels


def test_resnet50_has_the_published_operations():
    flops, weights = estimate.training_flops(TrainingParams(), 1000, 224)
    assert flops / 3 == pytest.approx(2 * 4.09e9, rel=0.02)  # 4.09 billion multiplications
    assert weights == 25_557_032


def test_a_complete_set_has_the_published_size():
    for name, published in PUBLISHED.items():
        limits = {f"data.{part}_images_per_class": None for part in ("train", "test")}
        size = estimate.data_size(load_params(name, {"data.root": "nowhere", **limits}))
        assert (size.train + size.test, size.classes) == (published.images, published.classes)
        assert size.test > 0


def test_limits_cut_a_set_and_what_is_there_is_counted(photographs):
    changes = {"data.train_images_per_class": 5, "data.root": "nowhere"}
    assert estimate.data_size(load_params("cub200", changes))[0] == 1000
    root = str(photographs / "tiny-imagenet-10")
    assert estimate.data_size(load_params("photos", {"data.root": root})) == (100, 200, 10, 96, 0.0)
    changes = {"data.dataset": "folder", "data.root": "no/where"}
    with pytest.raises(ParamsError, match="no/where"):
        estimate.data_size(load_params("photos", changes))


@pytest.mark.slow
def test_an_estimate_is_the_sum_of_its_parts():
    changes = {"data.image_size": 512, "training.model": "resnet18"}
    params = load_params("cub200", {"data.root": "nowhere", **changes})
    found = estimate.estimate(params, tflops=100.0, draw_share=0.5, train_share=0.25)
    image = estimate.image_flops(SDXL, 512)
    # Guidance: two calls a step; of an edit 0.6 of the 50 steps are run.
    assert (found["generated"], found["edited"]) == (1798, 5994)
    drawn = (1798 * 50 + 5994 * 30) * 2 * image["denoise"] + 7792 * image["decode"]
    drawn += 5994 * image["encode"]
    assert found["hours to draw"] == pytest.approx(drawn / 50e12 / 3600)
    assert found["trainings"] == 9 * 5
    one, weights = estimate.training_flops(params.training, 200, 512)
    trained = 45 * (128 * 5994 * one + 5794 * one / 3)
    assert found["hours to train"] == pytest.approx(trained / 25e12 / 3600, rel=0.01)
    disk = 2 * estimate.SDXL_WEIGHTS + 1.2e9 + 7792 * 512 * 512 * 1.5 + 48 * 4 * weights
    disk += (5994 + 5794 + 7792) * 512 * 512 * 3  # decoded once, and kept
    assert found["GB of disk"] == pytest.approx(disk / 1e9)


@pytest.mark.slow
def test_what_is_not_drawn_costs_nothing():
    substitutes = estimate.estimate(load_params("photos", {"data.root": "nowhere"}))
    assert substitutes["edited"] == 0 < substitutes["generated"]
    assert substitutes["hours to draw"] == 0
    params = load_params("demo"), load_params("demo", {"generation.guidance_scale": 1.0})
    guided, unguided = (estimate.drawing_flops(each, 100, 0, 64) for each in params)
    own, sdxl = (
        estimate.image_flops(spec, 64)["denoise"]
        for spec in (params[0].generation.pipeline.location, SDXL)
    )
    assert guided - unguided == 100 * 12 * own
    assert own < sdxl / 10  # it is counted from its own files


def test_the_table_is_markdown(capsys):
    assert estimate.main(["--profile", "smoke", "--markdown", "--set", "runs.seeds=2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == "| smoke | 24 | 48 | 12 | 12 | 24 | 22 | 0.01 | 0.01 | 0.01 |"
    assert "Estimates, not measurements, for a peak of 312 TFLOP/s" in lines[-2]
