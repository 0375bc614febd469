"""The oracle: what it reads, what it refuses, and how far it can be trusted."""

import numpy as np
import pytest
import torch
from fresh import fresh_renders

from paperbirds import DISTRACTORS, load_oracle
from paperbirds.oracle import Oracle, as_images, as_input


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


def test_images_come_back_from_what_a_model_reads(images):
    x = as_input(images, torch.arange(7))
    assert np.array_equal(as_images(x), images)
    assert as_images(2 * torch.ones(1, 3, 2, 2)).min() == 255  # what is out of range is cut off


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((64, 64, 3), "uint8"), ((2, 3, 64, 64), "uint8"), ((2, 64, 64, 3), "float32")],
)
def test_other_images_are_refused(untrained, shape, dtype):
    with pytest.raises(ValueError, match=r"uint8 images \(N, 64, 64, 3\), got ") as caught:
        untrained.read(np.zeros(shape, dtype))
    assert str(caught.value).endswith(f"got {dtype} {shape}")


@pytest.mark.slow
def test_the_shipped_one_reads_fresh_renders():
    told = fresh_renders().metadata
    images = fresh_renders().images.copy()
    images.flags.writeable = False  # as those of a memory-mapped set
    seen = load_oracle().read(images)
    present = np.array([[name in names for name in DISTRACTORS] for names in told["distractors"]])
    assert present.any(axis=0).all()
    assert (seen.species == told["species"]).mean() >= 0.98
    assert (seen.context == told["context"]).mean() >= 0.98
    assert ((seen.distractors > 0.5) == present).mean() >= 0.97
    assert seen.wellformed.mean() >= 0.97
    broken = fresh_renders(malformed=True)
    seen = load_oracle().read(broken.images)
    assert (~seen.wellformed).mean() >= 0.97
    assert ((seen.empty > 0.5) == (broken.metadata["malformation"] == "no bird")).mean() >= 0.97
