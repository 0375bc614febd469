"""`make pretrain`: the parts of the training, one run in small, and the quality of what ships."""

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

from diffcore.paperbirds import CONTEXTS, DISTRACTORS, SPECIES, draw_scene, full_caption
from diffcore.paperbirds.captions import draw_caption
from diffcore.paperbirds.pretrain import __main__ as command
from diffcore.paperbirds.pretrain.autoencoder import as_input, encode_all, psnr
from diffcore.paperbirds.pretrain.clip import (
    _encode,
    _encode_captions,
    _truth,
    contrastive_loss,
)
from diffcore.paperbirds.pretrain.denoiser import Denoiser, _v_target
from diffcore.paperbirds.pretrain.export import load
from diffcore.paperbirds.pretrain.loop import MuonAdamW, Schedule, batches_in_order, train
from diffcore.paperbirds.pretrain.models import (
    assemble,
    build_autoencoder,
    build_scheduler,
    build_text_encoder,
    build_unet,
)
from diffcore.paperbirds.pretrain.oracle import encode_facts, oracle_loss
from diffcore.paperbirds.pretrain.quality import measure_clip
from diffcore.paperbirds.pretrain.renders import RenderRecipe, render_set
from diffcore.paperbirds.pretrain.stages import Models, Plan, _begin, build_vocabulary
from diffcore.paperbirds.weights import WEIGHTS, shipped_quality, verify

RATES = ("clip_zero_shot_species", "clip_zero_shot_context", "oracle_species", "oracle_context",
         "oracle_distractors", "oracle_wellformed_on_whole",
         "oracle_malformed_on_malformed")  # fmt: skip


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


def tiny_schedule(**options):
    return Schedule(**{"steps": 6, "batch_size": 6, "warmup": 2, "save_every": 3, **options})


def assert_equal(one, other):
    one, other = one.state_dict(), other.state_dict()
    assert set(one) == set(other)
    for name in one:
        assert torch.equal(one[name], other[name]), name


@pytest.mark.parametrize("killed_at", [3, 4, 5])
def test_a_killed_training_goes_on_exactly(tmp_path, killed_at):
    straight, killed, resumed = Tiny(0), Tiny(0), Tiny(1)
    expected = train(straight, tiny_loss(straight), tiny_schedule(), tmp_path / "a.pt", "straight")
    with pytest.raises(KeyboardInterrupt):
        train(killed, tiny_loss(killed, killed_at), tiny_schedule(), tmp_path / "b.pt", "killed")
    assert not torch.equal(killed.head.weight, straight.head.weight)
    average = train(resumed, tiny_loss(resumed), tiny_schedule(), tmp_path / "b.pt", "resumed")
    assert_equal(resumed, straight)
    assert_equal(average, expected)


def test_a_finished_training_takes_no_step(tmp_path):
    model, other = Tiny(0), Tiny(1)
    expected = train(model, tiny_loss(model), tiny_schedule(), tmp_path / "a.pt", "first")
    again = train(other, tiny_loss(other, killed_at=6), tiny_schedule(), tmp_path / "a.pt", "again")
    assert_equal(again, expected)
    assert [file.name for file in tmp_path.iterdir()] == ["a.pt"]  # nothing half written is left


def test_what_is_returned_is_the_average(tmp_path):
    model, last = Tiny(0), Tiny(0)
    average = train(model, tiny_loss(model), tiny_schedule(), tmp_path / "a.pt", "averaged")
    forgetful = tiny_schedule(ema=0.0)
    now = train(last, tiny_loss(last), forgetful, tmp_path / "b.pt", "last step alone")
    assert_equal(now, last)
    assert_equal(last, model)
    assert not torch.equal(average.head.weight, model.head.weight)
    assert not average.training


def test_training_lowers_the_loss(tmp_path):
    model = Tiny(0)
    before = tiny_loss(model)(0).item()
    train(model, tiny_loss(model), tiny_schedule(steps=60), tmp_path / "a.pt", "longer")
    assert tiny_loss(model)(0).item() < 0.5 * before


def test_every_weight_is_trained_by_the_optimiser_for_its_kind():
    model = Tiny(0)
    before = {name: value.clone() for name, value in model.named_parameters()}
    optimizer = MuonAdamW(model, lr=1e-2, lr_rest=1e-2)
    for step in (0, 1):
        tiny_loss(model)(step).backward()
        optimizer.step(1.0)
    assert {id(p) for p in optimizer.filters} == {id(model.filters.weight), id(model.head.weight)}
    for name, value in model.named_parameters():
        assert not torch.equal(value, before[name]), name
        assert value.grad is None


