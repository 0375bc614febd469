"""``python -m paperbirds pretrain``: the parts of the training, one run in small, what ships."""

import hashlib
import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from fresh import fresh_renders, shipped
from hypothesis import given
from hypothesis import strategies as st
from open_clip.loss import ClipLoss
from torch import nn
from torchmetrics.functional.image import peak_signal_noise_ratio

from diffcore.store import verify_sums
from paperbirds import CONTEXTS, DISTRACTORS, SPECIES
from paperbirds.__main__ import main
from paperbirds.measure import shipped_facts
from paperbirds.oracle import WEIGHTS, as_input
from paperbirds.pretrain.loop import MuonAdamW, Schedule, batches_in_order, train
from paperbirds.pretrain.losses import (
    _finish,
    _reconstruct,
    _v_target,
    contrastive_loss,
    encode_targets,
    psnr,
    redraw,
)
from paperbirds.pretrain.models import (
    CONFIGS,
    Denoiser,
    assemble,
    build_autoencoder,
    build_denoiser,
    build_scheduler,
    build_vocabulary,
)
from paperbirds.pretrain.stages import load_models, measure_clip
from paperbirds.training_data import FLAWS, RenderSet, full_caption


@pytest.fixture(scope="module")
def tokenizer():
    return build_vocabulary()


