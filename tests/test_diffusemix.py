"""DiffuseMix: edits that can be resumed, fractals, halves with a soft seam."""

import numpy as np
import pandas as pd
import pytest
import torch
from twin import make_sd_twin, make_twin

from diffcore.diffusemix import STYLES, DiffuseMix, draw_fractals, edit_images, half_weights
from diffcore.generation import decode_images
from diffcore.params import MixingParams
from diffcore.prompts import load_prompt_book, plan_generation

SAMPLER = {"strength": 0.5, "guidance_scale": 3.0, "num_inference_steps": 4}


@pytest.fixture(scope="module")
def pipeline():
    return make_twin()


@pytest.fixture(scope="module")
def plan():
    sources = pd.DataFrame({"source_id": list("abcde"), "class_name": "blue jay"})
    book = load_prompt_book("paperbirds", contexts=STYLES)
    return plan_generation(sources, book, generated_share=1, seed=0, use_negatives=False)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)


# ---------------------------------------------------------------------------------------- the edits
def test_an_edit_keeps_its_place_and_its_prompt(plan, images, pipeline, tmp_path):
    edited = edit_images(plan, images, pipeline, tmp_path, **SAMPLER)
    assert edited["sample_id"].tolist() == plan["sample_id"].tolist()
    assert edited["prompt"].tolist() == plan["prompt"].tolist()
    assert decode_images(edited).shape == images.shape
    assert (decode_images(edited) != images).any(axis=(1, 2, 3)).all()


def test_stable_diffusion_edits_too(plan, images, tmp_path):
    edited = edit_images(plan[:2], images[:2], make_sd_twin(), tmp_path, **SAMPLER)
    assert decode_images(edited).shape == images[:2].shape
    assert (decode_images(edited) != images[:2]).any(axis=(1, 2, 3)).all()


def test_batches_and_shards_do_not_change_an_edit(plan, images, pipeline, tmp_path):
    whole = edit_images(plan, images, pipeline, tmp_path / "a", **SAMPLER)
    options = {"batch_size": 2, "shard_size": 3}
    parts = edit_images(plan, images, pipeline, tmp_path / "b", **options, **SAMPLER)
    assert len(list((tmp_path / "b").iterdir())) == 2
    assert np.abs(decode_images(whole).astype(int) - decode_images(parts)).max() <= 1


def test_what_is_edited_is_not_edited_again(plan, images, pipeline, tmp_path, monkeypatch):
    first = edit_images(plan, images, pipeline, tmp_path, shard_size=2, **SAMPLER)
    gone = sorted(tmp_path.iterdir())[0]
    gone.unlink()  # as a killed run leaves it
    drawn = []
    forward = pipeline.vae.encode
    monkeypatch.setattr(pipeline.vae, "encode", lambda x: drawn.append(len(x)) or forward(x))
    again = edit_images(plan, images, pipeline, tmp_path, shard_size=2, **SAMPLER)
    assert sum(drawn) <= 2
    assert np.array_equal(decode_images(first), decode_images(again))


def test_other_images_settings_or_models_are_edited_anew(plan, images, pipeline, tmp_path):
    edit_images(plan, images, pipeline, tmp_path, **SAMPLER)
    edit_images(plan, 255 - images, pipeline, tmp_path, **SAMPLER)
    edit_images(plan, images, pipeline, tmp_path, **SAMPLER | {"strength": 1.0})
    edit_images(plan, images, make_twin(seed=1), tmp_path, **SAMPLER)
    assert len(list(tmp_path.glob("*.parquet"))) == 4
    assert not list(tmp_path.glob("*.tmp"))


def test_the_pipeline_still_draws_from_text_as_before(plan, images, pipeline, tmp_path):
    def drawn():
        options = {"num_inference_steps": 2, "height": 64, "width": 64, "output_type": "np"}
        return pipeline("a blue jay", generator=torch.Generator().manual_seed(0), **options).images

    before = drawn()
    edit_images(plan, images, pipeline, tmp_path, **SAMPLER)
    np.testing.assert_array_equal(drawn(), before)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"strength": 0.0}, "leaves none"), ({"strength": 0.2}, "none of 4 steps"),
     ({"strength": 1.1}, "leaves none")],
)  # fmt: skip
def test_a_strength_that_runs_no_step_is_refused(
    plan, images, pipeline, tmp_path, settings, message
):
    with pytest.raises(ValueError, match=message):
        edit_images(plan, images, pipeline, tmp_path, **SAMPLER | settings)


