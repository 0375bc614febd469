"""A download is whole or not there; the fetching itself is a stub, as tests use no network."""

import shutil
from pathlib import Path

import pytest
import torchvision.datasets.utils as fetcher
from layouts import lay_out, settings

from diffcore.data import published
from diffcore.data.layouts import PhotosError, download, find_missing


def pack(home, name, archives):
    """Pack a laid-out set into a file as its publisher does."""
    if name == "caltech-101.zip":
        for folder, kind in (("101_ObjectCategories", "gztar"), ("Annotations", "tar")):
            shutil.make_archive(archives / "caltech-101" / folder, kind, home, folder)
        home = archives / "caltech-101"
    kind = "zip" if name.endswith("zip") else "gztar"
    return shutil.make_archive(archives / "packed", kind, home.parent, home.name)


@pytest.fixture
def offer(tmp_path, monkeypatch, photographs):
    """Offer a set for download; return its files, and the names of what is fetched."""

    def stub(dataset):
        (tmp_path / "archives").mkdir()
        lay_out(dataset, tmp_path / "published", photographs, per_class=1, classes=2)
        (home,), fetched = (tmp_path / "published").iterdir(), []

        def download_url(url, root, filename, md5):
            assert (len(md5), url.rpartition("/")[2]) == (32, filename)
            fetched.append(filename)
            shutil.copy(pack(home, filename, tmp_path / "archives"), Path(root, filename))

        monkeypatch.setattr(fetcher, "download_url", download_url)
        return {path.relative_to(home) for path in home.rglob("*")}, fetched

    return stub


def asked(dataset, root):
    return settings(dataset=dataset, root=str(root), download=True)


@pytest.mark.parametrize("dataset", ["cub200", "caltech101", "tiny_imagenet"])
def test_a_set_arrives_whole_and_once_if_asked_for(tmp_path, offer, dataset):
    files, fetched = offer(dataset)
    data = asked(dataset, tmp_path / "data")
    download(data.model_copy(update={"download": False}))
    assert (fetched, (tmp_path / "data").exists()) == ([], False)
    for _ in range(2):
        download(data)
        assert find_missing(data) == []
    (home,) = (tmp_path / "data").iterdir()
    assert len(fetched) == 1
    assert {path.relative_to(home) for path in home.rglob("*")} == files


def test_a_download_that_was_killed_leaves_no_set_and_is_begun_again(tmp_path, offer, monkeypatch):
    files, _ = offer("caltech101")
    data, unpack = asked("caltech101", tmp_path / "data"), published.extract_archive

    def killed(archive, folder):
        unpack(archive, folder)
        next(Path(folder).rglob("*.*")).unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr(published, "extract_archive", killed)
    with pytest.raises(KeyboardInterrupt):
        download(data)
    assert len(find_missing(data)) == 1
    monkeypatch.setattr(published, "extract_archive", unpack)
    download(data)
    home = tmp_path / "data" / "caltech101"
    assert {path.relative_to(home) for path in home.rglob("*")} == files


def test_what_cannot_be_fetched_is_told(tmp_path, monkeypatch):
    for dataset, why in (("cars", "no longer online"), ("imagenet", "licence"), ("folder", "root")):
        with pytest.raises(PhotosError, match=f"{dataset} cannot be downloaded: .*{why}"):
            download(asked(dataset, tmp_path / "nowhere"))

    def refuse(*_, **__):
        raise RuntimeError("File not found or corrupted.")

    monkeypatch.setattr(published, "download_and_extract_archive", refuse)
    with pytest.raises(PhotosError, match=r"cub_200_2011/ could not be fetched whole; try again"):
        download(asked("cub200", tmp_path))
    (mine := tmp_path / "CUB_200_2011" / "images.txt").parent.mkdir()
    mine.write_text("1 mine.jpg\n")
    with pytest.raises(PhotosError, match="CUB_200_2011 is not whole; move it away"):
        download(asked("cub200", tmp_path))
