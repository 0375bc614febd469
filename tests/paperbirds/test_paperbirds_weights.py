"""The shipped weights: whole, small, without pickles, and refused when damaged."""

import hashlib

import pytest
import torch
from safetensors.torch import safe_open, save_file

from paperbirds import load_oracle
from paperbirds.oracle import Oracle
from paperbirds.weights import (
    SUMS,
    WEIGHTS,
    WeightsError,
    clip_dir,
    pipeline_dir,
    shipped_megabytes,
    shipped_quality,
    verify,
    write_sums,
)


@pytest.fixture
def root(tmp_path):
    """Small files laid out as what ships, with their sums."""
    files = {
        "text_to_image/unet/model.safetensors": b"unet" * 100,
        "clip/open_clip_model.safetensors": b"clip" * 100,
        "facts.json": b'{"quality": {"psnr_db": 31.5}}',
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    torch.manual_seed(1)
    state = {name: value.contiguous() for name, value in Oracle().state_dict().items()}
    save_file(state, tmp_path / "oracle.safetensors")
    write_sums(tmp_path)
    return tmp_path


def refusal(function, root):
    with pytest.raises(WeightsError) as caught:
        function(root)
    return str(caught.value)


def test_sums_are_those_of_sha256sum(root):
    lines = (root / SUMS).read_text(encoding="utf-8").splitlines()
    files = sorted(file for file in root.rglob("*") if file.is_file() and file.name != SUMS)
    assert lines == [
        f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.relative_to(root).as_posix()}"
        for file in files
    ]


def test_released_files_are_accepted_and_read(root):
    verify(root)
    assert (pipeline_dir(root), clip_dir(root)) == (root / "text_to_image", root / "clip")
    assert shipped_quality(root) == {"psnr_db": 31.5}
    torch.manual_seed(1)
    saved, loaded = Oracle().state_dict(), load_oracle(root)
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    assert all(torch.equal(value, saved[name]) for name, value in loaded.state_dict().items())


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("text_to_image/unet/model.safetensors", pipeline_dir),
        ("clip/open_clip_model.safetensors", clip_dir),
        ("oracle.safetensors", load_oracle),
        ("facts.json", shipped_quality),
    ],
)
@pytest.mark.parametrize("damage", ["cut short", "missing"])
def test_damage_is_named_with_its_remedy(root, name, function, damage):
    file = root / name
    content = file.read_bytes()
    file.unlink()
    if damage == "cut short":
        file.write_bytes(content[:-1])
    what = "is missing" if damage == "missing" else "is not the released file"
    assert refusal(function, root) == (
        f"{file} {what}: restore it with `git checkout -- {file}` "
        "or train all models again with `make pretrain`"
    )
    others = {pipeline_dir, clip_dir, load_oracle, shipped_quality} - {function}
    assert all(other(root) for other in others)  # damage elsewhere does not stop a part


def test_sums_that_are_missing_or_cut_short_are_refused(root):
    kept = [line for line in (root / SUMS).read_text().splitlines() if "oracle" not in line]
    (root / SUMS).write_text("\n".join(kept) + "\n")
    assert f"{root / SUMS} lists no oracle.safetensors" in refusal(load_oracle, root)
    (root / SUMS).unlink()
    assert f"{root / SUMS} is missing: restore it" in refusal(load_oracle, root)


def test_what_ships_is_what_was_released_and_holds_no_pickle():
    verify(WEIGHTS)
    files = [file for file in WEIGHTS.rglob("*") if file.is_file() and file.name != SUMS]
    listed = {line.split("  ", 1)[1] for line in (WEIGHTS / SUMS).read_text().splitlines()}
    assert listed == {file.relative_to(WEIGHTS).as_posix() for file in files}
    assert {file.suffix for file in files} == {".json", ".md", ".safetensors"}
    tensors = [file for file in files if file.suffix == ".safetensors"]
    assert len(tensors) == 5  # autoencoder, UNet, text encoder, CLIP, oracle
    for file in tensors:
        with safe_open(file, "pt") as opened:
            assert len(list(opened.keys())) > 10
    for file in set(files) - set(tensors):
        file.read_text(encoding="utf-8")  # a pickle or an archive is not text
    assert 10 < shipped_megabytes() <= 40
