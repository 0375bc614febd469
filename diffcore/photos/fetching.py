"""Download a published set: checked by its MD5, and in place whole or not at all.

torchvision's own functions fetch, with bars, and unpack. All happens in a hidden folder beside the
set, which is renamed at the end: a killed download is begun again, but for files that are complete.
"""

import shutil
from pathlib import Path

from diffcore.params import DataParams
from diffcore.photos.catalogue import PhotosError
from diffcore.photos.known import PUBLISHED, Published, advice
from diffcore.photos.layouts import read_catalogue

ARCHIVES = (".tgz", ".tar", ".tar.gz", ".zip")


def download(settings: DataParams) -> None:
    """Fetch a set into its root, if it is not there and `settings.download` asks for it.

    Raises:
        PhotosError: for a set that cannot be downloaded, whose folder is in the way, or of which
            the download did not make a whole.
    """
    published = PUBLISHED.get(settings.dataset)
    if not settings.download or _is_whole(settings):
        return
    if published is None or not published.archives:
        how = advice(settings.dataset, settings.root) if published else "change data.root"
        raise PhotosError([f"{settings.dataset} cannot be downloaded: {how}"])
    root = Path(settings.root).expanduser()
    target = root if root.name == published.folder else root / published.folder
    if target.exists() and any(target.iterdir()):
        raise PhotosError([f"{target} is not whole; move it away, and it is downloaded anew"])
    _fetch_into(published, target)
    read_catalogue(settings)


def sites(settings: DataParams) -> list[str]:
    """Where `download` would get a set from: addresses; [] if it would not try, or need not."""
    published = PUBLISHED.get(settings.dataset)
    if not settings.download or published is None or _is_whole(settings):
        return []
    return [archive.url for archive in published.archives]


def _is_whole(settings: DataParams) -> bool:
    try:
        read_catalogue(settings)
    except PhotosError:
        return False
    return True


def _fetch_into(published: Published, target: Path) -> None:
    """Fetch and unpack all files of a set aside, then move them to their folder."""
    from torchvision.datasets.utils import download_url

    aside = target.parent / f".{target.name}.download"
    unpacked = aside / "unpacked"
    shutil.rmtree(unpacked, ignore_errors=True)  # half of it, from a run that was killed
    unpacked.mkdir(parents=True)
    for file in published.archives:
        try:
            download_url(file.url, str(aside), file.name, file.md5)
        except (OSError, RuntimeError) as error:  # torchvision's, for another MD5
            where = f"{file.url} could not be fetched whole ({error})"
            raise PhotosError([f"{where}; try again, or get it from {published.page}"]) from error
        _unpack(aside / file.name, unpacked)
    found = next(unpacked.rglob(published.marker), None)
    if found is None:
        raise PhotosError([f"{published.page}: its files hold no {published.marker} any more"])
    if target.exists():
        target.rmdir()
    found.parent.rename(target)
    shutil.rmtree(aside)


def _unpack(file: Path, folder: Path) -> None:
    """Unpack an archive, and those in it; any other file is copied."""
    from torchvision.datasets.utils import extract_archive

    if not file.name.endswith(ARCHIVES):
        shutil.copy(file, folder)
        return
    extract_archive(str(file), str(folder))
    # Caltech-101's holds two archives.
    inside = [path for path in folder.rglob("[!.]*") if path.name.endswith(ARCHIVES)]
    for inner in inside:
        extract_archive(str(inner), str(inner.parent), remove_finished=True)
