"""Real images meet the generated ones that were drawn for them, whatever the real ones are."""

import os
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import ClassLabel, Dataset, Features
from datasets import Image as ImageFeature
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import FakeData, ImageFolder
from torchvision.transforms import v2

from diffcore.data.images import fit
from diffcore.data.layouts import PhotosError
from diffcore.data.pairs import PairedDataset
from diffcore.data.splits import Split
from diffcore.generation.draw import fill_shards

CLASSES = ("a", "b")


def pixels(count, side=8, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), np.uint8)


@pytest.fixture
def real():
    labels = np.array([0, 0, 0, 1, 1])
    metadata = pd.DataFrame({"source_id": [f"r{n}" for n in range(5)], "label": labels})
    names = [CLASSES[label] for label in labels]
    return Split("train", CLASSES, metadata.assign(class_name=names), pixels(5))


@pytest.fixture
def generated():
    rows = [("r4", "b"), ("gone", "a"), ("r0", "a"), ("r4", "b"), ("gone", "a"), ("gone", "b")]
    table = pd.DataFrame(rows, columns=["source_id", "class_name"], index=[5, 7, 9, 11, 13, 15])
    return SimpleNamespace(metadata=table, images=pixels(6, 16, 1))


def test_each_image_goes_to_its_own_or_in_turn_to_one_of_its_class(real, generated):
    pairs = PairedDataset(real, generated)
    # Of "a", r0 is the second in turn, so the strangers are first and third: places 0 and 2.
    assert pairs.source.tolist() == [4, 0, 0, 4, 2, 3]
    assert [places.tolist() for places in pairs.counterparts] == [[1, 2], [], [4], [5], [0, 3]]
    assert np.array_equal(pairs.generated, np.stack([fit(i, 8, 8) for i in generated.images]))
    some = PairedDataset(real.take([3, 4, 0]), generated)
    assert some.source.tolist() == [1, 2, 2, 1, 2, 0]
    generated.metadata.loc[5] = ("r4", "c")  # its own is there, whatever it is called
    assert PairedDataset(real, generated).source[0] == 4
    generated.metadata.loc[5] = ("gone", "c")
    with pytest.raises(ValueError, match="no real image of 'c', for which images were drawn"):
        PairedDataset(real, generated)


def test_an_item_is_a_pair_drawn_by_chance(real, generated):
    pairs, seen = PairedDataset(real, generated), set()
    whole = torch.from_numpy(pairs.generated).permute(0, 3, 1, 2) / 255
    for seed in range(12):
        torch.manual_seed(seed)
        own, other, label = pairs[4]
        assert torch.equal(own, torch.from_numpy(real.images[4]).permute(2, 0, 1) / 255)
        seen |= {place for place in range(6) if torch.equal(other, whole[place])}
    assert (seen, label) == ({0, 3}, 1)
    own, other, label = pairs[1]
    assert torch.equal(own, other)
    assert len(list(pairs)) == 5


def test_a_batch_holds_the_pairs_asked_for(real, generated):
    pairs = PairedDataset(real, generated)
    own, other, labels = pairs.__getitems__([(4, 3), (1, -1), (0, 2)])
    assert own.dtype == other.dtype == torch.uint8
    assert np.array_equal(own, real.images[[4, 1, 0]])
    assert np.array_equal(other[::2], pairs.generated[[3, 2]])
    assert torch.equal(other[1], own[1])
    assert labels.tolist() == [1, 0, 0]


def test_a_transform_acts_on_both_alike_and_a_loader_makes_batches(real):
    # Each image is its own counterpart.
    pairs = PairedDataset(real, real, v2.Compose([v2.RandomHorizontalFlip(), v2.RandomCrop(4)]))
    for own, other, labels in DataLoader(pairs, batch_size=2, shuffle=True):
        assert own.shape == (len(labels), 3, 4, 4)
        assert type(own) is type(other) is torch.Tensor
        assert torch.equal(own, other)
    assert any(not torch.equal(pairs[0][0], pairs[0][0]) for _ in range(9))


def test_a_part_is_paired_as_if_there_were_no_more(real, generated):
    pairs = PairedDataset(real, generated)
    kept = np.array([True, False, False, True, True, False])
    for part in (pairs.take_generated(kept), pairs.take_generated([0, 3, 4])):
        assert part.source.tolist() == [4, 4, 0]
        assert part.metadata.index.tolist() == [0, 1, 2]
        assert np.array_equal(part.generated, pairs.generated[[0, 3, 4]])
    bare = pairs.without_generated()
    assert bare.generated.shape == (0, 8, 8, 3)
    assert torch.equal(bare[4][0], bare[4][1])


def test_a_digest_follows_from_pixels_labels_and_pairing(real, generated):
    def of(split=real, **changes):
        return PairedDataset(split, SimpleNamespace(**(vars(generated) | changes))).digest

    labels = real.metadata["label"].to_numpy()[::-1]
    others = [
        of(images=generated.images[::-1]),
        of(metadata=generated.metadata.replace("r0", "r1")),
        of(Split("train", CLASSES, real.metadata.assign(label=labels), real.images)),
        PairedDataset(real, generated).without_generated().digest,
    ]
    assert len({of(), *others}) == 5
    assert of() == of(real.take(range(5)))


