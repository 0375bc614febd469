"""Files that are whole or absent, digests of content, and tables of images in Parquet.

Everything that the study keeps goes through here. A kill leaves no half of a file, two writers do
not disturb each other, and an image lies beside all that is known about it. The shards open in
``datasets.load_dataset("parquet", ...)`` with an Image feature. Our choice: lossless PNG, lightly
compressed, as denser files cost more time than disk.
"""

import errno
import hashlib
import importlib.util
import io
import json
import operator
import os
import secrets
import shutil
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from tqdm.auto import tqdm

from diffcore.params import UserError

#: Begins a location inside an installed package: ``package:<import name>/<path>``.
PACKAGE = "package:"
SUMS = "SHA256SUMS"
_ROW_GROUP = 32  # images of a shard that are read at once, 14 MB of them at 512 x 512
_HASHED_TOGETHER = 1024  # images
_FETCHED = 64  # images, at most, in memory while an array is written
_MADE_BY = b"made_by"  # key of a shard's own metadata
_LEFT_ALONE = 24 * 3600  # seconds in which what is not whole may be another writer's
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_CLOSED = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST)


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
    roots = [place for place in (path, path.parent) if (place / SUMS).is_file()]
    for line in (roots[0] / SUMS).read_text(encoding="utf-8").splitlines() if roots else []:
        expected, name = line.split("  ", 1)
        file = roots[0] / name
        whole = file.is_file() and expected.startswith(file_digest(file))
        if file.is_relative_to(path) and not whole:
            remedy = f"restore it, for instance with `git checkout -- {file}`"
            raise DamageError(f"{file} is missing or is not the released file; {remedy}")


# -------------------------------------------------------------------------------------- whole files
@contextmanager
def written_whole(path: str | Path, *, folder: bool = False) -> Iterator[Path]:
    """Yield a path to write to, which takes the name of `path` when the block ends well.

    With `folder` it is an empty folder, which replaces `path`. StorageError if the disk is full,
    or the place cannot be written to.
    """
    path = Path(path)
    aside = _aside(path)
    with naming_folder(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(".aside-*"):
            with suppress(FileNotFoundError):  # it has just got its name, or another was faster
                if time.time() - left.stat().st_mtime > _LEFT_ALONE:
                    _remove(left)
        try:
            if folder:
                aside.mkdir()
            yield aside
            if folder:
                _remove(path)
            aside.replace(path)
        finally:
            _remove(aside)


def _aside(path: Path) -> Path:
    """Name what is not whole, so that no two writers ever share it: hosts may be called alike."""
    writer = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    return path.with_name(f".aside-{writer}.{path.name}")


def _remove(path: Path) -> None:
    """Remove a file, or a folder with all in it, if it is there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def naming_folder(folder: Path) -> Iterator[None]:
    """Turn an error about a folder that cannot be written to into one with its remedy."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        place = Path(error.filename or folder)
        near = place.is_relative_to(folder) or folder.is_relative_to(place)
        if not near or error.errno not in (*_FULL, *_CLOSED):
            raise
        remedy = "let this user write there, or run in another folder"
        if error.errno in _FULL:
            remedy = "free some space, or run where there is more"
        raise StorageError(f"cannot write to {folder}: {error.strerror}; {remedy}") from None


def read_kept(path: Path, read: Callable[[Path], Any]) -> Any:
    """Read what an earlier run kept; None if it is not there, or damaged, which a line says."""
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

    Bytes and texts count as they are; arrays, also those on a disk, by type, shape and content;
    anything else as JSON.

    >>> digest("a", {"b": [1, 2]}) == digest("a", {"b": [1, 2]}) != digest("a", {"b": [2, 1]})
    True
    """
    total = hashlib.sha256()
    for part in parts:
        for piece in _pieces(part):
            total.update(len(piece).to_bytes(8, "little") + piece)
    return total.hexdigest()[:24]


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


def file_digest(path: str | Path) -> str:
    """Hash the bytes of a file, once a process while it does not change: 24 hexadecimal digits."""
    path = Path(path).resolve()
    return _file_digest(path, path.stat().st_size, path.stat().st_mtime_ns)


@lru_cache(maxsize=256)
def _file_digest(path: Path, size: int, changed_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:24]


# -------------------------------------------------------------------------------------- kept arrays
class KeptArray(np.memmap):
    """An array on the disk. A process is sent its file's name, as the content may exceed memory."""

    path: Path | None = None  # of the whole array; its parts have none, and are sent as they are

    def __reduce__(self) -> Any:
        return (_open_array, (self.path,)) if self.path else np.asarray(self).__reduce__()


def keep_array(images: Any, path: Path) -> np.ndarray:
    """Write images into a file, unless it is there, and return them as an array on the disk.

    Args:
        images: N of one size, (H, W, 3) uint8, fetched one by one.
        path: of the ``.npy`` file; its name must follow from what the images are.

    Returns (N, H, W, 3) uint8, read-only; in memory if there is no image. Raises ValueError with
    one line per image that cannot be read.
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

    One thread per core fetches them, as decoders let others run meanwhile.
    """
    problems = []
    bar = tqdm(total=len(images), desc="read images", unit="image")
    with bar, ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(images), _FETCHED):
            places = range(start, min(start + _FETCHED, len(images)))
            fetched = [pool.submit(operator.getitem, images, place) for place in places]
            for future in fetched:
                bar.update()
                try:
                    image = future.result()
                except ValueError as error:
                    problems.append(str(error))
                    continue
                if not file.tell():
                    shape = (len(images), *image.shape)
                    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                    np.lib.format.write_array_header_1_0(file, header)
                file.write(image.tobytes())
    if problems:
        raise ValueError("\n".join(problems))