@given(st.integers(1, 80), st.integers(1, 80), st.integers(0, 4))
def test_an_epoch_meets_every_image_once(size, more, epoch):
    count = size + more
    per_epoch = count // size
    steps = range(epoch * per_epoch, (epoch + 1) * per_epoch)
    batches = [batches_in_order(step, size, count, seed=3) for step in steps]
    assert all(len(batch) == size for batch in batches)
    met = torch.cat(batches).tolist()
    assert len(set(met)) == len(met) == per_epoch * size  # all, but for an incomplete last batch
    assert set(met) <= set(range(count))


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = [
        torch.cat([batches_in_order(4 * epoch + i, 25, 100, seed) for i in range(4)])
        for epoch, seed in ((0, 1), (1, 1), (0, 7))
    ]
    assert all(sorted(order.tolist()) == list(range(100)) for order in orders)
    assert len({tuple(order.tolist()) for order in orders}) == 3


# ------------------------------------------------------------------------------ renders
def test_a_set_holds_the_scenes_that_its_facts_name(tmp_path):
    recipe = RenderRecipe("some", 12, 5_100, None, malformed=True, extra_distractor=0.5)
    first = render_set(recipe, tmp_path, workers=1)
    written = (tmp_path / "some-12-5100.npy").stat().st_mtime_ns
    again = render_set(recipe, tmp_path, workers=1)
    assert (tmp_path / "some-12-5100.npy").stat().st_mtime_ns == written
    assert [file.name for file in tmp_path.iterdir()] == ["some-12-5100.npy"]
    for shown in (first, again):
        assert shown.images.shape == (12, 64, 64, 3)
        for i in range(12):
            rendered = recipe.scene(i).render()
            assert np.array_equal(shown.images[i], rendered.image)
            for name in ("species", "context", "distractors", "style", "malformation"):
                assert shown.facts[name][i] == getattr(rendered, name)


def test_sets_of_a_plan_have_seeds_of_their_own():
    plan = Plan()
    recipes = (plan.studio, plan.any_style, plan.malformed)
    assert len({recipe.seed for recipe in recipes}) == 3
    assert (plan.studio.style, plan.any_style.style, plan.malformed.style) == (0.0, None, None)
    assert [recipe.malformed for recipe in recipes] == [False, False, True]


def test_a_scaled_plan_changes_counts_alone():
    plan, tenth = Plan(), Plan().scaled(0.1)
    assert tenth.studio == RenderRecipe("studio", 6_400, 101, 0.0, extra_distractor=0.10)
    assert tenth.denoiser.steps == plan.denoiser.steps // 10
    assert tenth.denoiser.lr == plan.denoiser.lr
    assert plan.scaled(1.0) == plan
    assert plan.scaled(0).studio.count >= plan.clip.batch_size  # or no batch would be full
    assert plan.scaled(0).oracle.steps > 0


# ------------------------------------------------------------------------------ text
def test_every_word_of_every_caption_is_one_token(tokenizer):
    for species in SPECIES:
        for context in CONTEXTS:
            caption = full_caption(species, context, DISTRACTORS)
            words = caption.replace(",", " ,").split()
            assert tokenizer.tokenize(caption) == [f"{word}</w>" for word in words]
            assert len(words) + 2 <= tokenizer.model_max_length


def test_drawn_captions_hold_no_unknown_word(tokenizer):
    rng = np.random.default_rng(5_000)
    for i in range(300):
        scene = draw_scene((5_000, i), extra_distractor=0.5)
        text = draw_caption(scene.species, scene.context, scene.distractors, rng).text
        assert len(tokenizer.tokenize(text)) == len(text.replace(",", " ,").split())
        assert (
            tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True)
            .replace(" ,", ",")
            .strip()
            == text
        )


def test_the_end_of_text_has_the_highest_id(tokenizer):
    assert tokenizer.eos_token_id == len(tokenizer) - 1 == max(tokenizer.get_vocab().values())
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    assert sorted(tokenizer.get_vocab().values()) == list(range(len(tokenizer)))
    ids = tokenizer(["", "a bird"], padding="max_length").input_ids
    assert [len(row) for row in ids] == [32, 32]
    assert all(row[0] == tokenizer.bos_token_id for row in ids)
    assert ids[0][1:] == [tokenizer.eos_token_id] * 31


