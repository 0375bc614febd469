"""Where the shipped models lie, and that they are the ones that were measured.

`make pretrain` writes them with a SHA256SUMS file; every loading verifies it first, since a model
cut short by a broken clone would draw noise without a word.
"""

import hashlib
import json
from functools import lru_cache
from pathlib import Path

from diffcore.store import write_text
from paperbirds.oracle import Oracle

WEIGHTS = Path(__file__).parent / "weights"
SUMS = "SHA256SUMS"
FACTS_FILE = "facts.json"
PIPELINE_FOLDER, CLIP_FOLDER, ORACLE_FILE = "text_to_image", "clip", "oracle.safetensors"
_REMEDY = "restore it with `git checkout -- {}` or train all models again with `make pretrain`"


class WeightsError(OSError):
    """A shipped file is missing or is not the one that was released."""


def pipeline_dir(root: Path = WEIGHTS) -> Path:
    """Folder of the tiny text-to-image model in the diffusers format, verified."""
    verify(root, PIPELINE_FOLDER)
    return root / PIPELINE_FOLDER


def clip_dir(root: Path = WEIGHTS) -> Path:
    """Folder of the tiny CLIP, verified; open_clip loads it as `local-dir:<folder>`."""
    verify(root, CLIP_FOLDER)
    return root / CLIP_FOLDER


def load_oracle(root: Path = WEIGHTS) -> Oracle:
    """The oracle in evaluation mode, verified; to measure with, never to filter or train."""
    from safetensors.torch import load_file  # whoever only draws the birds needs none

    verify(root, ORACLE_FILE)
    oracle = Oracle()
    oracle.load_state_dict({k: v.float() for k, v in load_file(root / ORACLE_FILE).items()})
    return oracle.eval().requires_grad_(False)


def shipped_megabytes(root: Path = WEIGHTS) -> float:
    """Size of all that ships, in MB (10^6 bytes)."""
    return sum(file.stat().st_size for file in root.rglob("*") if file.is_file()) / 1e6


def shipped_quality(root: Path = WEIGHTS) -> dict[str, float]:
    """What `make pretrain` measured on fresh renders: PSNR in dB, all else rates in [0, 1]."""
    verify(root, FACTS_FILE)
    return json.loads((root / FACTS_FILE).read_text())["quality"]


@lru_cache
def verify(root: Path = WEIGHTS, part: str = "") -> None:
    """Compare files whose path starts with `part` to their sums, or raise WeightsError."""
    listing = root / SUMS
    if not listing.exists():
        raise WeightsError(f"{listing} is missing: {_REMEDY.format(root)}")
    lines = [line.split("  ", 1) for line in listing.read_text().splitlines()]
    chosen = [(expected, name) for expected, name in lines if name.startswith(part)]
    if not chosen:
        raise WeightsError(f"{listing} lists no {part or 'file'}: {_REMEDY.format(listing)}")
    for expected, name in chosen:
        if not (file := root / name).exists():
            raise WeightsError(f"{file} is missing: {_REMEDY.format(file)}")
        if _sum(file) != expected:
            raise WeightsError(f"{file} is not the released file: {_REMEDY.format(file)}")


def write_sums(root: Path) -> None:
    """Write SHA256SUMS, in the format of sha256sum, over all other files below `root`."""
    files = sorted(f for f in root.rglob("*") if f.is_file() and f.name != SUMS)
    lines = [f"{_sum(file)}  {file.relative_to(root).as_posix()}" for file in files]
    write_text(root / SUMS, "\n".join(lines) + "\n")


def _sum(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