def test_every_row_needs_its_image(plan, images, pipeline, tmp_path):
    with pytest.raises(ValueError, match="5 rows, but there are 4 images"):
        edit_images(plan, images[:4], pipeline, tmp_path, **SAMPLER)


# ------------------------------------------------------------------------------------- the fractals
def test_fractals_are_in_range_differ_and_repeat():
    fractals = draw_fractals(6, size=32, seed=1)
    assert fractals.shape == (6, 3, 32, 32)
    assert fractals.min() >= 0
    assert fractals.max() <= 1
    assert torch.equal(fractals, draw_fractals(6, size=32, seed=1))
    assert len({tuple(f.flatten().tolist()) for f in fractals}) == 6
    assert (fractals.std(dim=(2, 3)).amax(dim=1) > 0.05).all()


def test_julia_sets_look_the_same_upside_down():
    fractals = draw_fractals(4, size=33)
    torch.testing.assert_close(fractals, fractals.flip(2, 3), rtol=0, atol=1e-4)


# -------------------------------------------------------------------------------------- the mixing
@pytest.mark.parametrize(("height", "width"), [(8, 8), (9, 14), (64, 48)])
def test_a_hard_seam_halves_exactly(height, width):
    left, right, top, bottom = half_weights(torch.arange(4), height, width, 0.0)[:, 0]
    columns = (torch.arange(width) + 0.5) / width
    expected = torch.where(columns < 0.5, 1.0, torch.where(columns > 0.5, 0.0, 0.5))
    assert torch.equal(left, expected.expand(height, width))
    assert torch.equal(right, 1 - left)
    assert torch.equal(bottom, 1 - top)
    assert torch.equal(top, half_weights(torch.tensor([0]), width, height, 0.0)[0, 0].T)


@pytest.mark.parametrize("seam", [0.0, 0.078, 0.5, 1.0])
def test_a_seam_falls_evenly_and_keeps_half(seam):
    weight = half_weights(torch.arange(4), 64, 64, seam)
    torch.testing.assert_close(weight.mean(dim=(1, 2, 3)), torch.full((4,), 0.5))
    steps = weight[0, 0, 0].diff()
    assert (steps <= 0).all()
    assert ((weight > 0) & (weight < 1)).float().mean() == pytest.approx(seam, abs=0.03)


def test_the_mix_is_its_formula():
    real, edited = torch.rand(2, 40, 3, 8, 8, generator=torch.Generator().manual_seed(0)).unbind()
    fractals = draw_fractals(3, size=8)
    mixed = DiffuseMix(fractals, seam=0.25, fractal_share=0.2)(
        real, edited, torch.Generator().manual_seed(1)
    )
    draw = torch.Generator().manual_seed(1)
    halves = torch.randint(4, (40,), generator=draw)
    chosen = torch.randint(3, (40,), generator=draw)
    for b in range(40):
        kept = half_weights(halves[b : b + 1], 8, 8, 0.25)[0, 0].double()
        hybrid = kept * real[b] + (1 - kept) * edited[b]
        expected = 0.8 * hybrid + 0.2 * fractals[chosen[b]]
        np.testing.assert_allclose(mixed.images[b].numpy(), expected.numpy(), atol=1e-6)
        np.testing.assert_allclose(mixed.weight[b, 0].numpy(), 0.8 * kept.numpy(), atol=1e-6)
    torch.testing.assert_close(mixed.lam, torch.full((40,), 0.4))
    assert {*halves.tolist()} == {0, 1, 2, 3}


def test_without_a_fractal_an_image_that_is_its_own_edit_stays():
    real = torch.rand(4, 3, 8, 8)
    assert torch.equal(DiffuseMix(draw_fractals(1, 8), fractal_share=0.0)(real, real).images, real)


@pytest.mark.parametrize("given", [{"seam": -0.1}, {"fractal_share": 1.5}])
def test_settings_out_of_range_are_refused(given):
    with pytest.raises(ValueError, match=r"it must be in \[0, 1\]"):
        DiffuseMix(draw_fractals(1, 8), **given)


def test_the_defaults_are_those_of_its_authors():
    params, mix = MixingParams(), DiffuseMix(draw_fractals(1, 8))
    assert params.edit_prompts == STYLES
    assert params.seam == pytest.approx(mix.seam, abs=2e-4)
    assert params.fractal_share == mix.fractal_share
