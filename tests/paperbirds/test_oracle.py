"""The oracle: what it recognises, what it refuses, how far it can be trusted, whose file it is."""

import numpy as np
import pytest
import torch
from fresh import fresh_renders
from safetensors.torch import safe_open, save_file

from diffcore.store import DamageError, verify_sums
from paperbirds import DISTRACTORS, load_oracle
from paperbirds.oracle import WEIGHTS, Oracle


@pytest.fixture(scope="module")
def untrained():
    torch.manual_seed(0)
    return Oracle().eval()


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (7, 64, 64, 3), dtype=np.uint8)


def test_batch_size_does_not_change_a_reading(untrained, images):
    whole, parts = untrained.read(images), untrained.read(images, batch_size=3)
    assert whole.malformed == pytest.approx(parts.malformed, abs=1e-5)
    assert whole.distractors == pytest.approx(parts.distractors, abs=1e-5)
    assert whole.species.tolist() == parts.species.tolist()
    assert whole.distractors.shape == (7, len(DISTRACTORS))
    assert len(untrained.read(images[:0]).species) == 0


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((64, 64, 3), "uint8"), ((2, 3, 64, 64), "uint8"), ((2, 64, 64, 3), "float32")],
)
def test_other_images_are_refused(untrained, shape, dtype):
    with pytest.raises(ValueError, match=r"uint8 images \(N, 64, 64, 3\), got ") as caught:
        untrained.read(np.zeros(shape, dtype))
    assert str(caught.value).endswith(f"got {dtype} {shape}")


def test_the_file_is_loaded_as_it_was_saved_or_refused(tmp_path, untrained):
    path = tmp_path / "oracle.safetensors"
    save_file(untrained.state_dict(), path)
    loaded = load_oracle(path)
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    saved = untrained.state_dict()
    assert all(torch.equal(value, saved[name]) for name, value in loaded.state_dict().items())
    other = tmp_path / "other.safetensors"
    other.write_bytes(path.read_bytes()[:-1])
    (tmp_path / "SHA256SUMS").write_text("0" * 64 + "  other.safetensors\n")
    with pytest.raises(DamageError, match="is not the released file"):
        load_oracle(other)


def test_what_ships_is_what_was_released_without_pickles_and_in_half_precision():
    verify_sums(WEIGHTS)
    listed = {line.split("  ")[1] for line in (WEIGHTS / "SHA256SUMS").read_text().splitlines()}
    files = {f.relative_to(WEIGHTS).as_posix(): f for f in WEIGHTS.rglob("*") if f.is_file()}
    assert listed | {"SHA256SUMS"} == set(files)
    assert {f.suffix for f in files.values()} <= {".json", ".safetensors", ".md", ""}
    assert sum(f.stat().st_size for f in files.values()) < 25e6
    for file in WEIGHTS.rglob("*.safetensors"):
        with safe_open(file, "pt") as weights:
            kinds = {weights.get_tensor(name).dtype for name in weights.keys()}  # noqa: SIM118
        assert kinds <= {torch.float16, torch.int64}


@pytest.mark.slow
def test_the_shipped_one_recognises_fresh_renders():
    truth, seen = fresh_renders().metadata, load_oracle().read(fresh_renders().images)
    present = np.array([[name in names for name in DISTRACTORS] for names in truth["distractors"]])
    assert present.any(axis=0).all()
    assert (seen.species == truth["species"]).mean() >= 0.98
    assert (seen.context == truth["context"]).mean() >= 0.98
    assert ((seen.distractors > 0.5) == present).mean() >= 0.97
    assert seen.wellformed.mean() >= 0.97
    broken = fresh_renders(malformed=True)
    seen = load_oracle().read(broken.images)
    assert (~seen.wellformed).mean() >= 0.97
    assert ((seen.empty > 0.5) == (broken.metadata["malformation"] == "no bird")).mean() >= 0.97
