"""Every block of docs/use-it.md runs, and its ten lines train as well as the study's own loop."""

import re
import shutil

import numpy as np
import pytest
import torch
from conftest import PROJECT
from scipy.stats import ttest_ind
from torch.nn.functional import cross_entropy
from torchvision.transforms import v2

from diffcore.params import load_params
from diffcore.study import Study
from diffcore.sweeps import plan_methods
from diffcore.training.networks import build_classifier, predict

pytestmark = pytest.mark.slow

STEPS, BATCH, LR = 70, 32, 0.01
BLOCKS = re.findall(r"```python\n(.*?)```", (PROJECT / "docs/use-it.md").read_text("utf-8"), re.S)
TEN_LINES = BLOCKS[0]
CHANGES = {
    "data.dataset": "folder", "data.root": "birds", "data.image_size": 64,
    "data.train_images_per_class": None, "data.test_images_per_class": None,
    "generation.pipeline.kind": "import", "generation.pipeline.location": "generated",
    "generation.image_size": 64, "filtering.threshold": -1.0,
    "training.model": "resnet10t", "training.weights": None, "training.steps": STEPS,
    "training.model_args": {"channels": [16, 32, 64, 128], "stem_width": 8},
    "training.lr": LR, "training.batch_size": BATCH, "training.warmup_share": 0.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def study(tmp_path_factory, photographs):
    """Photographs in a tree, others in place of generated ones, and a run that filtered them."""
    home = tmp_path_factory.mktemp("home")
    # Of ten classes 16 each are whole batches, which the study has always, the page if it can.
    parts = {"birds/train": slice(16), "birds/test": slice(20, 50), "generated": slice(50, 90)}
    for folder in sorted((photographs / "tiny-imagenet-10" / "train").iterdir()):
        files = sorted((folder / "images").iterdir())
        for part, chosen in parts.items():
            (home / part / folder.name).mkdir(parents=True)
            for file in files[chosen]:
                shutil.copy(file, home / part / folder.name)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        study = Study(load_params("photos", CHANGES), home / "runs/birds", home / "report")
        assert study.decisions["accepted"].all()
        yield study


def train_as_the_page_does(study, seed):
    """Run the ten lines, an epoch each time, with the study's crops, optimiser and schedule."""
    torch.manual_seed(seed)
    model = build_classifier(study.params.training, 10, seed).train()
    optimizer = torch.optim.AdamW(model.parameters(), LR, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    optimizer.register_step_post_hook(lambda *_: schedule.last_epoch < STEPS and schedule.step())
    crop = v2.RandomResizedCrop((64, 64), scale=(0.4, 1.0), ratio=(1.0, 1.0))
    names = {
        "augment": v2.Compose([crop, v2.RandomHorizontalFlip()]), "model": model,
        "optimizer": optimizer, "criterion": cross_entropy,
    }  # fmt: skip
    for _ in range(STEPS // -(-len(study.train) // BATCH)):
        exec(TEN_LINES, names)
    test = study.tests["test"]
    return (predict(model, test.images[:]).argmax(1).numpy() == test.labels).mean(), names


def test_ten_lines_train_as_well_as_the_study(study):
    runs = plan_methods(study, ["diffcoremix"], seeds=3)
    own = study.train_classifiers(runs)["test"]
    theirs = [train_as_the_page_does(study, seed)[0] for seed in range(3)]
    assert min(own.min(), *theirs) > 0.15  # of ten classes
    assert ttest_ind(own, theirs, equal_var=False).pvalue > 0.01, (own.tolist(), theirs)


def test_the_page_pairs_images_as_the_study_does(study):
    names = {"augment": None, "criterion": lambda *_: torch.zeros((), requires_grad=True)}
    names |= {"model": lambda images: None, "optimizer": torch.optim.SGD([torch.zeros(1)], 1.0)}
    exec(TEN_LINES, names)
    pairs, own = names["pairs"], study.pairs
    assert [f"train/{name}" for name in pairs.split.metadata["source_id"]] == (
        own.split.metadata["source_id"].tolist()
    )
    np.testing.assert_array_equal(pairs.source, own.source)
    np.testing.assert_array_equal(pairs.generated[[0, 99]], own.generated[[0, 99]])


def test_every_other_block_of_the_page_runs(study):
    names = {"augment": v2.Identity(), "criterion": cross_entropy, "model": torch.nn.Flatten()}
    names["optimizer"] = torch.optim.SGD([torch.zeros(1)], 1.0)
    exec(TEN_LINES.replace(".backward()", ""), names | {"criterion": lambda *_: torch.zeros(())})
    exec(TEN_LINES.partition("for ")[0], names)
    for block in BLOCKS[1:]:
        exec(block, names)
    assert names["images"].shape == (32, 3, 64, 64)
    assert len(names["pairs"]) == len(study.train)
    assert len(names["drawn"]) == len(study.generated)
    assert names["image"].size == (64, 64)
    assert names["bird"].size == (64, 64)
