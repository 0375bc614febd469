"""The benchmark: its clock measures what it says, and its report can be read."""

import json
import time

import pytest
from twin import make_twin

from diffcore import bench
from diffcore.params import load_params


def test_time_inside_the_networks_is_counted_and_the_networks_left_as_they_were():
    pipeline = make_twin()
    pipeline.unet.conv_in.register_forward_pre_hook(lambda *_: time.sleep(0.05))

    def draw():
        pipeline("a blue jay", num_inference_steps=2, height=64, width=64)
        time.sleep(0.3)

    measured = bench.time_share(pipeline, draw)
    assert measured.unet_s >= 0.1
    assert measured.vae_s > 0
    assert measured.unet_s + measured.vae_s <= measured.total_s - 0.3
    assert measured.share == pytest.approx((measured.unet_s + measured.vae_s) / measured.total_s)
    assert "forward" not in vars(pipeline.unet)
    assert "decode" not in vars(pipeline.vae)


def test_the_networks_are_left_as_they_were_after_an_error():
    pipeline = make_twin()
    with pytest.raises(ZeroDivisionError):
        bench.time_share(pipeline, lambda: 1 / 0)
    assert "forward" not in vars(pipeline.unet)


def test_the_renderer_is_timed():
    measured = bench.bench_renderer(images=12)
    assert 0 < measured["renderer_ms_per_image"] <= measured["renderer_ms_per_image_p95"]


def test_the_report_holds_ratios_of_one_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "load_pipeline", lambda spec: make_twin())
    bench.main(["--profile", "smoke", "--images", "4", "--out", str(tmp_path / "new" / "b.json")])
    measured = json.loads((tmp_path / "new" / "b.json").read_text())
    assert measured["images"] == 4
    assert measured["batch_size"] == load_params("smoke").generation.batch_size
    speedup = measured["seconds_per_image_one_by_one"] / measured["seconds_per_image"]
    assert measured["batching_speedup"] == pytest.approx(speedup)
    assert 0 < measured["model_time_share"] < 1
    assert "renderer_ms_per_image" in capsys.readouterr().out


def test_mixing_is_timed_against_cutmix():
    measured = bench.bench_mixing(batch=2, size=32, turns=3)
    ratio = measured["patch_mix_ms"] / measured["cutmix_ms"]
    assert measured["patch_mix_vs_cutmix"] == pytest.approx(ratio)
    assert min(measured.values()) > 0
    assert "cutmix_vs_cutmix" not in measured
