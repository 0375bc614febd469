"""Files that are whole or absent, digests of content, and tables of images in Parquet.

Everything that the study keeps goes through here, so that a kill at any moment leaves no half of a
file, two writers do not disturb each other, and an image lies beside all that is known about it.
The shards open in ``datasets.load_dataset("parquet", ...)`` with an Image feature. Our choice:
lossless PNG, lightly compressed, as denser files cost more time than disk.
"""

import errno
import hashlib
import importlib.util
import io
import json
import mmap
import os
import secrets
import shutil
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import lru_cache, partial
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from tqdm.auto import tqdm

from diffcore.params import UserError

_ROW_GROUP = 32  # images of a shard that are read at once, 14 MB of them at 512 x 512
_HELD_GROUPS = 4  # of these, kept in memory
_HASHED_TOGETHER = 1024  # images
_FETCHED = 64  # images, at most, in memory while an array is written
_MADE_BY = b"made_by"  # key of a shard's own metadata
_LEFT_ALONE = 24 * 3600  # seconds in which what is not whole may be another writer's
_NO_ROOM = "free some space, or run where there is more"
_NO_ENTRY = "let this user write there, or run in another folder"
#: What the system says of a place that takes no file -> the remedy.
_REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), _NO_ROOM),
    **dict.fromkeys(
        (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST), _NO_ENTRY
    ),
}


#: Begins a location inside an installed package: ``package:<import name>/<path>``.
PACKAGE = "package:"
SUMS = "SHA256SUMS"


class StorageError(UserError, OSError):
    """A folder that cannot be written to; the message names it and the remedy."""


class DamageError(UserError, OSError):
    """A file that is missing or is not the one that was released; the message has the remedy."""


# ---------------------------------------------------------------------------------------- locations
def locate(location: str | Path) -> Path:
    """Turn a path, or ``package:<import name>/<path>``, into a path; import nothing.

    FileNotFoundError for a package that is not installed.
    """
    if not str(location).startswith(PACKAGE):
        return Path(location)
    name, _, inside = str(location).removeprefix(PACKAGE).partition("/")
    if not name.isidentifier():
        raise ValueError(f"{location}: {name!r} is no package's name for import")
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        remedy = f"run `make setup`, or `pip install {name.replace('_', '-')}`"
        raise FileNotFoundError(f"the package {name} is not installed; {remedy}")
    return Path(next(iter(spec.submodule_search_locations)), inside)


@lru_cache
def verify_sums(path: Path) -> None:
    """Compare files at or below a path with a SHA256SUMS beside or in it, if there is one.

    A model that a broken download cut short would draw noise silently. DamageError names the file.
    """
    root = next((place for place in (path, path.parent) if (place / SUMS).is_file()), None)
    lines = (root / SUMS).read_text(encoding="utf-8").splitlines() if root else []
    for expected, name in (line.split("  ", 1) for line in lines):
        file = root / name
        if file.is_relative_to(path):
            remedy = f"restore it, for instance with `git checkout -- {file}`"
            if not file.is_file():
                raise DamageError(f"{file} is missing; {remedy}")
            if hashlib.sha256(file.read_bytes()).hexdigest() != expected:
                raise DamageError(f"{file} is not the released file; {remedy}")


# -------------------------------------------------------------------------------------- whole files
@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """Yield a path to write to, which takes the name of `path` when the block ends well.

    StorageError if the disk is full, or the folder lets nobody write.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with written_whole(Path(folder, "a.txt")) as aside:
    ...         _ = aside.write_text("whole")
    ...     Path(folder, "a.txt").read_text()
    'whole'
    """
    path = Path(path)
    aside = _aside(path)
    with naming_folder(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        _clear(path.parent)
        try:
            yield aside
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)


@contextmanager
def folder_whole(path: Path) -> Iterator[Path]:
    """Yield an empty folder, which takes the place of `path` when the block ends well."""
    aside = _aside(path)
    with naming_folder(path.parent):
        _clear(path.parent)
        aside.mkdir(parents=True)
        try:
            yield aside
            shutil.rmtree(path, ignore_errors=True)
            aside.rename(path)
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def _aside(path: Path) -> Path:
    """Name what is not whole, so that no two writers ever share it: hosts may be called alike."""
    writer = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    return path.with_name(f".aside-{writer}.{path.name}")


def _clear(folder: Path) -> None:
    """Remove what killed writers left; never what another may still be at work on."""
    for left in folder.glob(".aside-*"):
        with suppress(FileNotFoundError):  # it has just got its name, or another was faster
            if time.time() - left.stat().st_mtime > _LEFT_ALONE:
                shutil.rmtree(left) if left.is_dir() else left.unlink()


