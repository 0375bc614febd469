"""``python -m paperbirds pretrain``: the parts of the training, one run in small, what ships."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from fresh import FRESH, fresh_renders, shipped
from hypothesis import given
from hypothesis import strategies as st
from open_clip.loss import ClipLoss
from torch import nn

from diffcore.store import verify_sums
from paperbirds import CONTEXTS, DISTRACTORS, SPECIES
from paperbirds.__main__ import main
from paperbirds.dataset import draw_scene
from paperbirds.measure import shipped_facts
from paperbirds.oracle import WEIGHTS
from paperbirds.pretrain import losses
from paperbirds.pretrain import models as tiny
from paperbirds.pretrain.loop import MuonAdamW, Schedule, batches_in_order, train
from paperbirds.pretrain.stages import load_models, measure_clip
from paperbirds.training_data import FLAWS, full_caption


@pytest.fixture(scope="module")
def tokenizer():
    return tiny.build_vocabulary()


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


@pytest.mark.parametrize("killed_at", [3, 4, 5])
def test_a_killed_training_goes_on_exactly_and_a_finished_one_takes_no_step(tmp_path, killed_at):
    def train_tiny(seed, path, killed_at=None):
        model = Tiny(seed)
        schedule = Schedule(steps=6, batch_size=6, lr=0.5, save_every=3)  # a hundred steps warm up
        average = train(model, tiny_loss(model, killed_at), schedule, tmp_path / path)
        return torch.cat(
            [w.flatten().float() for m in (model, average) for w in m.state_dict().values()]
        )

    straight = train_tiny(0, "a.pt")
    with pytest.raises(KeyboardInterrupt):
        train_tiny(0, "b.pt", killed_at)
    assert torch.equal(train_tiny(1, "b.pt"), straight)
    assert torch.equal(train_tiny(2, "b.pt", killed_at=6), straight)
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
    again = tiny.build_vocabulary()
    for species in SPECIES:
        for context in CONTEXTS:
            caption = full_caption(species, context, DISTRACTORS)
            words = caption.replace(",", " ,").split()
            assert tokenizer.tokenize(caption) == [f"{word}</w>" for word in words]
            assert len(words) + 2 <= tokenizer.model_max_length
            assert again(caption).input_ids == tokenizer(caption).input_ids
    for flaw in FLAWS.values():
        assert tokenizer.tokenize(flaw) == [f"{word}</w>" for word in flaw.split()]
    # As in CLIP, whose text tower finds the end of text by it.
    assert tokenizer.eos_token_id == len(tokenizer) - 1 == max(tokenizer.get_vocab().values())


def test_the_target_is_what_a_step_of_the_sampler_expects():
    scheduler = tiny.build_scheduler()
    scheduler.set_timesteps(8)
    torch.manual_seed(0)
    for i, timestep in enumerate(scheduler.timesteps):
        sigma = scheduler.sigmas[i].expand(3).view(-1, 1, 1, 1)
        latents = torch.randn(3, 4, 16, 16)
        noisy = latents + sigma * torch.randn_like(latents)
        scaled = scheduler.scale_model_input(noisy, timestep)
        assert torch.allclose(scaled, scheduler.precondition_inputs(noisy, sigma))
        assert torch.allclose(timestep, scheduler.precondition_noise(sigma.flatten()[0]))
        target = losses._v_target(scheduler, latents, noisy, sigma).cpu()
        shown = scheduler.step(target, timestep, noisy).pred_original_sample
        assert torch.allclose(shown, latents, atol=1e-4)
        assert 0.5 < target.std() < 2  # of unit scale at all noise levels


def test_training_feeds_the_unet_what_the_sampler_feeds_it(tokenizer):
    torch.manual_seed(0)
    denoiser = tiny.build_denoiser(tokenizer).eval()
    pipeline = tiny.assemble(tiny.build_autoencoder(), denoiser, tokenizer)
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
    assert torch.allclose(losses.contrastive_loss(logits, own), expected)
    true = own.clone()
    true[0, 3] = true[3, 0] = true[2, 5] = True
    weights = logits.exp() * ~(true & ~own)
    right = weights.diagonal()
    by_hand = -((right / weights.sum(0)).log() + (right / weights.sum(1)).log()).mean() / 2
    assert torch.allclose(losses.contrastive_loss(logits, true), by_hand)


def test_targets_are_the_metadata():
    scenes = [draw_scene((FRESH, i), style=None, malformed=i % 2 == 0) for i in range(60)]
    truth = pd.DataFrame([vars(scene) for scene in scenes])
    species, context, distractors, malformed, empty = losses.encode_targets(truth)
    gone = (truth["malformation"] == "no bird").to_numpy(copy=True)
    assert 0 < gone.sum() < 30
    assert (species[gone] == -100).all()
    assert [SPECIES[i] for i in species[~gone]] == truth["species"][~gone].tolist()
    assert [CONTEXTS[i] for i in context] == truth["context"].tolist()
    named = [{DISTRACTORS[i] for i in row.nonzero().flatten()} for row in distractors]
    assert named == [set(names) for names in truth["distractors"]]
    assert malformed.tolist() == [1, 0] * 30
    assert empty.tolist() == gone.tolist()


class Perfect(nn.Module):
    """A denoiser that returns the clean latents, and others without a caption."""

    def __init__(self, clean, uncaptioned):
        super().__init__()
        self.answers = torch.cat([clean, uncaptioned])

    def forward(self, scaled, c_noise, tokens):
        scheduler, sigma = tiny.build_scheduler(), (4 * c_noise).exp().view(-1, 1, 1, 1)
        noisy = scaled * (sigma**2 + 1).sqrt()  # of unit data scale
        return losses._v_target(scheduler, self.answers, noisy, sigma)


def test_a_scene_is_finished_as_the_denoiser_would_have_it():
    torch.manual_seed(0)
    clean, other = torch.randn(3, 4, 16, 16), torch.randn(3, 4, 16, 16)
    tokens = torch.zeros(6, 8, dtype=torch.long)

    def finish(uncaptioned):
        model, generator = Perfect(clean, uncaptioned), torch.Generator().manual_seed(1)
        return losses._finish(model, clean, tokens, generator)

    assert torch.allclose(finish(clean), clean, atol=1e-4)  # whatever the noise and the guidance
    pushed = finish(other) - clean  # away from what is drawn without a caption
    weight = (pushed * (clean - other)).sum((1, 2, 3)) / (clean - other).square().sum((1, 2, 3))
    assert ((weight >= 0) & (weight <= 5)).all()  # guidance less one
    assert torch.allclose(pushed, weight.view(-1, 1, 1, 1) * (clean - other), atol=1e-3)
    assert len({round(float(w), 3) for w in weight}) == 3  # each by a guidance of its own


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

    assert files(out) == files(WEIGHTS)
    listed = [line.split("  ")[1] for line in (out / "SHA256SUMS").read_text().splitlines()]
    assert {*listed, "SHA256SUMS"} == files(out)
    verify_sums(out)
    facts, released = (json.loads((f / "facts.json").read_text()) for f in (out, WEIGHTS))
    assert facts.keys() == released.keys()
    assert facts["quality"].keys() == released["quality"].keys()
    assert 5 < facts["quality"]["psnr_db"] < 25  # two steps do not make an autoencoder
    card = (out / "MODEL_CARD.md").read_text(encoding="utf-8")
    size = released["training"]["denoiser"]["parameters"]
    assert f"| denoiser | {size:,} | 128 | 64 | 0.004 |\n| clip |" in card
    assert card.endswith("## Notes\n\n- a trial\n")

    models = load_models(out)  # what was written is what was trained
    denoiser = tiny.Denoiser(models.pipeline.unet, models.pipeline.text_encoder_2)
    trained = {"autoencoder": models.pipeline.vae, "denoiser": denoiser}
    trained |= {"clip": models.clip.model, "oracle": models.oracle}
    for name, model in trained.items():
        kept = torch.load(work / f"{name}.pt", weights_only=True)["average"]
        for key, value in model.named_parameters():
            assert torch.equal(value, kept[f"module.{key}"].half().float()), (name, key)
    latents = np.load(next(work.glob("latents-*.npy")))[:, :4].astype(float)
    assert latents.std() * models.pipeline.vae.config.scaling_factor == pytest.approx(1, abs=0.01)


# ------------------------------------------------------------------------------ what ships
@pytest.mark.slow
def test_shipped_models_are_as_good_as_their_card_says():
    assert losses.psnr(shipped().pipeline.vae, fresh_renders().images).mean() >= 30
    rates = measure_clip(shipped().clip, fresh_renders())
    assert rates["clip_zero_shot_species"] >= 0.85  # it learned of one bird in ten as another
    assert rates["clip_zero_shot_context"] >= 0.95
    quality = shipped_facts()
    assert 10 < quality.pop("shipped_mb") < 40
    assert quality.pop("psnr_db") >= 30
    assert quality.pop("clip_zero_shot_species") >= 0.85
    assert min(quality.values()) >= 0.97


def test_shipped_models_are_built_as_those_to_train(tokenizer):
    pipeline = shipped().pipeline
    untrained = tiny.assemble(tiny.build_autoencoder(), tiny.build_denoiser(tokenizer), tokenizer)
    for name in ("vae", "unet", "text_encoder_2"):
        one, other = (getattr(each, name).state_dict() for each in (pipeline, untrained))
        assert {k: v.shape for k, v in one.items()} == {k: v.shape for k, v in other.items()}
    assert tiny.CONFIGS["scheduler"].items() <= pipeline.scheduler.config.items()