def test_words_of_captions_have_the_same_ids_each_time(tokenizer):
    # Or a resumed training would read other words than the ones it learned.
    captions = [full_caption(s, c, DISTRACTORS) for s in SPECIES for c in CONTEXTS]
    for _ in range(5):
        assert build_vocabulary()(captions).input_ids == tokenizer(captions).input_ids


# ------------------------------------------------------------------------------ autoencoder
def test_psnr_is_that_of_torchmetrics():
    torch.manual_seed(0)
    model, images = build_autoencoder().eval(), fresh_renders().images[:5]
    x = as_input(images, torch.arange(5))
    with torch.inference_mode():
        decoded = model.decode(model.encode(x).latent_dist.mode()).sample.clamp(-1, 1)
    pairs = zip(decoded, x, strict=True)
    expected = [peak_signal_noise_ratio(a, b, data_range=2.0).item() for a, b in pairs]
    assert psnr(model, images, batch_size=2) == pytest.approx(expected, abs=1e-3)


def test_inputs_span_minus_one_to_one():
    images = np.zeros((2, 64, 64, 3), np.uint8)
    images[1, :, :, 2] = 255
    x = as_input(images, torch.tensor([1, 0])).cpu()
    assert x.shape == (2, 3, 64, 64)
    assert x[0, 2].unique().tolist() == [1]
    assert x[0, :2].unique().tolist() == x[1].unique().tolist() == [-1]


def test_latents_are_those_of_the_autoencoder():
    torch.manual_seed(0)
    model, images = build_autoencoder().eval(), fresh_renders().images[:5]
    moments = encode_all(model, images, batch_size=2)
    with torch.inference_mode():
        latents = model.encode(as_input(images, torch.arange(5))).latent_dist
    assert moments.shape == (5, 8, 16, 16)
    assert torch.allclose(moments[:, :4].float(), latents.mean.cpu(), atol=1e-2)
    assert torch.allclose(moments[:, 4:].float(), latents.logvar.cpu(), atol=1e-2)


# ------------------------------------------------------------------------------ denoiser
def noised(sigmas):
    torch.manual_seed(0)
    latents = torch.randn(len(sigmas), 4, 16, 16)
    sigma = torch.tensor(sigmas).view(-1, 1, 1, 1)
    return latents, latents + sigma * torch.randn_like(latents), sigma


def test_the_target_gives_the_clean_latents_back():
    scheduler = build_scheduler()
    latents, noisy, sigma = noised([0.02, 0.3, 1.0, 5.0, 40.0])
    target = _v_target(scheduler, latents, noisy, sigma).cpu()
    denoised = scheduler.precondition_outputs(noisy, target, sigma)
    assert torch.allclose(denoised, latents, atol=1e-4)
    assert 0.5 < target.std() < 2  # of unit scale at all noise levels, as preconditioning is for


def test_the_target_is_what_a_step_of_the_sampler_expects():
    scheduler = build_scheduler()
    scheduler.set_timesteps(8)
    for i, timestep in enumerate(scheduler.timesteps):
        latents, noisy, sigma = noised([scheduler.sigmas[i].item()] * 3)
        scaled = scheduler.scale_model_input(noisy, timestep)
        assert torch.allclose(scaled, scheduler.precondition_inputs(noisy, sigma))
        assert torch.allclose(timestep, scheduler.precondition_noise(sigma.flatten()[0]))
        target = _v_target(scheduler, latents, noisy, sigma).cpu()
        shown = scheduler.step(target, timestep, noisy).pred_original_sample
        assert torch.allclose(shown, latents, atol=1e-4)


def test_training_feeds_the_unet_what_the_sampler_feeds_it(tokenizer):
    torch.manual_seed(0)
    denoiser = Denoiser(build_unet(), build_text_encoder(tokenizer)).eval()
    pipeline = assemble(build_autoencoder(), denoiser.text_encoder, tokenizer, denoiser.unet)
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


# ------------------------------------------------------------------------------ CLIP
def features(count=6, seed=0):
    torch.manual_seed(seed)
    return (nn.functional.normalize(torch.randn(count, 16), dim=1) for _ in range(2))


