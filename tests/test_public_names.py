"""The names that people import, where the documentation says they are, loaded on first use."""

import importlib
import subprocess
import sys

import pytest

NAMES = {
    "diffcore": (
        "Study load_params plan_generation load_pipeline generate load_encoder hard_filter "
        "pixel_mix patch_mix DiffCoReMix PairedDataset"
    ),
    "diffcore.prompts": "clean_class_name load_prompt_set find_conflicts plan_generation",
    "diffcore.generation": "load_pipeline generate read_generated",
    "diffcore.filtering": "load_encoder cosine_to_reference calibrate_threshold hard_filter",
    "diffcore.mixing": "pixel_mix patch_mix DiffCoReMix",
    "diffcore.saliency": "grad_cam energy_in_mask pointing_game",
    "paperbirds": "render SPECIES CONTEXTS DISTRACTORS Paperbirds load_oracle",
}


@pytest.mark.parametrize("module", NAMES)
def test_a_public_name_is_where_it_is_said_to_be(module):
    found = importlib.import_module(module)
    for name in NAMES[module].split():
        assert getattr(found, name) is not None


def test_the_package_imports_nothing_heavy_before_it_is_asked():
    code = "import sys, diffcore; print(*{'torch', 'pandas', 'diffusers'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == ""


def test_an_unknown_name_is_an_error():
    with pytest.raises(AttributeError):
        importlib.import_module("diffcore").__getattr__("diffcore_mix")