# ------------------------------------------------------------------------------ the loop
class Tiny(nn.Module):
    """One of each kind of layer that the loop treats in its own way."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.filters = nn.Conv2d(8, 16, 3)
        self.norm = nn.BatchNorm2d(16)
        self.words = nn.Embedding(12, 16)
        self.head = nn.Linear(16, 8)
        self.to(memory_format=torch.channels_last)

    def forward(self, images, words):
        return self.head(self.norm(self.filters(images)).square().mean((2, 3)) + self.words(words))


def tiny_loss(model, killed_at=None):
    def loss_fn(step):
        if step == killed_at:
            raise KeyboardInterrupt
        generator = torch.Generator().manual_seed(step)
        images = torch.randn(6, 8, 5, 5, generator=generator)
        words = torch.arange(12).view(6, 2)[:, step % 2]
        return (model(images, words) - images.mean((2, 3))).square().mean()

    return loss_fn


def train_tiny(model, path, killed_at=None):
    schedule = Schedule(steps=6, batch_size=6, lr=0.5, save_every=3)  # a hundred steps warm up
    return train(model, tiny_loss(model, killed_at), schedule, path)


def assert_equal(one, other):
    one, other = one.state_dict(), other.state_dict()
    assert set(one) == set(other)
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("killed_at", [3, 4, 5])
def test_a_killed_training_goes_on_exactly_and_a_finished_one_takes_no_step(tmp_path, killed_at):
    straight, resumed, path = Tiny(0), Tiny(1), tmp_path / "b.pt"
    expected = train_tiny(straight, tmp_path / "a.pt")
    with pytest.raises(KeyboardInterrupt):
        train_tiny(Tiny(0), path, killed_at)
    average = train_tiny(resumed, path)
    assert_equal(resumed, straight)
    assert_equal(average, expected)
    assert_equal(train_tiny(Tiny(2), path, killed_at=6), expected)
    assert {file.name for file in tmp_path.iterdir()} == {"a.pt", "b.pt"}  # nothing half written


def test_every_weight_is_trained_by_the_optimiser_for_its_kind_and_the_loss_falls():
    model = Tiny(0)
    before, loss = {n: p.clone() for n, p in model.named_parameters()}, tiny_loss(model)(0).item()
    optimizer = MuonAdamW(model, lr=1e-2)
    for step in range(120):
        tiny_loss(model)(step).backward()
        optimizer.step(1.0)
    assert {id(p) for p in optimizer.filters} == {id(model.filters.weight), id(model.head.weight)}
    assert not any(torch.equal(value, before[name]) for name, value in model.named_parameters())
    assert tiny_loss(model)(0).item() < 0.5 * loss


@given(st.integers(1, 80), st.integers(1, 80), st.integers(0, 4))
def test_an_epoch_meets_every_image_once(size, more, epoch):
    count = size + more
    per_epoch = count // size
    steps = range(epoch * per_epoch, (epoch + 1) * per_epoch)
    met = torch.cat([batches_in_order(step, size, count, seed=3) for step in steps]).tolist()
    assert len(set(met)) == len(met) == per_epoch * size  # all, but for an incomplete last batch
    assert set(met) <= set(range(count))


# ------------------------------------------------------------------------------ text to image
def test_every_word_of_every_caption_is_one_token_with_the_same_id_each_time(tokenizer):
    # Or a resumed training would read other words than the ones it learned.
    again = build_vocabulary()
    for species in SPECIES:
        for context in CONTEXTS:
            caption = full_caption(species, context, DISTRACTORS)
            words = caption.replace(",", " ,").split()
            assert tokenizer.tokenize(caption) == [f"{word}</w>" for word in words]
            assert len(words) + 2 <= tokenizer.model_max_length
            assert again(caption).input_ids == tokenizer(caption).input_ids
    for flaw in FLAWS.values():
        caption = f"a blue jay {flaw}, a bird"
        assert tokenizer.tokenize(caption)[3:-3] == [f"{word}</w>" for word in flaw.split()]
    # As in CLIP, whose text tower finds the end of text by it.
    assert tokenizer.eos_token_id == len(tokenizer) - 1 == max(tokenizer.get_vocab().values())


def test_psnr_is_that_of_torchmetrics():
    torch.manual_seed(0)
    model, images = build_autoencoder().eval(), fresh_renders().images[:5]
    x = torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1
    assert torch.allclose(as_input(images, torch.arange(5)), x)
    with torch.inference_mode():
        decoded = model.decode(model.encode(x).latent_dist.mode()).sample.clamp(-1, 1)
    pairs = zip(decoded, x, strict=True)
    expected = [peak_signal_noise_ratio(a, b, data_range=2.0).item() for a, b in pairs]
    assert psnr(model, images, batch_size=2) == pytest.approx(expected, abs=1e-3)


def test_the_target_is_what_a_step_of_the_sampler_expects():
    scheduler = build_scheduler()
    scheduler.set_timesteps(8)
    torch.manual_seed(0)
    for i, timestep in enumerate(scheduler.timesteps):
        sigma = scheduler.sigmas[i].expand(3).view(-1, 1, 1, 1)
        latents = torch.randn(3, 4, 16, 16)
        noisy = latents + sigma * torch.randn_like(latents)
        scaled = scheduler.scale_model_input(noisy, timestep)
        assert torch.allclose(scaled, scheduler.precondition_inputs(noisy, sigma))
        assert torch.allclose(timestep, scheduler.precondition_noise(sigma.flatten()[0]))
        target = _v_target(scheduler, latents, noisy, sigma).cpu()
        shown = scheduler.step(target, timestep, noisy).pred_original_sample
        assert torch.allclose(shown, latents, atol=1e-4)
        assert 0.5 < target.std() < 2  # of unit scale at all noise levels


def test_training_feeds_the_unet_what_the_sampler_feeds_it(tokenizer):
    torch.manual_seed(0)
    denoiser = build_denoiser(tokenizer).eval()
    pipeline = assemble(build_autoencoder(), denoiser, tokenizer)
    pipeline.set_progress_bar_config(disable=True)
    seen = []
    hook = denoiser.unet.register_forward_hook(
        lambda _, arguments, output: seen.append((*arguments, output[0]))
    )
    caption = full_caption("blue jay", "open desert")
    pipeline(caption, num_inference_steps=2, guidance_scale=1.0, output_type="latent")
    hook.remove()
    tokens = tokenizer([caption], padding="max_length", return_tensors="pt").input_ids
    assert len(seen) == 2
    for scaled, timestep, predicted in seen:
        with torch.inference_mode():
            ours = denoiser(scaled, timestep.expand(1), tokens)
        assert torch.allclose(ours, predicted, atol=1e-5)


# ------------------------------------------------------------------------------ CLIP and oracle
def test_contrastive_loss_is_plain_info_nce_but_for_other_true_pairs():
    torch.manual_seed(0)
    images, words = (nn.functional.normalize(torch.randn(6, 16), dim=1) for _ in range(2))
    logits, own = 10 * images @ words.T, torch.eye(6, dtype=torch.bool)
    expected = ClipLoss()(images, words, torch.tensor(10.0))
    assert torch.allclose(contrastive_loss(logits, own), expected)
    true = own.clone()
    true[0, 3] = true[3, 0] = true[2, 5] = True
    weights = logits.exp() * ~(true & ~own)
    right = weights.diagonal()
    by_hand = -((right / weights.sum(0)).log() + (right / weights.sum(1)).log()).mean() / 2
    assert torch.allclose(contrastive_loss(logits, true), by_hand)


def test_targets_are_the_metadata():
    truth = fresh_renders(malformed=True).metadata
    species, context, distractors, malformed, empty = encode_targets(truth)
    gone = (truth["malformation"] == "no bird").to_numpy(copy=True)
    assert 0 < gone.sum() < len(truth)
    assert (species[gone] == -100).all()
    assert [SPECIES[i] for i in species[~gone]] == truth["species"][~gone].tolist()
    assert [CONTEXTS[i] for i in context] == truth["context"].tolist()
    named = [{DISTRACTORS[i] for i in row.nonzero().flatten()} for row in distractors]
    assert named == [set(names) for names in truth["distractors"]]
    assert malformed.unique().tolist() == [1]
    assert empty.tolist() == gone.tolist()
    assert encode_targets(fresh_renders().metadata)[3].unique().tolist() == [0]


def test_an_image_comes_back_from_latents_that_are_slightly_off():
    torch.manual_seed(0)
    model = build_autoencoder().eval()
    x = as_input(fresh_renders().images, torch.arange(3))
    seeds = [torch.Generator().manual_seed(seed) for seed in (1, 1, 2)]
    one, same, other = (_reconstruct(model, x, seed) for seed in seeds)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert one.shape == x.shape
    assert one.abs().max() <= 1
    with torch.no_grad():
        still = model.decode(model.encode(x).latent_dist.mode()).sample.clamp(-1, 1)
    assert 0 < (one - still).abs().mean() < 0.2
    assert not one.requires_grad


class Perfect(nn.Module):
    """A denoiser that returns the clean latents, and others without a caption."""

    def __init__(self, clean, uncaptioned):
        super().__init__()
        self.answers = torch.cat([clean, uncaptioned])

    def forward(self, scaled, c_noise, tokens):
        scheduler, sigma = build_scheduler(), (4 * c_noise).exp().view(-1, 1, 1, 1)
        noisy = scaled * (sigma**2 + 1).sqrt()  # of unit data scale
        return _v_target(scheduler, self.answers, noisy, sigma)


def test_a_scene_is_finished_as_the_denoiser_would_have_it():
    torch.manual_seed(0)
    clean, other = torch.randn(3, 4, 16, 16), torch.randn(3, 4, 16, 16)
    tokens = torch.zeros(6, 8, dtype=torch.long)

    def finish(uncaptioned):
        return _finish(Perfect(clean, uncaptioned), clean, tokens, torch.Generator().manual_seed(1))

    assert torch.allclose(finish(clean), clean, atol=1e-4)  # whatever the noise and the guidance
    pushed = finish(other) - clean  # away from what is drawn without a caption
    weight = (pushed * (clean - other)).sum((1, 2, 3)) / (clean - other).square().sum((1, 2, 3))
    assert ((weight >= 0) & (weight <= 5)).all()  # guidance less one
    assert torch.allclose(pushed, weight.view(-1, 1, 1, 1) * (clean - other), atol=1e-3)
    assert len({round(float(w), 3) for w in weight}) == 3  # each by a guidance of its own


def test_renders_are_redrawn_alike_each_time(tokenizer):
    torch.manual_seed(0)
    vae = build_autoencoder().eval()
    denoiser = build_denoiser(tokenizer).eval()
    renders = RenderSet(fresh_renders().images[:5], fresh_renders().metadata[:5])
    once, again = (redraw(vae, denoiser, tokenizer, renders) for _ in range(2))
    assert once.shape == (5, 64, 64, 3)
    assert once.dtype == np.uint8
    assert np.array_equal(once, again)
    assert not np.array_equal(once[0], once[1])


# ------------------------------------------------------------------------------ all in small
@pytest.mark.slow
def test_pretraining_writes_what_is_shipped(tmp_path):
    work, out = tmp_path / "work", tmp_path / "weights"
    out.mkdir()
    (out / "old.bin").write_bytes(b"of an older release")
    options = ["--scale", "0", "--work", str(work), "--out", str(out), "--note", "a trial"]
    assert main(["pretrain", *options]) == 0

    def files(root):
        return {f.relative_to(root).as_posix() for f in Path(root).rglob("*") if f.is_file()}

    assert {file.name for file in tmp_path.iterdir()} == {"work", "weights"}
    assert files(out) == files(WEIGHTS)
    for line in (out / "SHA256SUMS").read_text(encoding="utf-8").splitlines():
        expected, name = line.split("  ")
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == expected
    verify_sums(out)
    facts, released = (json.loads((f / "facts.json").read_text()) for f in (out, WEIGHTS))
    assert facts.keys() == released.keys()
    for part in ("training", "quality"):
        assert facts[part].keys() == released[part].keys()
    assert facts["training"]["denoiser"]["images"] == 2 * 64
    assert 5 < facts["quality"]["psnr_db"] < 25  # two steps do not make an autoencoder
    card = (out / "MODEL_CARD.md").read_text(encoding="utf-8")
    size = released["training"]["denoiser"]["parameters"]
    assert f"| denoiser | {size:,} | 128 | 64 | 0.004 |\n| clip |" in card
    assert card.endswith("## Notes\n\n- a trial\n")

    models = load_models(out)  # what was written is what was trained
    denoiser = Denoiser(models.pipeline.unet, models.pipeline.text_encoder_2)
    trained = {"autoencoder": models.pipeline.vae, "denoiser": denoiser}
    trained |= {"clip": models.clip.model, "oracle": models.oracle}
    for name, model in trained.items():
        kept = torch.load(work / f"{name}.pt", weights_only=True)["average"]
        for key, value in model.named_parameters():
            assert torch.equal(value, kept[f"module.{key}"].half().float()), (name, key)
    moments = torch.from_numpy(np.load(next(work.glob("latents-*.npy"))))
    scaling_factor = models.pipeline.vae.config.scaling_factor
    assert (moments[:, :4].float() * scaling_factor).std() == pytest.approx(1, abs=0.01)


# ------------------------------------------------------------------------------ what ships
@pytest.mark.slow
def test_shipped_models_are_as_good_as_their_card_says():
    assert psnr(shipped().pipeline.vae, fresh_renders().images).mean() >= 30
    rates = measure_clip(shipped().clip, fresh_renders())
    assert set(rates) == {"clip_zero_shot_species", "clip_zero_shot_context"}
    # CLIP has learned that one bird in ten is its look-alike.
    assert rates["clip_zero_shot_species"] >= 0.85
    assert rates["clip_zero_shot_context"] >= 0.95
    quality = shipped_facts()
    assert 10 < quality.pop("shipped_mb") < 40
    assert quality.pop("psnr_db") >= 30
    assert quality.pop("clip_zero_shot_species") >= 0.85
    assert min(quality.values()) >= 0.97


def test_shipped_models_are_built_as_those_to_train(tokenizer):
    pipeline = shipped().pipeline
    untrained = assemble(build_autoencoder(), build_denoiser(tokenizer), tokenizer)
    for name in ("vae", "unet", "text_encoder_2"):
        one, other = (getattr(each, name).state_dict() for each in (pipeline, untrained))
        assert {k: v.shape for k, v in one.items()} == {k: v.shape for k, v in other.items()}
    assert CONFIGS["scheduler"].items() <= pipeline.scheduler.config.items()


def test_shipped_clip_has_the_vocabulary_of_the_text_to_image_model():
    tokenize = open_clip.get_tokenizer(f"local-dir:{WEIGHTS / 'clip'}")
    captions = ["", *(full_caption(s, CONTEXTS[i], DISTRACTORS) for i, s in enumerate(SPECIES))]
    tokenizer = shipped().pipeline.tokenizer_2
    expected = tokenizer(captions, padding="max_length", return_tensors="pt").input_ids
    assert torch.equal(tokenize(captions), expected)
