"""What a person may get wrong, and what they then read: before any work, and with nothing left.

Each row is run as on the command line. It ends with 1, starts no kernel, and leaves no file.
"""

import os
import pickle
import struct
import sys
import zlib

import numpy as np
import papermill
import pytest
import torch
from filelock import FileLock
from PIL import Image
from safetensors.torch import save_file

from diffcore.cli import main

NO_GPU = not torch.cuda.is_available()
MODEL, ENCODER = "generation.pipeline", "filtering.encoder"
CLIP = (f"{ENCODER}.model_name=local-dir:clip",)
TIMM = (f"{ENCODER}.kind=timm", f"{ENCODER}.model_name=resnet10t")


# ------------------------------------------------------------------------------- what is laid out
def jpeg(path, size=(64, 64), seed=0, keep=None):
    """Write a photograph, or so many bytes of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 255, (*size[::-1], 3))
    Image.fromarray(noise.astype(np.uint8)).save(path, "JPEG")
    path.write_bytes(path.read_bytes()[:keep])


def photographs(folder, classes=("wren", "crow"), parts=("train", "test"), each=6):
    """Lay out a good set: two classes, in two parts."""
    for seed, part in enumerate(parts):
        for name in classes:
            for number in range(each):
                jpeg(folder / part / name / f"{number}.jpg", seed=100 * seed + number)
    return folder


def drawings(folder):
    """Lay out a good set, and images of it that were drawn elsewhere."""
    return photographs(photographs(folder).parent / "drawn", parts=("",))


def truncated(path, keep=60):
    """Write safetensors of which the end is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"a": torch.zeros(99)}, path)
    path.write_bytes(path.read_bytes()[:-keep])


def tensors(path, **named):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: torch.zeros(size) for name, size in named.items()}, path)


class Evil:
    """Runs when it is unpickled, and leaves a file that tells."""

    def __reduce__(self):
        return os.system, ("touch executed",)


def pickled(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps({"weight": Evil()}))


def deep_tiff(path, bits):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.full((64, 64), 70000, np.int32) if bits == 32 else np.full((64, 64), 1e6, "f4")
    Image.fromarray(values).save(path)


