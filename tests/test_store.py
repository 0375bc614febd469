"""Files that are whole or absent, digests of content, and shards of images."""

import errno
import os
import pickle
import subprocess
import sys
import time
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import PROJECT
from datasets import load_dataset

from diffcore import store
from diffcore.data.generated import ShardImages
from diffcore.data.images import Lazy

TYPES = {"sample_id": "string", "seed": "int64", "height": "int32", "width": "int32"}


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 255, (70, 8, 8, 3)).astype(np.uint8)


@pytest.fixture
def wanted():
    names = [f"s{place}" for place in range(70)]
    return pd.DataFrame({"sample_id": names, "seed": range(70), "height": 8, "width": 8})


@pytest.fixture
def table(tmp_path):
    return store.ImageTable(tmp_path / "shards", TYPES, ["sample_id", "seed"])


def in_order(table, wanted):
    return table.metadata().set_index("sample_id").loc[wanted["sample_id"]].reset_index()


# -------------------------------------------------------------------------------------- whole files
def test_a_file_that_fails_half_way_leaves_the_old_one_and_nothing_beside_it(tmp_path):
    path = store.write_text(tmp_path / "a" / "b.txt", "old")

    def fail():
        with store.written_whole(path) as aside:
            aside.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_what_a_killed_writer_left_goes_after_a_day_and_no_writer_removes_another_s(tmp_path):
    """Containers on one disk may share the host's name and the number of the process."""
    old, young = (store._aside(tmp_path / "a.txt") for _ in "12")
    assert old != young
    for path, hours in ((old, 25), (young, 23)):
        path.write_text("half")
        os.utime(path, (0, time.time() - 3600 * hours))
    with store.written_whole(tmp_path / "a.txt") as aside:
        aside.write_text("whole")
        store.write_text(tmp_path / "a.txt", "another's")
        assert aside.read_text() == "whole"
    assert {path.name for path in tmp_path.iterdir()} == {"a.txt", young.name}


FULL = """
import resource, numpy as np, pandas as pd
from pathlib import Path
from diffcore import store
images, folder = np.random.default_rng(0).integers(0, 255, (70, 8, 8, 3), np.uint8), Path("runs")
types = {"seed": "int64", "height": "int32", "width": "int32"}
rows = pd.DataFrame({"seed": range(70), "height": 8, "width": 8})
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))  # no file may grow beyond that
for write in (
    lambda: store.write_text(folder / "a.txt", "a" * 9999),
    lambda: store.keep_array(images, folder / "a.npy"),
    lambda: store.ImageTable(folder, types, ["seed"]).fill(rows, lambda _: images, 70, None),
):
    try:
        write()
    except store.StorageError as error:
        print(error)
print([*folder.iterdir()])
"""


@pytest.mark.slow
def test_a_full_disk_is_told_with_the_folder_and_leaves_no_half(tmp_path):
    """In a process of its own, as the limit would hold for what the tests write, too."""
    run = subprocess.run(
        [sys.executable, "-c", FULL], cwd=tmp_path, capture_output=True, text=True, check=True,
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
    )  # fmt: skip
    *told, left = run.stdout.splitlines()
    full = f"cannot write to runs: {os.strerror(errno.EFBIG)}; free some space, or run where"
    assert [line.startswith(full) for line in told] == [True] * 3, told
    assert left == "[]"


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
@pytest.mark.parametrize("folder", [False, True])
def test_a_folder_that_lets_nobody_write_is_named(code, folder, tmp_path, monkeypatch):
    def refuse(path, *_, **__):
        raise OSError(code, os.strerror(code), str(path))

    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    problem = rf"cannot write to {tmp_path}: .*let this user"
    writing = store.written_whole(tmp_path / "a", folder=folder)
    with pytest.raises(store.StorageError, match=problem), writing:
        pass


def test_what_fails_in_the_block_for_another_reason_stays_what_it_is(tmp_path):
    with pytest.raises(FileNotFoundError), store.written_whole(tmp_path / "a"):
        (tmp_path / "absent").read_bytes()
    refused = PermissionError(errno.EACCES, "Permission denied", "/elsewhere/a.jpg")
    with pytest.raises(PermissionError, match="elsewhere"), store.written_whole(tmp_path / "a"):
        raise refused


# ------------------------------------------------------------------------------------------ digests
def test_a_digest_is_the_same_in_another_process():
    code = "from diffcore.store import digest; print(digest('a', {'b': [1, None]}))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == store.digest("a", {"b": [1, None]})
    assert found.stdout.strip() == "420cdf258c89f51358bd9ecb"  # it names what studies keep


