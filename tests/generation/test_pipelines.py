"""Pipelines: loaded by one call, told apart by what decides about pixels, and lazily."""

import shutil

import pytest
import torch
from shipped import changed, load_shipped, make_spec

from diffcore.generation import load_pipeline
from diffcore.generation.pipelines import LazyPipeline, hash_model
from diffcore.params import SchedulerSpec
from diffcore.store import locate

SCHEDULER = {"scheduler": SchedulerSpec()}


@pytest.fixture(scope="module")
def pipeline():
    return load_shipped()


def local(folder, **changes):
    return make_spec(kind="folder", location=str(folder), **changes)


@pytest.fixture
def copied(tmp_path):
    """The shipped model in another place."""
    return shutil.copytree(locate(make_spec().location), tmp_path / "text_to_image")


def test_a_loaded_model_is_told_apart_by_what_decides_about_pixels(pipeline, copied):
    assert hash_model(load_pipeline(local(copied))) == hash_model(pipeline)
    others = [load_pipeline(make_spec(**each)) for each in ({"dtype": "bfloat16"}, SCHEDULER)]
    others.append(changed(pipeline))
    assert len({hash_model(other) for other in [pipeline, *others]}) == 4
    assert LazyPipeline.of(pipeline).digest == hash_model(pipeline)
    with pytest.raises(TypeError, match="Identity; a pipeline of SDXL"):
        LazyPipeline.of(torch.nn.Identity())


def test_a_lazy_model_is_told_apart_by_its_files_and_settings_without_being_loaded(copied):
    changes = ({}, {"dtype": "bfloat16"}, SCHEDULER, {"vae": str(copied / "vae")})
    lazy = [LazyPipeline(make_spec(**each)) for each in changes]
    assert len({each.digest for each in lazy}) == 4
    assert all(each._loaded is None for each in lazy)
    other = LazyPipeline(local(copied))
    assert (other.name, other.digest) == (lazy[0].name, lazy[0].digest)
    (copied / ".cache").mkdir()
    (copied / ".cache" / "download.lock").touch()
    assert LazyPipeline(local(copied)).digest == other.digest
    (copied / "unet" / "config.json").write_text("{}")
    assert LazyPipeline(local(copied)).digest != other.digest


def test_a_model_of_the_hub_is_told_apart_by_its_commit(copied, tmp_path, monkeypatch):
    from diffcore.generation import pipelines

    cached = {}
    monkeypatch.setattr(pipelines, "try_to_load_from_cache", lambda *at: cached.get(at))
    loads = []

    def fetch(spec):
        loads.append(spec)
        cached["owner/name", "model_index.json"] = "hub/snapshots/c0ffee/model_index.json"

    monkeypatch.setattr(pipelines, "load_pipeline", fetch)
    first, second = (LazyPipeline(make_spec(kind="hub", location="owner/name")) for _ in range(2))
    assert first.digest == second.digest
    assert len(loads) == 1
    cached["owner/name", "model_index.json"] = "hub/snapshots/decade/model_index.json"
    third = LazyPipeline(make_spec(kind="hub", location="owner/name"))
    assert third.name == "name"
    assert third.digest != first.digest


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"kind": "folder", "location": "no/such/folder"}, FileNotFoundError, "no/such/folder"),
        ({"kind": "single_file", "location": "a.ckpt"}, ValueError, "no .safetensors file"),
        ({"kind": "single_file", "location": "a.safetensors"}, FileNotFoundError, "location"),
    ],
)
def test_what_is_missing_or_unsafe_is_named(changes, error, message):
    with pytest.raises(error, match=message):
        load_pipeline(make_spec(**changes))
    if error is FileNotFoundError:
        with pytest.raises(error, match=message):
            _ = LazyPipeline(make_spec(**changes)).digest


def test_pickled_weights_are_refused(pipeline, copied):
    weights = copied / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(pipeline.unet.state_dict(), weights.with_suffix(".bin"))
    weights.unlink()
    with pytest.raises(OSError, match="safetensors"):
        load_pipeline(local(copied))
