"""The shipped weights: whole, small, without pickles, and refused when damaged."""

import hashlib

import pytest
import torch
from safetensors.torch import safe_open, save_file

from diffcore.paperbirds import (
    Oracle,
    WeightsError,
    clip_dir,
    load_oracle,
    pipeline_dir,
    shipped_megabytes,
)
from diffcore.paperbirds.weights import SUMS, WEIGHTS, shipped_quality, verify, write_sums


@pytest.fixture
def root(tmp_path):
    """Small files laid out as what ships, with their sums."""
    files = {
        "text_to_image/model_index.json": b"{}",
        "text_to_image/unet/model.safetensors": b"unet" * 100,
        "clip/open_clip_config.json": b"{}",
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


def flip_a_byte(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def refusal(function, root):
    with pytest.raises(WeightsError) as caught:
        function(root)
    return str(caught.value)


# ------------------------------------------------------------------------------ any weights
def test_sums_are_those_of_sha256sum(root):
    lines = (root / SUMS).read_text(encoding="utf-8").splitlines()
    files = sorted(file for file in root.rglob("*") if file.is_file() and file.name != SUMS)
    assert len(lines) == len(files) == 6
    for line, file in zip(lines, files, strict=True):
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        assert line == f"{digest}  {file.relative_to(root).as_posix()}"


def test_released_files_are_accepted(root):
    verify(root)
    assert pipeline_dir(root) == root / "text_to_image"
    assert clip_dir(root) == root / "clip"
    assert shipped_quality(root) == {"psnr_db": 31.5}


def test_the_oracle_is_the_one_that_was_saved_and_does_not_learn(root):
    torch.manual_seed(1)
    saved, loaded = Oracle().state_dict(), load_oracle(root)
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, saved[name]), name


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("text_to_image/unet/model.safetensors", pipeline_dir),
        ("text_to_image/model_index.json", pipeline_dir),
        ("clip/open_clip_model.safetensors", clip_dir),
        ("oracle.safetensors", load_oracle),
        ("facts.json", shipped_quality),
        ("clip/open_clip_config.json", verify),
    ],
)
@pytest.mark.parametrize("damage", ["a flipped byte", "cut short", "missing"])
def test_damage_is_named_with_its_remedy(root, name, function, damage):
    file = root / name
    if damage == "a flipped byte":
        flip_a_byte(file)
    elif damage == "cut short":
        file.write_bytes(file.read_bytes()[:-1])
    else:
        file.unlink()
    what = "is missing" if damage == "missing" else "is not the released file"
    assert refusal(function, root) == (
        f"{file} {what}: restore it with `git checkout -- {file}` "
        "or train all models again with `make pretrain`"
    )


def test_damage_elsewhere_does_not_stop_a_part(root):
    flip_a_byte(root / "oracle.safetensors")
    assert clip_dir(root) == root / "clip"
    assert "oracle.safetensors" in refusal(load_oracle, root)


@pytest.mark.parametrize("function", [verify, pipeline_dir, clip_dir, load_oracle, shipped_quality])
def test_missing_sums_are_refused(root, function):
    (root / SUMS).unlink()
    message = refusal(function, root)
    assert f"{root / SUMS} is missing" in message
    assert "make pretrain" in message


def test_sums_that_were_cut_short_are_refused(root):
    lines = (root / SUMS).read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if "oracle" not in line]
    (root / SUMS).write_text("\n".join(kept) + "\n", encoding="utf-8")
    message = refusal(load_oracle, root)
    assert f"{root / SUMS} lists no oracle.safetensors" in message
    assert "make pretrain" in message
    (root / SUMS).write_text("", encoding="utf-8")
    assert "lists no file" in refusal(verify, root)


def test_a_folder_without_weights_is_refused(tmp_path):
    assert "make pretrain" in refusal(pipeline_dir, tmp_path / "nowhere")


def test_megabytes_are_those_of_all_files(tmp_path):
    for name in ("a", "b/c"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(bytes(750_000))
    assert shipped_megabytes(tmp_path) == 1.5


# ------------------------------------------------------------------------------ what ships
def shipped_files():
    files = [file for file in WEIGHTS.rglob("*") if file.is_file()]
    assert len(files) > 10
    return files


def test_what_ships_is_what_was_released():
    verify(WEIGHTS)
    listed = {line.split("  ", 1)[1] for line in (WEIGHTS / SUMS).read_text().splitlines()}
    assert listed == {f.relative_to(WEIGHTS).as_posix() for f in shipped_files()} - {SUMS}


def test_what_ships_is_small():
    assert 10 < shipped_megabytes() <= 40


def test_no_pickle_ships():
    files = shipped_files()
    assert {file.suffix for file in files if file.name != SUMS} == {".json", ".md", ".safetensors"}
    tensors = [file for file in files if file.suffix == ".safetensors"]
    assert len(tensors) == 5  # autoencoder, UNet, text encoder, CLIP, oracle
    for file in tensors:
        with safe_open(file, "pt") as opened:
            assert len(list(opened.keys())) > 10
    for file in set(files) - set(tensors):
        file.read_text(encoding="utf-8")  # a pickle or an archive is not text
