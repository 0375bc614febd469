"""The data card: says all that it must, in the hub's form."""

import pandas as pd
import pytest
from huggingface_hub import DatasetCard

from diffcore.params import load_params
from diffcore.prompts.prompt_set import load_prompt_set
from diffcore.measure.data_card import data_card

GENERATED = pd.DataFrame({
    "class_name": ["jay", "jay", "wren | king"], "model": "tiny", "model_hash": "abc",
    "seed": [1, 2, 2], "width": 64, "height": 64, "num_inference_steps": 4, "guidance_scale": 12.0,
})  # fmt: skip
DECISIONS = pd.DataFrame(
    {"attempt": [0, 0, 0, 1], "accepted": [True, True, False, True], "rule": "source",
     "threshold": 0.41123}
)  # fmt: skip
COPIES = pd.DataFrame(
    [("generated", "pixels", 0.0, 3, 0), ("generated", "either", 0.0, 3, 0),
     ("copy: mirrored", "either", 1.0, 9, 9), ("copy: cropped", "either", 0.5, 9, 4)],
    columns=["images", "space", "value", "n", "count"],
)  # fmt: skip


def card(profile="smoke", wrong=0.12345, **overrides):
    params = load_params(profile, overrides)
    prompt_set = load_prompt_set(params.prompts.domain)
    return data_card(params, prompt_set, GENERATED, DECISIONS, COPIES, wrong)


def test_a_card_says_all_that_it_must():
    found, prompt_set = card(), load_prompt_set("paperbirds")
    for part in (
        "\n# Data card: generated counterparts, profile smoke\n", "3 images of 2 classes, drawn",
        "| model | tiny |\n| model hash | `abc` |", "| guidance scale | 12 |",
        "| seeds of the samples | 2 different ones |", f"Template: `{prompt_set.template}`",
        ", ".join(prompt_set.contexts), ", ".join(prompt_set.negatives), "| threshold | 0.4112 |",
        "| rejected of these | 33.3% |", "| accepted in all | 3 |", "| class | images |\n|---",
        "| jay | 2 |", r"| wren \| king | 1 |", "| generated, by pixels | 0 of 3 |",
        "finds 12.3% of the images wrong", "found 50% of the kind that it finds least (cropped)",
        "MIT, as the project",
    ):  # fmt: skip
        assert part in found.text
    assert "\n\n\n" not in found.text
    assert "{" not in found.text.replace(prompt_set.template, "")
    assert "copy: mirrored" not in found.text


def test_the_header_is_the_hubs(tmp_path):
    card().save(tmp_path / "README.md")
    found = DatasetCard.load(tmp_path / "README.md")
    assert str(found).endswith("alone.\n")
    assert found.data.license == "mit"
    assert found.text == card().text


@pytest.mark.parametrize(
    ("kind", "wrong", "said"),
    [
        ("hub", None, ["`somebody/cosxl`", "text-to-image model. **None", "is not known."]),
        ("import", None, ["imported from elsewhere", "records do not name", "Contexts: none."]),
        ("surrogate", 0.1, ["surrogates of generated images", "terms of the data set (cub200)",
                            "nothing was drawn", "10.0% of the images are injected label noise"]),
    ],
)  # fmt: skip
def test_other_origins_have_other_terms(kind, wrong, said):
    location = {"generation.pipeline.kind": kind, "generation.pipeline.location": "somebody/cosxl"}
    found = card("cub200", wrong, **location)
    assert found.data.license == "other"
    assert all(part in found.text for part in said)
    assert ("A context is what the prompt asked for" in found.text) == (kind == "hub")