def test_contrastive_loss_is_plain_info_nce_where_no_other_pair_is_true():
    images, words = features()
    expected = ClipLoss()(images, words, torch.tensor(10.0))
    for true in (torch.eye(6, dtype=torch.bool), torch.zeros(6, 6, dtype=torch.bool)):
        assert torch.allclose(contrastive_loss(10 * images @ words.T, true), expected)


def test_other_true_pairs_do_not_count():
    images, words = features()
    logits = (10 * images @ words.T).requires_grad_()
    true = torch.eye(6, dtype=torch.bool)
    true[0, 3] = true[3, 0] = true[2, 5] = True
    other = true & ~torch.eye(6, dtype=torch.bool)
    loss = contrastive_loss(logits, true)
    loss.backward()
    assert (logits.grad[other] == 0).all()
    assert (logits.grad[~other] != 0).all()
    with torch.no_grad():
        changed = contrastive_loss(logits.masked_fill(other, 50.0), true)
        weights = logits.exp() * ~other
        own = weights.diagonal()
        by_hand = -((own / weights.sum(0)).log() + (own / weights.sum(1)).log()).mean() / 2
    assert torch.allclose(loss, changed)
    assert torch.allclose(loss, by_hand)


def test_contrastive_loss_is_nothing_where_all_pairs_are_true():
    assert contrastive_loss(torch.randn(4, 4), torch.ones(4, 4, dtype=torch.bool)) == 0


def test_true_pairs_are_those_of_which_the_caption_claims_nothing_false():
    rng = np.random.default_rng(5_000)
    scenes = [draw_scene((5_000, i), extra_distractor=0.5) for i in range(60)]
    captions = [draw_caption(s.species, s.context, s.distractors, rng) for s in scenes]
    expected = [
        [
            caption.species in (None, scene.species)
            and caption.context in (None, scene.context)
            and set(caption.distractors) <= set(scene.distractors)
            for caption in captions
        ]
        for scene in scenes
    ]
    facts = _encode(*zip(*((s.species, s.context, s.distractors) for s in scenes), strict=True))
    true = _truth(facts, _encode_captions(captions))
    assert true.tolist() == expected
    assert true.diagonal().all()
    assert 0.02 < true.float().mean() < 0.5


# ------------------------------------------------------------------------------ oracle
def test_targets_are_the_facts():
    facts = fresh_renders(malformed=True).facts
    species, context, distractors, malformed = encode_facts(facts)
    gone = (facts["malformation"] == "no bird").to_numpy(copy=True)
    assert 0 < gone.sum() < len(facts)
    assert (species[gone] == -100).all()
    assert [SPECIES[i] for i in species[~gone]] == facts["species"][~gone].tolist()
    assert [CONTEXTS[i] for i in context] == facts["context"].tolist()
    named = [{DISTRACTORS[i] for i in row.nonzero().flatten()} for row in distractors]
    assert named == [set(names) for names in facts["distractors"]]
    assert malformed.unique().tolist() == [1]
    assert encode_facts(fresh_renders().facts)[3].unique().tolist() == [0]


def test_a_bird_that_is_not_there_has_no_species():
    torch.manual_seed(0)
    logits = [torch.randn(2, 12), torch.randn(2, 16), torch.randn(2, 5), torch.randn(2)]
    targets = [torch.tensor([4, -100]), torch.tensor([1, 2]), torch.ones(2, 5), torch.ones(2)]
    loss = oracle_loss(tuple(logits), targets)
    logits[0][1] = torch.randn(12)
    assert oracle_loss(tuple(logits), targets) == loss
    logits[0][0] = torch.randn(12)
    assert oracle_loss(tuple(logits), targets) != loss


# ------------------------------------------------------------------------------ start
def test_a_stage_begins_from_its_seed_or_from_given_weights():
    first, again = (_begin(build_autoencoder, seed, None) for seed in (0, 0))
    assert_equal(first, again)
    other = _begin(build_autoencoder, 1, None)
    assert not torch.equal(other.decoder.conv_out.weight, first.decoder.conv_out.weight)
    shipped_halves = build_autoencoder().half()
    warm = _begin(build_autoencoder, 0, shipped_halves)
    assert {p.dtype for p in warm.parameters()} == {torch.float32}
    assert_equal(warm.cpu(), shipped_halves.float())