def test_a_digest_tells_type_shape_content_and_parts_apart(images, monkeypatch):
    monkeypatch.setattr(store, "_HASHED_TOGETHER", 32)
    last = images.copy()
    last[-1, -1, -1, -1] ^= 1
    some = [images, last, images[:-1], images[::-1], images.view(np.int8)]
    some += [images.reshape(70, 4, 16, 3), "ab", b"a", ["ab"], {"a": 1}, {"a": 1.0}]
    found = [store.digest(part) for part in some] + [store.digest("a", "b"), store.digest("a", "")]
    assert len(set(found)) == len(found)


def test_an_array_on_the_disk_has_the_digest_of_the_same_one_in_memory(images, tmp_path):
    kept = store.keep_array(images, tmp_path / "kept.npy")
    assert store.digest(kept) == store.digest(images)


def test_a_file_that_changed_has_another_digest(tmp_path):
    path = store.write_text(tmp_path / "a.txt", "one")
    before = store.file_digest(path)
    store.write_text(path, "other")
    assert store.file_digest(path) != before


# -------------------------------------------------------------------------------------- kept arrays
def test_an_array_is_read_once_and_then_kept(images, tmp_path):
    kept = store.keep_array(images, tmp_path / "kept.npy")
    np.testing.assert_array_equal(kept, images)
    again = store.keep_array(np.zeros_like(images), tmp_path / "kept.npy")
    np.testing.assert_array_equal(again, images)
    assert not kept.flags.writeable
    for some in (images[:1], images[:0]):
        found = store.keep_array(some, tmp_path / f"{len(some)}.npy")
        assert (found.shape, found.dtype) == ((1, 8, 8, 3) if len(some) else (0, 0, 0, 3), np.uint8)
    assert not (tmp_path / "0.npy").exists()


def test_a_damaged_array_is_made_again(images, tmp_path, capsys):
    path = tmp_path / "kept.npy"
    store.keep_array(images, path)
    for kept in (80, 2000):  # of the header, and of the images
        path.write_bytes(path.read_bytes()[:kept])
        np.testing.assert_array_equal(store.keep_array(images, path), images)
        assert f"{path} is damaged" in capsys.readouterr().out


def test_every_image_that_cannot_be_read_is_told(images, tmp_path):
    def read(place):
        if place in (0, 7):
            raise ValueError(f"{place}.png is damaged")
        return images[place]

    with pytest.raises(ValueError, match=r"^0\.png is damaged\n7\.png is damaged$"):
        store.keep_array(Lazy(range(70), read), tmp_path / "kept.npy")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dumps", [pickle.dumps, ForkingPickler.dumps])
def test_another_process_is_sent_the_name_of_a_file_and_not_its_content(images, tmp_path, dumps):
    kept = store.keep_array(images, tmp_path / "kept.npy")
    for part, most in ((kept, 300), (kept[3:5], 3000), (kept[::-1], 2 * images.nbytes)):
        sent = bytes(dumps(part))
        np.testing.assert_array_equal(pickle.loads(sent), part)
        assert len(sent) < most
    np.testing.assert_array_equal(pickle.loads(dumps(pickle.loads(dumps(kept)))), images)


def test_arrays_of_the_user_are_sent_as_they_were_before_the_import(images, tmp_path):
    np.save(tmp_path / "own.npy", images)
    assert np.memmap not in ForkingPickler._extra_reducers
    assert len(ForkingPickler.dumps(np.load(tmp_path / "own.npy", mmap_mode="r"))) > images.nbytes


# ------------------------------------------------------------------------------------------- shards
def test_what_is_stored_is_read_back_to_the_last_bit(table, wanted, images):
    asked = []

    def images_of(rows):
        asked.extend(rows.index)
        return images[rows.index]

    table.fill(wanted.iloc[5:40], images_of, 16, None)
    table.fill(wanted, images_of, 64, None)
    assert sorted(asked) == list(range(70))  # each once
    assert table.missing(wanted).empty
    found = ShardImages(in_order(table, wanted))
    np.testing.assert_array_equal(found[:], images)
    np.testing.assert_array_equal(found[[60, 3]], images[[60, 3]])
    np.testing.assert_array_equal(found[np.arange(70) % 7 == 0], images[::7])
    np.testing.assert_array_equal(found[-1], images[-1])
    assert found[[]].shape == (0, 8, 8, 3)
    assert ShardImages(in_order(table, wanted).head(0)).shape == (0, 0, 0, 3)
    assert found[:].dtype == found[-1].dtype == np.uint8
    with pytest.raises(IndexError):
        found[70]


