"""A download is whole or not there; the fetching itself is a stub, as tests use no network."""

import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest
import torchvision.datasets.utils as fetcher
from layouts import PHOTOGRAPHS, lay_out, needs_photographs

from diffcore.params import DataParams
from diffcore.photos import PhotosError, describe, download, find_missing, sites

pytestmark = needs_photographs

SETS = ("cub200", "flowers102", "caltech101", "cifar100", "tiny_imagenet")


def pack(dataset, home, archives):
    """Pack a laid-out set as its publisher does."""
    archives.mkdir()
    if dataset == "caltech101":
        inner = archives / "caltech-101"
        inner.mkdir()
        for name, mode in (("101_ObjectCategories.tar.gz", "w:gz"), ("Annotations.tar", "w")):
            with tarfile.open(inner / name, mode) as file:
                file.add(home / name.partition(".")[0], name.partition(".")[0])
        with zipfile.ZipFile(archives / "caltech-101.zip", "w") as file:
            for path in inner.iterdir():
                file.write(path, f"caltech-101/{path.name}")
            file.writestr("__MACOSX/caltech-101/._Annotations.tar", b"no archive")
    elif dataset == "tiny_imagenet":
        with zipfile.ZipFile(archives / "tiny-imagenet-200.zip", "w") as file:
            for path in home.rglob("*"):
                file.write(path, path.relative_to(home.parent))
    elif dataset == "flowers102":
        with tarfile.open(archives / "102flowers.tgz", "w:gz") as file:
            file.add(home / "jpg", "jpg")
        for name in ("imagelabels.mat", "setid.mat"):
            shutil.copy(home / name, archives)
    else:
        name = {"cub200": "CUB_200_2011.tgz", "cifar100": "cifar-100-binary.tar.gz"}[dataset]
        with tarfile.open(archives / name, "w:gz") as file:
            file.add(home, home.name)


@pytest.fixture
def offer(tmp_path, monkeypatch):
    """Offer a set for download, and note what is fetched."""

    def stub(dataset):
        lay_out(dataset, tmp_path / "published", PHOTOGRAPHS, per_class=1, classes=2)
        (home,) = (tmp_path / "published").iterdir()
        pack(dataset, home, tmp_path / "archives")
        fetched = []

        def download_url(url, root, filename, md5):
            assert url.endswith(f"/{filename}")
            assert len(md5) == 32
            fetched.append(filename)
            shutil.copy(tmp_path / "archives" / filename, root)

        monkeypatch.setattr(fetcher, "download_url", download_url)
        return fetched

    return stub


def settings(dataset, root, **changes):
    return DataParams(dataset=dataset, root=str(root), download=True, **changes)


def contents(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@pytest.mark.parametrize("dataset", SETS)
@pytest.mark.parametrize("own_folder", [False, True])
def test_a_set_arrives_whole_and_once(tmp_path, offer, dataset, own_folder):
    fetched = offer(dataset)
    (home,) = (tmp_path / "published").iterdir()
    root = tmp_path / "data" / (home.name if own_folder else "")
    data = settings(dataset, root)
    assert len(find_missing(data)) == 1
    download(data)
    assert find_missing(data) == []
    assert describe(data).startswith(f"{dataset}: 2 of ")
    assert [path.name for path in (tmp_path / "data").iterdir()] == [home.name]
    assert contents(tmp_path / "data" / home.name) == contents(home)
    once = list(fetched)
    download(data)
    assert fetched == once


def test_a_download_that_was_killed_leaves_no_set_and_is_begun_again(tmp_path, offer, monkeypatch):
    offer("cub200")
    data, unpack = settings("cub200", tmp_path / "data"), fetcher.extract_archive

    def killed(archive, folder, **options):
        unpack(archive, folder, **options)
        next(Path(folder).rglob("*.jpg")).unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr(fetcher, "extract_archive", killed)
    with pytest.raises(KeyboardInterrupt):
        download(data)
    assert not (tmp_path / "data" / "CUB_200_2011").exists()
    assert len(find_missing(data)) == 1
    monkeypatch.setattr(fetcher, "extract_archive", unpack)
    download(data)
    assert find_missing(data) == []


def test_a_file_that_cannot_be_fetched_is_named(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("File not found or corrupted.")

    monkeypatch.setattr(fetcher, "download_url", refuse)
    with pytest.raises(PhotosError, match=r"CUB_200_2011.tgz could not be fetched whole .* try"):
        download(settings("cub200", tmp_path))
    assert not (tmp_path / "CUB_200_2011").exists()


def test_a_folder_in_the_way_is_left_alone(tmp_path, offer):
    fetched = offer("cub200")
    mine = tmp_path / "data" / "CUB_200_2011" / "images.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("1 mine.jpg\n")
    with pytest.raises(PhotosError, match="CUB_200_2011 is not whole; move it away"):
        download(settings("cub200", tmp_path / "data"))
    assert mine.read_text() == "1 mine.jpg\n"
    assert fetched == []


@pytest.mark.parametrize(
    ("dataset", "why"), [("cars", "no longer online"), ("imagenet", "licence")]
)
def test_a_set_that_cannot_be_downloaded_says_why(tmp_path, dataset, why):
    with pytest.raises(PhotosError, match=f"{dataset} cannot be downloaded: .*{why}"):
        download(settings(dataset, tmp_path))
    with pytest.raises(PhotosError, match=r"folder cannot be downloaded: change data\.root"):
        download(settings("folder", tmp_path / "nowhere"))


def test_nothing_is_fetched_unasked(tmp_path, offer):
    fetched = offer("cub200")
    download(DataParams(dataset="cub200", root=str(tmp_path / "data")))
    assert fetched == []
    assert not (tmp_path / "data").exists()


def test_only_what_would_be_fetched_has_a_site(tmp_path):
    there = DataParams(**{key.partition(".")[2]: value for key, value in lay_out(
        "cub200", tmp_path / "whole", PHOTOGRAPHS).items()})  # fmt: skip
    absent = DataParams(dataset="cub200", root=str(tmp_path / "none"))
    asked = {"download": True}
    assert sites(absent) == sites(there.model_copy(update=asked)) == []
    assert [url.rpartition("/")[2] for url in sites(absent.model_copy(update=asked))] == [
        "CUB_200_2011.tgz"
    ]