# ------------------------------------------------------------------------------ all in small
@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """`make pretrain` at the smallest scale, into a folder that holds older files."""
    folder = tmp_path_factory.mktemp("pretrain")
    (folder / "weights").mkdir()
    (folder / "weights" / "old.bin").write_bytes(b"of an older release")
    work, out = str(folder / "work"), str(folder / "weights")
    threads = torch.get_num_threads()
    command.main(["--scale", "0", "--work", work, "--out", out, "--note", "a trial"])
    torch.set_num_threads(threads)
    return folder


def test_pretraining_writes_what_is_shipped(trained):
    def files(root):
        return {f.relative_to(root).as_posix() for f in Path(root).rglob("*") if f.is_file()}

    assert {file.name for file in trained.iterdir()} == {"work", "weights"}
    assert files(trained / "weights") == files(WEIGHTS)
    verify(trained / "weights")


def test_pretraining_describes_what_it_did(trained):
    facts = json.loads((trained / "weights" / "facts.json").read_text(encoding="utf-8"))
    assert set(facts["training"]) == {"autoencoder", "denoiser", "clip", "oracle"}
    assert facts["training"]["denoiser"]["images"] == 2 * 64
    assert all(part["parameters"] > 100_000 for part in facts["training"].values())
    assert set(facts["quality"]) == {"psnr_db", *RATES}
    assert all(0 <= facts["quality"][name] <= 1 for name in RATES)
    assert 5 < facts["quality"]["psnr_db"] < 25  # two steps do not make an autoencoder
    assert shipped_quality(trained / "weights") == facts["quality"]
    assert (facts["species"], facts["contexts"], facts["distractors"]) == (12, 16, 5)
    card = (trained / "weights" / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "- a trial" in card
    assert all(f"| `{name}` | " in card for name in ("psnr_db", *RATES))


def test_what_was_written_is_what_was_trained(trained):
    models = load(trained / "weights")
    kept = {
        name: torch.load(trained / "work" / f"{name}.pt", weights_only=True)["average"]
        for name in ("autoencoder", "denoiser", "clip", "oracle")
    }
    denoiser = Denoiser(models.pipeline.unet, models.pipeline.text_encoder_2)
    for name, model in (("autoencoder", models.pipeline.vae), ("denoiser", denoiser),
                        ("clip", models.clip), ("oracle", models.oracle)):  # fmt: skip
        for key, value in model.named_parameters():
            assert torch.equal(value, kept[name][f"module.{key}"].half().float()), (name, key)


def test_latents_have_unit_variance(trained):
    moments = torch.load(next((trained / "work").glob("latents-*.pt")), weights_only=True)
    scaling_factor = load(trained / "weights").pipeline.vae.config.scaling_factor
    assert (moments[:, :4].float() * scaling_factor).std() == pytest.approx(1, abs=0.01)


# ------------------------------------------------------------------------------ what ships
def test_shipped_autoencoder_is_sharp():
    assert psnr(shipped().pipeline.vae, fresh_renders().images).mean() >= 30


@pytest.fixture(scope="module")
def zero_shot():
    return measure_clip(shipped().clip, shipped().tokenizer, fresh_renders())


@pytest.mark.parametrize("fact", ["species", "context"])
def test_shipped_clip_knows_what_it_was_never_asked(zero_shot, fact):
    assert zero_shot[f"clip_zero_shot_{fact}"] >= 0.95


def test_shipped_clip_reads_the_vocabulary_of_the_text_to_image_model():
    theirs = open_clip.get_tokenizer(f"local-dir:{WEIGHTS / 'clip'}")
    captions = ["", *(full_caption(s, CONTEXTS[i], DISTRACTORS) for i, s in enumerate(SPECIES))]
    ours = shipped().tokenizer(captions, padding="max_length", return_tensors="pt").input_ids
    assert torch.equal(theirs(captions), ours)


def test_shipped_card_tells_the_quality_that_was_asked_for():
    quality = shipped_quality()
    assert quality["psnr_db"] >= 30
    for name in RATES:
        floor = {"clip": 0.95, "oracle": 0.98 if name.endswith(("species", "context")) else 0.97}
        assert quality[name] >= floor[name.split("_")[0]], name


def test_shipped_sampler_is_that_of_the_paper():
    scheduler = shipped().pipeline.scheduler
    assert type(scheduler).__name__ == "EDMEulerScheduler"
    assert scheduler.config.prediction_type == "v_prediction"
    assert scheduler.config.sigma_schedule == "exponential"
    assert isinstance(shipped(), Models)