def bomb(path):
    """Write the head of a PNG of 20,000 x 20,000."""
    path.parent.mkdir(parents=True, exist_ok=True)
    chunks = (b"IHDR" + struct.pack(">IIBBBBB", 20000, 20000, 8, 2, 0, 0, 0), b"IDAT")
    parts = (struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def profile(text, encoding="utf-8"):
    """Write a profile of one's own over the smoke one."""

    def prepare(folder):
        (folder / "params" / "smoke.yaml").write_bytes(text.encode(encoding))

    return prepare


def image(name, write):
    """Lay out a good set with one bad image in it."""
    return lambda folder: write(photographs(folder / "set") / name)


def weights(name, write, **more):
    return lambda folder: write(folder / name, **more)


# -------------------------------------------------------------------------------------- the table
def settings(*assignments):
    assignments = ("notebooks={}", *assignments)  # the smoke profile has values for others
    command = ["study", "--profile", "smoke", "--notebook", "01_toy"]
    return [*command, *(f"--set={text}" for text in assignments)]


def photos(*assignments):
    data = {
        "dataset": "folder", "options": "{}", "root": "set", "image_size": 64,
        "train_images_per_class": 3, "test_images_per_class": 99,
    }  # fmt: skip
    own = (f"data.{key}={value}" for key, value in data.items())
    return settings(*own, f"{MODEL}.kind=substitute", *assignments)


def imports():
    return photos(f"{MODEL}.kind=import", f"{MODEL}.location=drawn")


#: What is wrong -> how it is laid out, the command, and what a person reads.
CASES = {
    # Parameters, on the command line
    "unknown key": (None, settings("sead=3"), "unknown key sead (value 3); nearest valid key: see"),
    "unknown section": (None, settings("trainning.lr=1"), "unknown key trainning (value"),
    "text for a number": (None, settings("training.lr=fast"), "training.lr is 'fast'; should be a"),
    "out of range": (None, settings("training.crop_scale=2"), "less than or equal to 1"),
    "not a number": (None, settings("training.lr=.nan"), "training.lr is nan; should be a finite"),
    "a switch for a word": (None, settings("training.precision=no"), "is 'no'; should be 'auto'"),
    "sexagesimal": (None, settings("training.epochs=1:30"), "training.epochs is '1:30'; should be"),
    "no multiple of 8": (None, settings("generation.image_size=65"), "should be a multiple of 8"),
    "one seed": (None, settings("runs.seeds=1"), "greater than or equal to 2"),
    "no context": (None, settings("prompts.contexts=[]"), "prompts.contexts is []; "),
    "one for a list": (None, settings("prompts.contexts=garden"), "prompts.contexts is 'garden';"),
    "a section for a number": (None, settings("data=3"), "data is 3; should be a valid dictionary"),
    "no assignment": (None, settings("seed"), "'seed' is not of the form key=value"),
    "no key": (None, settings("=3"), "'=3' is not of the form key=value"),
    "no YAML": (None, settings("seed=[1"), "overrides: seed, line 1: "),
    "a number without end": (None, settings("seed=" + "9" * 5000), "overrides: seed: Exceeds"),
    "nested without end": (None, settings("seed=" + "[" * 500), "overrides: seed: maximum recur"),
    "another's profile": (None, settings("profile=demo"), "profile is 'demo', whose report would"),
    "a path for a profile": (None, settings("profile=../x"), "profile is '../x'; String should ma"),
    "no root": (None, settings("data.dataset=folder", "data.options={}"), "data.root must"),
    "unknown data set": (None, settings("data.dataset=paperbird"), "nearest: 'paperbirds'"),
    "unknown option": (None, settings("data.options.stile=1"), "stile is 1; there are style"),
    "an option out of range": (None, settings("data.options.style=2"), "style, bias, from 0 to 1"),
    "unknown setting of a method": (
        None, settings("training.methods.mixup.alhpa=1"), "training.methods.mixup.a"
    ),
    "a setting out of range": (
        None, settings("training.methods.mixup.probability=2"), "training.methods.mixup.probabi"
    ),
    "a base of itself": (profile("base: smoke\n"), settings(), "inherits from this very profile"),
    "an unknown base": (profile("base: demmo\n"), settings(), "no profile 'demmo'; nearest: 'de"),
    # Prompts
    "unknown domain": (None, settings("prompts.domain=brids"), "nearest: birds"),
    "a class for no template": (None, settings("prompts.template=a bird"), "not name the {class_n"),
    "11 GB of a class": (
        None, settings("prompts.template='a {class_name:>9999999999}'"), "and no more"
    ),
    "a look inside": (
        None, settings("prompts.template='{class_name.__class__}'"), "legal are ['class_name'"
    ),
    "half a brace": (None, settings("prompts.template='a {class_name'"), "cannot be read: expecte"),
    "a context twice": (None, settings("prompts.contexts=[a, a]"), "contexts holds ['a'] more tha"),
    "a style twice": (None, settings("mixing.edit_prompts=[a, a]"), "holds ['a'] more than once"),
    # Methods, networks, devices
    "share above all": (None, settings("runs.shares=[{share: 9.0}]"), "9 must be below genera"),
    "share of a typo": (None, settings("runs.shares=[{share: 0.1, changes: {mixing.alhpa: 1.0}}]"),
                       "nearest valid key: mixing.alpha"),
    "unknown method": (None, settings("runs.methods=[mixup2]"), "runs.methods: 'mixup2' is no met"),
    "no method to compare": (None, settings("runs.methods=[mixup]"), "'vanilla', 'cutmix', 'added"),
    "unknown network": (None, settings("training.model=resnet5O"), "timm has no model 'resnet5O'"),
    "unknown argument": (None, settings("training.model_args={chanels: [8]}"), "unexpected keywor"),
    "unknown optimiser": (None, settings("training.optimizer=adamv"), "near it: adam, "),
    "no GPU to train": (None, settings("training.device=cuda"), "training.device is cuda, but tor"),
    "no GPU to draw": (None, settings(f"{MODEL}.device=cuda"), f"{MODEL}.device is cuda, but torc"),
    "no GPU to embed": (None, settings(f"{ENCODER}.device=cuda"), f"{ENCODER}.device is cuda, but"),
    "half on a CPU": (None, settings("training.precision=float16"), "float16, which needs a GPU"),
    # Profiles
    "unknown profile": (None, ["study", "--profile", "smok"], "no profile 'smok'; nearest: 'smoke"),
    "absent file": (None, ["study", "--profile", "a/b.yaml"], "no parameter file a/b.yaml"),
    "values of no notebook": (None, settings()[:5], "unknown key 01_generation.guidance_scales"),
    "unknown notebook": (None, [*settings()[:4], "09_x"], "no notebook 09_x; there are: 01_toy"),
    "UTF-16": (profile("seed: 1\n", "utf-16"), settings(), "smoke.yaml cannot be read as a text i"),
    "no text": (profile("\0\1"), settings(), "smoke.yaml: unacceptable character"),
    "a list": (profile("- seed\n"), settings(), "expected 'key: value' lines, found ['seed']"),
    "a key twice": (profile("seed: 1\nseed: 2\n"), settings(), 'line 2: found duplicate key'),
    # Models and weights
    "no folder": (None, settings(f"{MODEL}.kind=folder", f"{MODEL}.location=m"), "folder m does n"),
    "no checkpoint": (
        None,
        settings(f"{MODEL}.kind=single_file", f"{MODEL}.location=checkpoints/cosxl.safetensors"),
        "cosxl.safetensors does not exist",
    ),
    "a checkpoint with code": (
        None, settings(f"{MODEL}.kind=single_file", f"{MODEL}.location=m.ckpt"), "can run code when"
    ),
    "a truncated checkpoint": (
        weights("m.safetensors", truncated),
        settings(f"{MODEL}.kind=single_file", f"{MODEL}.location=m.safetensors"),
        "m.safetensors is damaged or no safetensors file",
    ),
    "a pickled checkpoint": (
        weights("m.safetensors", pickled),
        settings(f"{MODEL}.kind=single_file", f"{MODEL}.location=m.safetensors"),
        "m.safetensors is damaged or no safetensors file",
    ),
    "a checkpoint of another make": (
        weights("m.safetensors", tensors, lora=3),
        settings(f"{MODEL}.kind=single_file", f"{MODEL}.location=m.safetensors"),
        "m.safetensors holds tensors such as 'lora', and none that starts with 'model.diffusion_mo",
    ),
    "no autoencoder": (None, settings(f"{MODEL}.vae=vae"), "autoencoder: the folder vae does not"),
    "no CLIP": (None, settings(*CLIP), "encoder: the folder clip does not exist"),
    "a truncated CLIP": (
        weights("clip/open_clip_model.safetensors", truncated), settings(*CLIP), "is damaged or no"
    ),
    "an unknown tag": (
        None, settings(f"{ENCODER}.model_name=RN50", f"{ENCODER}.pretrained=me"), "no weights 'me'"
    ),
    "no weights of an encoder": (None, settings(*TIMM, f"{ENCODER}.pretrained=null"), "neither pa"),
    "an unknown encoder": (
        None, settings(TIMM[0], f"{ENCODER}.model_name=vitt"), "model_name: timm has no model 'vitt"
    ),
    "no weights": (None, settings("training.weights=w.pt"), "training.weights: w.pt does not exis"),
    "weights of no kind": (None, settings("training.weights=w.h5"), "neither package:<name> nor a"),
    "no package of weights": (None, settings("training.weights=package:no"), "no is not installed"),
    "weights with code": (
        weights("w.pt", pickled), settings("training.weights=w.pt"), "cannot be read as weights alo"
    ),
    "truncated weights": (
        weights("w.safetensors", truncated), settings("training.weights=w.safetensors"),
        "w.safetensors cannot be read as weights alone",
    ),
    "weights of another network": (
        weights("w.safetensors", tensors, conv=3), settings("training.weights=w.safetensors"),
        "w.safetensors does not fit timm's resnet10t",
    ),
    # Photographs
    "no set": (None, photos(), "there is no "),
    "an empty set": (lambda folder: (folder / "set").mkdir(), photos(), "holds no folder of image"),
    "a class without test images": (
        lambda folder: (photographs(folder / "set") / "train" / "jay").mkdir(), photos(),
        "1 classes, 'jay' first, have",
    ),
    "a class in two folders": (
        lambda folder: photographs(folder / "set", ("001.Wren", "wren")), photos(),
        "001.Wren and wren would be one class; rename one",
    ),
    "a class beside parts": (
        lambda folder: jpeg(photographs(folder / "set") / "jay" / "0.jpg"), photos(),
        "holds jay beside train, which holds classes; move it away",
    ),
    "a damaged photograph": (
        image("train/wren/x.jpg", lambda path: jpeg(path, keep=800)),
        photos("data.train_images_per_class=9"), "train/wren/x.jpg is damaged or no image",
    ),
    "a damaged test photograph": (
        image("test/wren/x.jpg", lambda path: jpeg(path, keep=800)), photos(),
        "test/wren/x.jpg is damaged or no image",
    ),
    "32 bits": (
        image("test/wren/x.tif", lambda path: deep_tiff(path, 32)), photos(),
        "its greys, 70000 to 70000 in 32 bits, are on no known scale; save it with 8 or 16 bits",
    ),
    "floats on no scale": (
        image("test/wren/x.tif", lambda path: deep_tiff(path, "f")), photos(), "on no known scale"
    ),
    "a decompression bomb": (image("test/wren/x.png", bomb), photos(), "decompression bomb"),
    "a name in no encoding": (
        image(os.fsdecode(b"test/wren/\xff.jpg"), jpeg), photos(), "is no name in UTF-8; rename it"
    ),
    "two sizes": (
        image("train/wren/x.jpg", lambda path: jpeg(path, (32, 64))),
        photos("data.image_size=null", "data.train_images_per_class=9"), "images differ in size",
    ),
    "no photograph to spare": (
        lambda folder: photographs(folder / "set"), photos("data.train_images_per_class=6"),
        "2 of 2 classes have no photograph to spare",
    ),
    "no set of datasets": (
        lambda folder: (photographs(folder / "set") / "dataset_info.json").write_text("{}"),
        photos(), "is no data set that save_to_disk wrote",
    ),
    # Images that were drawn elsewhere
    "nothing drawn": (lambda folder: photographs(folder / "set"), imports(), "holds no folder wit"),
    "drawn of no class": (
        lambda folder: jpeg(drawings(folder / "set") / "jay" / "0.jpg"), imports(),
        "jay fits none of the 2 classes of the data set; the nearest is",
    ),
    "drawn in no folder": (
        lambda folder: jpeg(drawings(folder / "set") / "0.jpg"), imports(),
        "1 images lie in no folder, such as 0.jpg",
    ),
    "a damaged drawing": (
        lambda folder: jpeg(drawings(folder / "set") / "wren" / "x.jpg", keep=800), imports(),
        "wren/x.jpg is damaged or no image",
    ),
    "a prompt in no encoding": (
        lambda folder: (drawings(folder / "set") / "wren" / "0.txt").write_bytes(b"\xff\xfe\0"),
        imports(), "0.txt is no UTF-8 text; save it as such, or remove it",
    ),
    # Folders and reports
    "a file for a folder": (
        lambda folder: (folder / "runs").touch(), settings(), "runs/smoke: Not a directory; let thi"
    ),
    "no report to publish": (None, ["publish", "--profile", "smoke"], "holds no index; run `make"),
    "no report to sum up": (None, ["index", "--profile", "smoke"], "no executed notebook in"),
    "no report to verify": (None, ["verify"], "runs/demo/report holds no numbers to compare"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_mistake_is_reported_before_any_work_and_leaves_nothing(
    case, study_folder, monkeypatch, capsys
):  # fmt: skip
    prepare, arguments, message = CASES[case]
    if "cuda" in message and not NO_GPU:
        pytest.skip("this machine has a GPU")
    monkeypatch.setattr(papermill, "execute_notebook", lambda *_, **__: pytest.fail("it has begun"))
    (study_folder / "notebooks" / "01_toy.ipynb").write_text('{"cells": []}')
    if prepare is not None:
        prepare(study_folder)
    before = everything(study_folder)
    assert main(arguments) == 1
    shown = "".join(capsys.readouterr())
    assert message in shown, shown
    assert "Traceback" not in shown
    assert "weights_only" not in shown  # the advice of torch, to run what is in a file
    left = {path for path in everything(study_folder) - before if "/pixels/" not in path}
    assert left == set()  # whole photographs may be kept


def everything(folder):
    return {str(path) for path in folder.rglob("*") if path.is_file()}


def test_all_damaged_images_are_reported_at_once(study_folder, capsys):
    (study_folder / "notebooks" / "01_toy.ipynb").write_text('{"cells": []}')
    for place in photographs(study_folder / "set").rglob("[135].jpg"):
        place.write_bytes(b"no image")
    assert main(photos("data.train_images_per_class=5")) == 1
    shown = capsys.readouterr().err
    assert shown.count("is damaged or no image") == 10  # and how many more
    assert "\nand " in shown


def test_a_second_study_is_refused(study_folder, capsys):
    (study_folder / "notebooks" / "01_toy.ipynb").write_text('{"cells": []}')
    (study_folder / "runs" / "smoke").mkdir(parents=True)
    with FileLock(study_folder / "runs" / "smoke" / ".lock"):
        assert main(settings()) == 1
        assert not (study_folder / "runs" / "smoke" / "report").exists()
    assert "another study of smoke is at work" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="other systems write other names")
def test_nothing_untrusted_was_executed(study_folder, capsys):
    for name in ("m.safetensors", "w.pt"):
        pickled(study_folder / name)
    (study_folder / "notebooks" / "01_toy.ipynb").write_text('{"cells": []}')
    main(settings(f"{MODEL}.kind=single_file", f"{MODEL}.location=m.safetensors"))
    main(settings("training.weights=w.pt"))
    assert not (study_folder / "executed").exists()