def test_fitted_images_are_kept_once_where_they_are_to_be(real, generated, tmp_path):
    for _ in range(2):
        pairs = PairedDataset(real, generated, cache_dir=tmp_path)
        assert isinstance(pairs.generated, np.memmap)
        assert pairs.digest == PairedDataset(real, generated).digest
        assert len(list(tmp_path.iterdir())) == 1


def test_real_images_may_be_a_folder_of_any_sizes(tmp_path):
    sizes = {"001.Kea/0": (10, 20), "001.Kea/1": (20, 10), "002.Black_Kite/0": (9, 9)}
    for name, (height, width) in sizes.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (width, height), (200, 0, 0)).save(tmp_path / f"{name}.png")
    rows = [("001.Kea/1", "kea"), ("gone", "black kite"), ("001.Kea/0", "kea")]
    table = pd.DataFrame(rows, columns=["source_id", "class_name"])
    generated = SimpleNamespace(metadata=table, images=pixels(3))
    pairs = PairedDataset(ImageFolder(tmp_path), generated)
    assert pairs.split.metadata["source_id"].tolist() == list(sizes)
    assert pairs.source.tolist() == [1, 2, 0]
    for (own, other, _), size in zip(pairs, sizes.values(), strict=True):
        assert own.shape == other.shape == (3, *size)
    resized = PairedDataset(ImageFolder(tmp_path), generated, v2.Resize((6, 6)))
    ((own, _, labels),) = DataLoader(resized, batch_size=3)
    assert (own.shape, labels.tolist()) == ((3, 3, 6, 6), [0, 0, 1])


def test_real_images_may_be_a_set_of_hugging_face():
    shown = [Image.fromarray(image) for image in pixels(3)]
    kinds = Features({"label": ClassLabel(names=["kea", "kite"]), "image": ImageFeature()})
    hub = Dataset.from_dict({"image": shown, "label": [1, 0, 1]}, kinds)
    pairs = PairedDataset(hub)
    assert (pairs.classes, pairs.labels.tolist()) == (("kea", "kite"), [1, 0, 1])
    np.testing.assert_array_equal(pairs.real[[0, 1, 2]], pixels(3))
    with pytest.raises(PhotosError, match="an Image and a ClassLabel are needed"):
        PairedDataset(hub.remove_columns("image"))


def test_real_images_may_be_any_data_set_of_torchvision():
    to_floats = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    for transform in (None, to_floats):
        pairs = PairedDataset(dataset := FakeData(4, (3, 7, 7), 2, transform))
        assert np.array_equal(pairs.real[1], np.asarray(FakeData(4, (3, 7, 7), 2)[1][0]))
        assert pairs.labels.tolist() == [int(label) for _, label in dataset]


@pytest.fixture
def run(tmp_path):
    """A run of three images, of which the first was drawn in another context too, and pixels."""
    rows = [("s0", "r0", "a", "x"), ("s1", "r4", "b", ""), ("s2", "r4", "b", "")]
    rows.append(("s0", "r0", "a", "y"))
    columns = ["sample_id", "source_id", "class_name", "context"]
    texts = dict.fromkeys(("prompt", "negative_prompt", "model", "model_hash"), "")
    numbers = ("seed", "num_inference_steps", "guidance_scale", "height", "width")
    numbers = dict.fromkeys(numbers, 16)
    drawn, images = pd.DataFrame(rows, columns=columns).assign(**texts, **numbers), pixels(4, 16)
    for some in (drawn.iloc[:3], drawn.iloc[3:]):
        fill_shards(some, lambda rows: images[rows.index], tmp_path / "generation", 2)
    (tmp_path / "decisions").mkdir()
    return drawn.iloc[:3], images


def decide(decisions, folder, key, accepted):
    decisions.assign(accepted=accepted).to_parquet(folder / "decisions" / f"{key}.parquet")


def test_a_run_gives_what_its_filter_accepted(real, run, tmp_path):
    with pytest.raises(FileNotFoundError, match="no decisions; run the notebook 02_filtering"):
        PairedDataset(real, str(tmp_path))
    drawn, images = run
    decide(drawn, tmp_path, "one", [True, False, True])
    (tmp_path / "decisions" / ".aside-x.one.parquet").touch()  # another process is writing it
    pairs = PairedDataset(real, str(tmp_path))
    assert pairs.source.tolist() == [0, 4]
    assert np.array_equal(pairs.generated, np.stack([fit(images[n], 8, 8) for n in (0, 2)]))
    decide(drawn.drop(columns="context"), tmp_path, "one", [True, False, True])
    with pytest.raises(ValueError, match=r"'s0' was drawn with several \['context'\]"):
        PairedDataset(real, str(tmp_path))


def test_of_several_decisions_a_key_chooses_and_never_the_time(real, run, tmp_path):
    decide(run[0], tmp_path, "old", [True, False, True])
    decide(run[0], tmp_path, "new", [False, True, False])
    os.utime(tmp_path / "decisions" / "old.parquet", (0, 0))
    assert PairedDataset(real, tmp_path, key="old").source.tolist() == [0, 4]
    assert PairedDataset(real, tmp_path, key="new").source.tolist() == [4]
    listed = r"new \(2\d{3}-.*, 1 images accepted\)\n  old \(19.*, 2 images accepted\)"
    for key, problem in ((None, "several filters decided"), ("x", "there are no decisions 'x'")):
        with pytest.raises(ValueError, match=rf"{problem}; take one of these keys:\n  {listed}"):
            PairedDataset(real, tmp_path, key=key)