def _open_array(path: Path) -> KeptArray:
    array = np.load(path, mmap_mode="r").view(KeptArray)
    array.path = path
    return array


# --------------------------------------------------------------------------------- tables of images
class ImageTable:
    """A folder of Parquet shards: one row per image, with its PNG and all that decided about it.

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
        metadata = {"huggingface": json.dumps({"info": {"features": features}})}
        self._schema = pa.schema(columns, metadata=metadata)

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
        self,
        wanted: pd.DataFrame,
        images_of: Callable[[pd.DataFrame], Iterable[np.ndarray]],
        shard_size: int,
        describe: str | None = None,
        encoder: Callable[[], Any] | None = None,
        made_with: Callable[[], dict[str, Any]] = dict,
    ) -> None:
        """Make and store the images that are missing, unit by unit.

        A unit is a fixed range of what is wanted, so that neither a kill nor another process
        changes which images are made together. It becomes one shard, at once, under a name that
        follows from all that decides about its pixels.

        Args:
            wanted: all columns of the table, rows numbered from 0.
            images_of: rows -> their images (H, W, 3) uint8, in order.
            shard_size: images per unit, the most that a kill can lose.
            describe: name of the progress bar; None shows none.
            encoder: returns what embeds the images, once one is missing; the shard holds both.
            made_with: returns what may change the last bit of a pixel beside its row.
        """
        pending = self.missing(wanted)
        units = [rows for _, rows in pending.groupby(pending.index // shard_size)]
        embedder, made_by = encoder() if encoder and units else None, made_with() if units else {}
        if embedder:
            made_by["encoder"] = embedder.model_hash
        bar = tqdm(total=len(wanted), desc=describe, unit="image", disable=describe is None)
        with bar:
            bar.update(len(wanted) - len(pending))
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
                vectors = list(embedder.embed_unkept(images)) if embedder else None
                self._write(path, rows.assign(embedding=vectors), images, made_by)

    def _write(
        self, path: Path, rows: pd.DataFrame, images: list[np.ndarray], made_by: dict[str, Any]
    ) -> None:
        rows = rows.assign(image=[{"bytes": encode_png(image), "path": None} for image in images])
        metadata = {**self._schema.metadata, _MADE_BY: json.dumps(made_by)}
        table = pa.Table.from_pandas(rows, self._schema.with_metadata(metadata), False)
        with written_whole(path) as aside, aside.open("wb") as file:
            pq.write_table(table, file, row_group_size=_ROW_GROUP, write_page_checksum=True)
            file.flush()
            os.fsync(file.fileno())  # else a power cut may leave a whole name on half a file


def read_stored(place: tuple[str, int]) -> np.ndarray:
    """Read an image (H, W, 3) uint8 by shard and row; ValueError names a damaged shard."""
    path, (group, row) = place[0], divmod(int(place[1]), _ROW_GROUP)
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


def read_vectors(shard: str, encoder: str) -> np.ndarray | None:
    """Read the embeddings of a shard's n images, (n, D), if it has them from that encoder."""
    with pq.ParquetFile(shard, page_checksum_verification=True) as file:
        made_by = json.loads((file.schema_arrow.metadata or {}).get(_MADE_BY, "{}"))
        if made_by.get("encoder") != encoder:
            return None
        vectors = file.read(columns=["embedding"])["embedding"].combine_chunks()
    return vectors.flatten().to_numpy().reshape(len(vectors), -1)


@lru_cache(maxsize=4)  # groups in memory
def _read_group(path: str, group: int) -> pa.Array:
    """Read the images of some rows of a shard; a reader often takes one after another."""
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