def test_what_two_writers_stored_counts_once(table, wanted, images):
    rows = wanted.head(6)
    other = store.ImageTable(table.folder, TYPES, ["sample_id", "seed"])
    table.fill(rows, lambda rows: images[rows.index], 4, None)
    twice = rows.iloc[1:3].assign(embedding=None)
    other._write(table.folder / "b.parquet", twice, images[1:3], {})
    assert table.metadata().index.tolist() == [*range(6)]


class Mean:
    """An encoder: the mean colour of an image."""

    model_hash = "mean"

    def embed_unkept(self, images):
        return np.stack(images).mean(axis=(1, 2), dtype=np.float32)


def test_embeddings_lie_beside_the_images_for_the_encoder_that_made_them(table, wanted, images):
    table.fill(wanted, lambda rows: images[rows.index], 32, None, Mean)
    order = np.random.default_rng(0).permutation(70)[:40]
    found = ShardImages(in_order(table, wanted).iloc[order])
    expected = images[order].mean(axis=(1, 2), dtype=np.float32)
    np.testing.assert_array_equal(found.embeddings("mean"), expected)
    assert found.embeddings("another") is None
    table.fill(wanted.assign(seed=-1), lambda rows: images[rows.index], 32, None)
    without = table.metadata()
    assert ShardImages(without).embeddings("mean") is None  # some have none
    assert len(ShardImages(without[without["seed"] >= 0]).embeddings("mean")) == 70


def test_units_are_fixed_ranges_whatever_is_there_already(table, wanted, images):
    """What is made together does not depend on kills and other processes."""
    asked = []

    def images_of(rows):
        asked.append(rows.index.tolist())
        return images[rows.index]

    table.fill(wanted, images_of, 30, None)
    lost = Path(in_order(table, wanted)["shard"][0])
    lost.unlink()
    table.fill(wanted, images_of, 30, None)
    whole, middle, end, again = asked
    assert (whole, middle, end) == ([*range(30)], [*range(30, 60)], [*range(60, 70)])
    assert again == whole
    assert lost.exists()  # under the name that it had


def test_a_unit_s_name_follows_from_all_that_decides_its_pixels(table, wanted, images, tmp_path):
    names = []
    for made in ({}, {}, {"batch_size": 2}):
        place = store.ImageTable(tmp_path / str(len(names)), TYPES, table.keys)
        place.fill(wanted, lambda rows: images[rows.index], 99, None, None, lambda made=made: made)
        names += [path.name for path in place.folder.iterdir()]
    assert names[0] == names[1] != names[2]


def test_a_damaged_shard_is_set_aside_and_made_again(table, wanted, images, capsys):
    rows = wanted.head(4)
    table.fill(rows, lambda rows: images[rows.index], 2, None)
    path = Path(in_order(table, rows)["shard"][0])
    path.write_bytes(path.read_bytes()[:-20])
    store._read_metadata.cache_clear()  # as another process comes to it
    assert table.missing(rows)["sample_id"].tolist() == wanted["sample_id"][:2].tolist()
    assert f"{path} is damaged" in capsys.readouterr().out
    assert path.with_suffix(".damaged").exists()
    table.fill(rows, lambda rows: images[rows.index], 2, None)
    np.testing.assert_array_equal(ShardImages(in_order(table, rows))[:], images[:4])


def test_a_damaged_image_in_a_shard_is_named_with_the_remedy(table, wanted, images):
    table.fill(wanted.head(4), lambda rows: images[rows.index], 4, None)
    (path,) = table.folder.glob("*.parquet")
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT") + 8] ^= 1  # a bit of an image has fallen over
    path.write_bytes(content)
    found = ShardImages(in_order(table, wanted.head(4)))
    with pytest.raises(ValueError, match=rf"{path.name} is damaged; delete it and run again"):
        found[:]


def test_shards_open_in_datasets_as_images(table, wanted, images, tmp_path):
    table.fill(wanted.head(3), lambda rows: images[rows.index], 4, None)
    files = str(table.folder / "*.parquet")
    opened = load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "cache"))["train"]
    np.testing.assert_array_equal(np.asarray(opened[1]["image"]), images[1])