@contextmanager
def naming_folder(folder: Path) -> Iterator[None]:
    """Name the folder that cannot be written to, and the remedy."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        place = Path(error.filename or folder)
        near = place.is_relative_to(folder) or folder.is_relative_to(place)
        if not near or error.errno not in _REMEDIES:
            raise
        told = f"cannot write to {folder}: {error.strerror}; {_REMEDIES[error.errno]}"
        raise StorageError(told) from None


def read_kept(path: Path, read: Callable[[Path], Any]) -> Any:
    """Read what an earlier run kept; None if it is not there, or damaged, which a line says.

    Whoever calls makes it again then.
    """
    if not path.exists():
        return None
    try:
        return read(path)
    except Exception as error:  # each format has errors of its own for what is damaged
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        tqdm.write(f"{path} is damaged ({reason}); it is made again")
        return None


def write_bytes(path: str | Path, content: bytes) -> Path:
    """Write a file that appears whole or not at all; return its path."""
    with written_whole(path) as aside:
        aside.write_bytes(content)
    return Path(path)


def write_text(path: str | Path, text: str) -> Path:
    """Write a text file, in UTF-8, that appears whole or not at all; return its path."""
    return write_bytes(path, text.encode())


# ------------------------------------------------------------------------------------------ digests
def digest(*parts: Any) -> str:
    """Hash parts, the same on every machine and in every process: 24 hexadecimal digits.

    Args:
        parts: bytes and texts as they are; arrays, also those on a disk, by type, shape and
            content; anything else as JSON.

    >>> digest("a", {"b": [1, 2]}) == digest("a", {"b": [1, 2]}) != digest("a", {"b": [2, 1]})
    True
    """
    found = hashlib.sha256()
    for part in parts:
        for piece in _pieces(part):
            found.update(len(piece).to_bytes(8, "little") + piece)
    return found.hexdigest()[:24]


def _pieces(part: Any) -> Iterator[bytes]:
    """Yield the bytes of one part; of arrays a few rows at a time, as they may exceed memory."""
    if isinstance(part, bytes | str):
        yield part.encode() if isinstance(part, str) else part
    elif isinstance(part, np.ndarray):
        yield f"{part.dtype.str} {part.shape}".encode()
        for start in range(0, len(part), _HASHED_TOGETHER):
            yield np.ascontiguousarray(part[start : start + _HASHED_TOGETHER]).tobytes()
    else:
        yield json.dumps(part, sort_keys=True, default=str).encode()


@lru_cache(maxsize=256)
def _file_digest(path: str, size: int, changed_ns: int) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:24]


def file_digest(path: str | Path) -> str:
    """Hash the bytes of a file, once a process while it does not change: 24 hexadecimal digits."""
    path = Path(path).resolve()
    state = path.stat()
    return _file_digest(str(path), state.st_size, state.st_mtime_ns)


# -------------------------------------------------------------------------------------- kept arrays
def keep_array(images: Any, path: Path) -> np.ndarray:
    """Write images into a file, unless it is there, and return them as an array on the disk.

    Args:
        images: N of one size, (H, W, 3) uint8, fetched one by one.
        path: of the ``.npy`` file; its name must follow from what the images are.

    Returns:
        (N, H, W, 3) uint8, read-only; in memory if there is no image.

    Raises:
        ValueError: a line for each image that cannot be read.
    """
    if not len(images):
        return np.empty((0, 0, 0, 3), np.uint8)
    kept = read_kept(path, _open_array)
    if kept is None:
        with written_whole(path) as aside, aside.open("wb") as file:
            _write_array(images, file)
        kept = _open_array(path)
    return kept


def _write_array(images: Any, file: BinaryIO) -> None:
    """Write images as an array, not by mmap, where a full disk is a crash and no error.

    They are fetched by a thread a core, as decoders let others run meanwhile.
    """
    problems = []
    bar = tqdm(total=len(images), desc="read images", unit="image")
    with bar, ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(images), _FETCHED):
            places = range(start, min(start + _FETCHED, len(images)))
            for image in pool.map(partial(_fetch, images), places):
                bar.update()
                if isinstance(image, ValueError):
                    problems.append(str(image))
                    continue
                if not file.tell():
                    shape = (len(images), *image.shape)
                    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                    np.lib.format.write_array_header_1_0(file, header)
                file.write(image.tobytes())
    if problems:
        raise ValueError("\n".join(problems))


def _fetch(images: Any, place: int) -> np.ndarray | ValueError:
    try:
        return images[place]
    except ValueError as error:
        return error


def _open_array(path: Path) -> np.ndarray:
    return np.load(path, mmap_mode="r")


def _send(array: np.memmap) -> tuple:
    """Send a process the name of a file rather than its content, which may exceed memory."""
    whole = isinstance(array.base, mmap.mmap)  # and no part of it
    return (_open_array, (array.filename,)) if whole else array.__reduce__()


ForkingPickler.register(np.memmap, _send)


# --------------------------------------------------------------------------------- tables of images
class ImageTable:
    """A folder of Parquet shards: a row an image, with its PNG and all that decided about it.

    A shard appears whole or not at all, and never changes, so what was read of it stays in memory.
    Several processes may read and write one folder.
    """

    def __init__(self, folder: str | Path, types: dict[str, str], keys: Sequence[str]):
        """Take the types of the columns ("string", "int64" ...), and which tell images apart."""
        self.folder, self.keys, self.columns = Path(folder), list(keys), list(types)
        columns = {name: pa.type_for_alias(kind) for name, kind in types.items()}
        columns["image"] = pa.struct({"bytes": pa.binary(), "path": pa.string()})
        columns["embedding"] = pa.list_(pa.float32())
        # As Hugging Face's `datasets` writes it, which is not needed to read or write here.
        features = {name: {"dtype": kind, "_type": "Value"} for name, kind in types.items()}
        features["image"] = {"_type": "Image"}
        features["embedding"] = {"feature": {"dtype": "float32", "_type": "Value"}, "_type": "List"}
        told = {"huggingface": json.dumps({"info": {"features": features}})}
        self._schema = pa.schema(columns, metadata=told)

    def metadata(self) -> pd.DataFrame:
        """List every image once: its columns, and the ``shard`` (path) and ``row`` that hold it.

        A damaged shard is set aside, so that what it held counts as missing.
        """
        empty = self._schema.empty_table().to_pandas()[self.columns]
        frames = []
        for path in sorted(self.folder.glob("[!.]*.parquet")):
            frame = read_kept(path, partial(_read_metadata, columns=tuple(self.columns)))
            if frame is None:
                with suppress(FileNotFoundError):  # another process was faster
                    path.rename(path.with_suffix(".damaged"))
            else:
                frames.append(frame)
        frames = [frame for frame in frames if len(frame)] or [empty.assign(shard="", row=0)]
        return pd.concat(frames, ignore_index=True).drop_duplicates(self.keys, ignore_index=True)

    def missing(self, wanted: pd.DataFrame) -> pd.DataFrame:
        """Return the rows of which the folder holds no image with the same `keys`."""
        held = self.metadata()[self.keys]
        marked = wanted.merge(held, how="left", on=self.keys, indicator=True)
        return wanted[(marked["_merge"] == "left_only").to_numpy()]

    def fill(
        self, wanted: pd.DataFrame, images_of: Callable[[pd.DataFrame], Iterable[np.ndarray]],
        shard_size: int, describe: str | None, encoder: Callable[[], Any] | None = None,
        made_with: Callable[[], dict[str, Any]] = dict,
    ) -> None:  # fmt: skip
        """Make and store the images that are missing, unit by unit.

        A unit is a fixed range of what is wanted, so that neither a kill nor another process
        changes which images are made together. It becomes one shard, at once, under a name that
        follows from all that decides about its pixels.

        Args:
            wanted: all columns of the table, rows numbered from 0.
            images_of: rows -> their images (H, W, 3) uint8, in order.
            shard_size: images a unit, the most that a kill can lose.
            describe: name of the progress bar; None shows none.
            encoder: returns what embeds the images, once one is missing; the shard holds both.
            made_with: returns what may change the last bit of a pixel beside its row.
        """
        pending = self.missing(wanted)
        units = [rows for _, rows in pending.groupby(pending.index // shard_size)]
        embedder, made_by = encoder() if encoder and units else None, made_with() if units else {}
        if embedder:
            made_by["encoder"] = embedder.model_hash
        with tqdm(
            total=len(wanted), initial=len(wanted) - len(pending), unit="image", desc=describe,
            disable=describe is None,
        ) as bar:  # fmt: skip
            for rows in units:
                name = digest(rows[self.keys].to_json(orient="values"), made_by)
                path = self.folder / f"{name}.parquet"
                if path.exists():  # another process was faster
                    bar.update(len(rows))
                    continue
                images = []
                for image in images_of(rows):
                    images.append(image)
                    bar.update()
                self._write(path, rows, images, embedder, made_by)

    def _write(
        self, path: Path, rows: pd.DataFrame, images: list[np.ndarray], embedder: Any,
        made_by: dict[str, Any],
    ) -> None:  # fmt: skip
        pngs = [{"bytes": encode_png(image), "path": None} for image in images]
        vectors = list(embedder.embed_unkept(images)) if embedder else None
        schema = self._schema.with_metadata(
            {**self._schema.metadata, _MADE_BY: json.dumps(made_by)}
        )
        table = pa.Table.from_pandas(
            rows.assign(image=pngs, embedding=vectors), schema, preserve_index=False
        )
        with written_whole(path) as aside, aside.open("wb") as file:
            pq.write_table(table, file, row_group_size=_ROW_GROUP, write_page_checksum=True)
            file.flush()
            os.fsync(file.fileno())  # else a power cut may leave a whole name on half a file


class ShardImages:
    """Images in shards, like an array (N, H, W, 3) uint8 that is read where it is asked for.

    One place gives an image (H, W, 3); a slice, or a list or array of places or of truth values,
    gives several (n, H, W, 3), which must be of one size. The last few groups of rows stay in
    memory, so reading on in order opens each part of a file once.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, metadata: pd.DataFrame):
        """Take a table with shard (path), row in it, height and width."""
        self._shard, self._row = (metadata[name].to_numpy() for name in ("shard", "row"))
        self._sides = metadata[["height", "width"]].to_numpy()

    def __len__(self) -> int:
        return len(self._row)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, H, W, 3); raises AttributeError if the images are of several sizes."""
        try:
            return (len(self), *self._one_size(np.arange(len(self))), 3)
        except ValueError as error:
            raise AttributeError(str(error)) from error

    def __getitem__(self, key: Any) -> np.ndarray:
        """Read one image (H, W, 3) or several (n, H, W, 3), as numpy would understand the key."""
        places = np.arange(len(self))[key]
        if places.ndim == 0:
            return self._read(places)
        images = np.empty((len(places), *self._one_size(places), 3), np.uint8)
        for at in np.lexsort((self._row[places], self._shard[places])):  # as they lie on the disk
            images[at] = self._read(places[at])
        return images

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self._read(place) for place in range(len(self)))

    def embeddings(self, encoder: str) -> np.ndarray | None:
        """Read what lies beside the images: (N, D) by the encoder of that hash, or None."""
        found = np.empty(0)
        for shard in np.unique(self._shard):
            vectors, here = _read_vectors(shard, encoder), self._shard == shard
            if vectors is None:
                return None
            if not len(found):
                found = np.empty((len(self), vectors.shape[1]), vectors.dtype)
            found[here] = vectors[self._row[here]]
        return found if len(found) else None

    def _one_size(self, places: np.ndarray) -> tuple[int, int]:
        # No image at all is of the size of the first, so that an empty selection keeps its shape.
        sides = np.unique(self._sides[places if len(places) else slice(1)], axis=0)
        if len(sides) > 1:
            shown = " and ".join(f"{height} x {width}" for height, width in sides[:2])
            raise ValueError(f"images are of several sizes, such as {shown}")
        return tuple(sides[0].tolist()) if len(sides) else (0, 0)

    def _read(self, place: int) -> np.ndarray:
        path, (group, row) = self._shard[place], divmod(int(self._row[place]), _ROW_GROUP)
        try:
            return decode_png(_read_group(path, group)[row]["bytes"].as_py())
        except Exception as error:  # Parquet, its compression and PNG each have their own
            remedy = "delete it and run again, which makes its images anew"
            raise ValueError(f"{path} is damaged; {remedy} ({error})") from error


@lru_cache(maxsize=4096)
def _read_metadata(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    """Read a shard without its images; it never changes, so once a process is enough."""
    table = pq.read_table(path, columns=list(columns), page_checksum_verification=True).to_pandas()
    return table.assign(shard=str(path), row=np.arange(len(table)))


def _read_vectors(shard: str, encoder: str) -> np.ndarray | None:
    """Embeddings of a shard's n images, (n, D), if it has them from that encoder."""
    with pq.ParquetFile(shard, page_checksum_verification=True) as file:
        made_by = json.loads((file.schema_arrow.metadata or {}).get(_MADE_BY, "{}"))
        if made_by.get("encoder") != encoder:
            return None
        vectors = file.read(columns=["embedding"])["embedding"].combine_chunks()
    return vectors.flatten().to_numpy().reshape(len(vectors), -1)


@lru_cache(maxsize=_HELD_GROUPS)
def _read_group(path: str, group: int) -> pa.Array:
    """Read the images of some rows of a shard, which are most often asked for one after another."""
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        return file.read_row_group(group, columns=["image"])["image"].combine_chunks()


def encode_png(pixels: np.ndarray) -> bytes:
    """Encode an image (H, W, 3) uint8."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()


def decode_png(encoded: bytes) -> np.ndarray:
    """Decode an image file: (H, W, 3) uint8."""
    with Image.open(io.BytesIO(encoded)) as image:
        return np.asarray(image.convert("RGB"))
