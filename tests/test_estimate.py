"""What a profile will need: counts against formulas and published numbers, sums by hand."""

import sys

import pytest
import torch
from layouts import PHOTOGRAPHS, needs_photographs
from torch import nn

from diffcore import estimate as module
from diffcore.estimate import (
    Device,
    as_markdown,
    count,
    data_size,
    decoding,
    denoising_step,
    embedding_flops,
    encoding,
    estimate,
    main,
    pipeline_params,
    tabulate,
    training_step,
)
from diffcore.params import EncoderSpec, TrainingParams, load_params
from diffcore.photos.known import PUBLISHED

#: That of all seven profiles, so that it is counted once.
SDXL = load_params("cub200").generation.pipeline


def on_meta(make):
    with torch.device("meta"):
        return make()


# --------------------------------------------------------------------------------------- counting
def test_operations_of_a_small_network_are_those_of_the_formula():
    net = on_meta(lambda: nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 5, stride=2, padding=2),
        nn.Flatten(), nn.Linear(16 * 8 * 8, 10),
    ))  # fmt: skip
    images = torch.empty(4, 3, 16, 16, device="meta")
    first, second = 16 * 16 * 8 * 3 * 3 * 3, 8 * 8 * 16 * 8 * 5 * 5
    found = count(net, lambda: net(images))
    assert found.flops == 4 * 2 * (first + second + 16 * 8 * 8 * 10)
    assert found.params == 8 * 28 + 16 * 201 + 10 * 1025


def test_training_is_three_passes_but_for_the_gradient_of_the_images():
    net = on_meta(lambda: nn.Sequential(nn.Linear(100, 50), nn.Linear(50, 10)))
    batch = torch.empty(7, 100, device="meta")
    found = count(net, lambda: net(batch).sum().backward())
    assert found.flops == 2 * 7 * (3 * (100 * 50 + 50 * 10) - 100 * 50)


def test_memory_is_that_of_tensors_alive_at_the_same_time():
    def run(steps):
        x = torch.empty(1000, device="meta")  # 4 kB
        for _ in range(steps):
            x = x + 1
        return x

    def keep(steps):
        return [torch.empty(1000, device="meta") for _ in range(steps)]

    nothing = nn.Identity()
    assert count(nothing, lambda: run(1)).peak_bytes == 8000
    assert count(nothing, lambda: run(9)).peak_bytes == 8000
    assert count(nothing, lambda: keep(9)).peak_bytes == 36_000


def test_weights_and_views_are_no_memory_of_their_own():
    net = on_meta(lambda: nn.Linear(1000, 1000, bias=False))
    batch = torch.empty(2, 1000, device="meta")
    # One result of 2 x 1000; the batch was there before, and is seen by its views.
    found = count(net, lambda: net(batch).view(-1)[None])
    assert found.peak_bytes == 2 * 1000 * 4


def test_attention_is_counted_but_never_holds_all_pairs_of_tokens():
    query = torch.empty(2, 4, 1000, 64, device="meta", dtype=torch.float16)
    attend = nn.functional.scaled_dot_product_attention
    found = count(nn.Identity(), lambda: attend(query, query, query))
    assert found.flops == 2 * 4 * 2 * (2 * 1000 * 1000 * 64)
    assert found.peak_bytes < 2 * 4 * 1000 * 1000 * 2


# ---------------------------------------------------------------------------------------- networks
def test_sdxl_has_the_published_numbers_of_weights():
    # UNet 2.567 billion; autoencoder 83.65 million; text encoders 123.06 and 694.66 million:
    # the numbers that the weights' files on the hub hold.
    unet, vae = denoising_step(SDXL, 512, 512, 1).params, decoding(SDXL, 512, 512).params
    assert unet == pytest.approx(2.567e9, rel=0.01)
    assert vae == pytest.approx(83.65e6, rel=0.001)
    assert pipeline_params(SDXL) == pytest.approx(unet + vae + 123.06e6 + 694.66e6, rel=0.001)


def test_a_denoising_step_of_sdxl_grows_as_its_image_and_its_batch():
    small, large = denoising_step(SDXL, 512, 512, 1), denoising_step(SDXL, 1024, 1024, 1)
    # 2.98 tera multiplications and additions at 1024 x 1024 are often quoted, without attention's.
    assert 2 * 2.98e12 < large.flops < 1.2 * 2 * 2.98e12
    assert 4 * small.flops < large.flops < 4.4 * small.flops  # attention grows faster than pixels
    batch = denoising_step(SDXL, 512, 512, 16)
    assert batch.flops == pytest.approx(16 * small.flops, rel=0.01)
    assert batch.peak_bytes == pytest.approx(16 * small.peak_bytes, rel=0.01)


def test_the_shipped_model_is_counted_from_its_own_files():
    spec = load_params("demo").generation.pipeline
    from safetensors import safe_open

    from diffcore.paperbirds import pipeline_dir

    stored = 0
    for file in pipeline_dir().rglob("*.safetensors"):
        with safe_open(file, "pt") as weights:
            stored += sum(weights.get_tensor(name).numel() for name in weights.keys())  # noqa: SIM118
    assert pipeline_params(spec) == pytest.approx(stored, rel=0.01)
    assert encoding(spec, 64, 64).flops < decoding(spec, 64, 64).flops


def test_resnet50_and_clip_have_the_published_operations():
    settings = TrainingParams(precision="fp16")
    one, batch = (training_step(settings, 1000, 224, images) for images in (1, 64))
    assert one.flops / 3 == pytest.approx(2 * 4.09e9, rel=0.02)  # 4.09 billion multiplications
    assert batch.flops == 64 * one.flops
    assert one.params == 25_557_032
    assert embedding_flops(EncoderSpec()) == pytest.approx(2 * 4.4e9, rel=0.02)  # ViT-B/32
    assert embedding_flops(EncoderSpec(model_name="local-dir:nowhere")) == 0


def test_half_precision_halves_the_activations():
    half, full = (training_step(TrainingParams(precision=p), 10, 64, 8) for p in ("fp16", "no"))
    assert half.peak_bytes == pytest.approx(full.peak_bytes / 2, rel=0.01)
    assert half.flops == full.flops


# ---------------------------------------------------------------------------------------- the sum
def test_a_complete_set_has_the_published_size():
    for name in PUBLISHED:
        size = data_size(load_params(name, {"data.root": "nowhere", "data.train_images_per_class":
                                            None, "data.test_images_per_class": None}))  # fmt: skip
        assert size.train + size.test == PUBLISHED[name].images
        assert size.classes == PUBLISHED[name].classes
        assert size.test > 0


def test_limits_cut_a_set():
    changes = {"data.train_images_per_class": 5, "data.root": "nowhere"}
    assert data_size(load_params("cub200", changes)).train == 1000
    assert data_size(load_params("demo")) == (120, 1200, 12, 0.0)


@needs_photographs
def test_a_folder_that_is_there_is_counted():
    root = str(PHOTOGRAPHS / "tiny-imagenet-10")
    size = data_size(load_params("photos", {"data.root": root}))
    assert size == (100, 200, 10, 0.0)


def test_a_folder_that_is_not_there_is_named():
    changes = {"data.dataset": "folder", "data.root": "no/where"}
    with pytest.raises(ValueError, match="no/where"):
        data_size(load_params("photos", changes))


def test_an_estimate_is_the_sum_of_its_parts():
    changes = {"data.image_size": 512, "training.model": "resnet18"}
    params = load_params("cub200", {"data.root": "nowhere", **changes})
    found = estimate(params, Device(tflops=100.0, draw_share=0.5, train_share=0.25))
    step, decode = denoising_step(SDXL, 512, 512, 1).flops, decoding(SDXL, 512, 512).flops
    # Guidance: two calls a step; of an edit 0.6 of the 50 steps are run.
    assert (found.counterparts, found.edits) == (1798, 5994)
    drawn = 1798 * (2 * 50 * step + decode)
    edited = 5994 * (2 * 30 * step + decode + encoding(SDXL, 512, 512).flops)
    assert found.draw_hours == pytest.approx((drawn + edited) / 50e12 / 3600, rel=0.01)
    assert found.trainings == 9 * 5
    one = training_step(params.training, 200, 512, 1).flops
    assert found.train_hours == pytest.approx(
        45 * (128 * 5994 * one + 5794 * one / 3) / 25e12 / 3600, rel=0.01
    )
    weights = 2 * pipeline_params(SDXL) / 1e9
    assert found.draw_gb > weights
    assert found.disk_gb > weights + 1.2 + 7792 * 512 * 512 * 1.5e-9


def test_what_is_not_drawn_costs_nothing():
    stand_ins = estimate(load_params("photos", {"data.root": "nowhere"}))
    assert (stand_ins.draw_hours, stand_ins.draw_gb, stand_ins.edits) == (
        pytest.approx(0, abs=0.01), 0.0, 0,
    )  # fmt: skip
    params = load_params("demo"), load_params("demo", {"generation.guidance_scale": 1.0})
    guided, unguided = (module._draw_flops(each, 100, 0) for each in params)
    spec = params[0].generation.pipeline
    one = denoising_step(spec, 64, 64, 1).flops
    assert guided - unguided == pytest.approx(100 * 12 * one, rel=0.01)


# ------------------------------------------------------------------------------------- for people
def test_the_table_is_markdown(monkeypatch, capsys):
    called = ["estimate", "--profile", "demo", "--markdown", "--set", "trials.seeds=2"]
    monkeypatch.setattr(sys, "argv", called)
    main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("| profile | training images | test images | classes |")
    assert lines[2].startswith("| demo | 120 | 1,200 | 12 | 1,020 | 120 | 22 |")
    assert "Estimates, not measurements, for 312 TFLOP/s" in lines[-1]
    table = tabulate([estimate(load_params("demo"))])
    assert as_markdown(table).count("\n") == 2


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0"), (0.003, "0.01"), (0.456, "0.46"), (1234.0, "1,200")]
)
def test_numbers_are_no_more_precise_than_an_estimate(value, text):
    assert module._rough(value) == text
