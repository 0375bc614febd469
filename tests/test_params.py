"""Parameters: the paper's defaults, profiles over them, overrides over those, and every mistake."""

import pytest
import yaml
from conftest import PROJECT
from hypothesis import given
from hypothesis import strategies as st
from IPython.core.interactiveshell import InteractiveShell
from pydantic import ValidationError

from diffcore.params import (
    GenerationParams,
    ParamsError,
    SchedulerSpec,
    StudyParams,
    dump_params,
    is_hub_id,
    load_params,
    parse_assignments,
    project_root,
    resolve_device,
    resolve_precision,
)

PROFILES = sorted(path.stem for path in (PROJECT / "params").glob("*.yaml"))


def error_of(profile, overrides=None):
    with pytest.raises(ParamsError) as caught:
        load_params(profile, overrides)
    return str(caught.value)


# ------------------------------------------------------------------------------ what is accepted
def test_defaults_are_the_settings_that_the_authors_released():
    generation = GenerationParams()
    assert (generation.guidance_scale, generation.num_inference_steps) == (12.0, 50)
    assert (generation.height, generation.width, generation.generated_share) == (512, 512, 0.3)
    pipeline = generation.pipeline
    assert (pipeline.dtype, pipeline.vae) == ("float16", "madebyollin/sdxl-vae-fp16-fix")
    assert pipeline.scheduler == SchedulerSpec(
        class_name="EDMEulerScheduler",
        sigma_min=0.002,
        sigma_max=120.0,
        sigma_data=1.0,
        prediction_type="v_prediction",
        sigma_schedule="exponential",
    )


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_is_legal_and_named_after_its_file(name):
    assert load_params(name).profile == name


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_survives_being_dumped_and_read(name, tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(dump_params(load_params(name, {"seed": 7})), encoding="utf-8")
    assert load_params(path) == load_params(name, {"seed": 7})


def test_dotted_and_nested_overrides_agree():
    dotted = load_params("demo", {"generation.pipeline.device": "cuda", "generation.batch_size": 4})
    nested = load_params("demo", {"generation": {"pipeline": {"device": "cuda"}, "batch_size": 4}})
    assert dotted == nested
    assert dotted.generation.pipeline.kind == "paperbirds"


def test_an_override_fills_a_section_that_a_profile_left_out():
    changed = load_params("demo", {"generation.pipeline.scheduler.sigma_max": 80.0})
    assert changed.generation.pipeline.scheduler == SchedulerSpec(sigma_max=80.0)


def test_parameters_cannot_be_changed_afterwards():
    params = load_params("demo")
    with pytest.raises(ValidationError):
        params.seed = 3
    assert isinstance(params.measure.guidance_scales, tuple)


@given(st.floats(1, 50), st.integers(0, 2**31 - 1))
def test_any_legal_number_survives_being_dumped(guidance, seed):
    params = load_params("demo", {"generation.guidance_scale": guidance, "seed": seed})
    assert StudyParams.model_validate(yaml.safe_load(dump_params(params))) == params


def test_assignments_are_read_as_yaml():
    texts = ["seed=3", "prompts.template=a {class_name}, = ", "generation.pipeline.vae=null"]
    expected = {
        "seed": 3,
        "prompts.template": "a {class_name}, =",
        "generation.pipeline.vae": None,
    }
    assert parse_assignments(texts) == expected


def test_the_root_is_found_from_below(study_folder, monkeypatch):
    monkeypatch.chdir(study_folder / "notebooks")
    assert project_root() == study_folder


def test_only_what_looks_like_one_and_is_no_path_is_a_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "sdxl").mkdir(parents=True)
    assert is_hub_id("owner/name")
    for path in ("checkpoints/x", "models/sdxl", "./a/b", "/a/b", "~/a", "name", "a/b/c"):
        assert not is_hub_id(path)


def test_a_device_that_is_not_there_is_named_with_its_setting(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert resolve_device("auto", "training.device") == "cpu"
    with pytest.raises(ValueError, match=r"training\.device is cuda, but torch finds no GPU"):
        resolve_device("cuda", "training.device")


@pytest.mark.parametrize(
    ("capability", "instructions", "expected"),
    [
        ("AVX512", {"avx512_bf16": True}, "bfloat16"),
        ("AVX512_AMX", {"amx_bf16": True}, "bfloat16"),
        ("AVX512", {"avx512_bf16": False}, "float32"),
        ("AVX2", {"avx512_bf16": True}, "float32"),  # the CPU has them, but torch was told not to
        ("DEFAULT", {}, "float32"),
    ],
)
def test_bfloat16_is_chosen_where_there_are_instructions_for_it(
    capability, instructions, expected, monkeypatch
):
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: capability)
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: instructions)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation: False)
    assert resolve_precision("auto", "cpu") == expected
    assert resolve_precision("auto", "cuda") == "float32"
    assert resolve_precision("bfloat16", "cpu") == "bfloat16"
    assert resolve_precision("float16", "cuda") == "float16"
    with pytest.raises(ValueError, match="float16, which needs a GPU"):
        resolve_precision("float16", "cpu")


def test_the_root_is_found_from_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert project_root() == PROJECT


# ------------------------------------------------------------------------------ what is refused
def test_a_misspelt_key_is_told_the_nearest_and_its_range():
    assert error_of("demo", {"generation.guidence_scale": 4}) == (
        "overrides: unknown key generation.guidence_scale (value 4); "
        "nearest valid key: generation.guidance_scale"
    )


@pytest.mark.parametrize(
    ("given", "nearest"),
    [
        ("guidance_scale", "generation.guidance_scale"),
        ("generation.pipeline.sigma_max", "generation.pipeline.scheduler.sigma_max"),
        ("promts", "prompts"),
        ("data.styles", "data.style"),
        ("generation.steps", "generation.num_inference_steps"),
    ],
)
def test_the_nearest_key_is_looked_for_in_all_sections(given, nearest):
    assert f"nearest valid key: {nearest}" in error_of("demo", {given: 1})


@pytest.mark.parametrize(
    ("key", "value", "legal"),
    [
        ("generation.guidance_scale", 60, "should be less than or equal to 50"),
        ("generation.guidance_scale", float("nan"), "should be a finite number"),
        ("generation.guidance_scale", True, "should be a valid number"),
        ("generation.num_inference_steps", 20.5, "should be a valid integer"),
        ("generation.height", 60, "should be a multiple of 8"),
        ("measure.confidence", 1.0, "should be less than 1"),
        ("measure.guidance_scales", [], "Tuple should have at least 1 item"),
        ("prompts.use_context", "maybe", "should be a valid boolean"),
        ("prompts.domain", None, "should be a valid string"),
        ("data.dataset", "cub", "should be 'paperbirds', 'folder'"),
        ("generation.pipeline", 3, "should be a valid dictionary or instance of PipelineSpec"),
        ("training.precision", "bf16", "should be 'auto', 'float32', 'bfloat16' or 'float16'"),
    ],
)
def test_an_illegal_value_is_told_key_value_and_range(key, value, legal):
    message = error_of("demo", {key: value})
    assert message.startswith(f"overrides: {key} is {value!r}; {legal}")


def test_an_illegal_item_is_counted_in_its_list():
    assert "measure.guidance_scales[1] is 0.5;" in error_of(
        "demo", {"measure.guidance_scales": [1, 0.5]}
    )


@pytest.mark.parametrize(("text", "number"), [("1e-3", "0.001"), ("010", "10"), ("2", "2")])
def test_a_number_that_yaml_took_for_text_gets_its_remedy(text, number):
    message = error_of("demo", {"data.style": text})
    assert f"write {number}, without quotes" in message
    assert isinstance(yaml.safe_load(number), float | int)


@pytest.mark.parametrize("text", ["much", "nan", "inf"])
def test_a_text_that_is_no_number_gets_no_remedy(text):
    assert "without quotes" not in error_of("demo", {"data.style": text})


def test_noise_levels_must_be_in_order():
    message = error_of("demo", {"generation.pipeline.scheduler.sigma_max": 0.001})
    assert "generation.pipeline.scheduler is" in message
    assert "sigma_min 0.002 must be below sigma_max 0.001" in message


def test_all_mistakes_are_told_at_once_with_their_place(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("seed: -1\ndata: {stile: 0.5}\n", encoding="utf-8")
    lines = error_of(path, {"generation": {"batch_size": 0}}).splitlines()
    place = f"{tmp_path.name}/mine.yaml: "
    assert len(lines) == 3
    assert any(line.startswith(place + "seed is -1;") for line in lines)
    assert any(line.startswith(place + "unknown key data.stile (value 0.5);") for line in lines)
    assert any(line.startswith("overrides: generation.batch_size is 0;") for line in lines)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("seed: 1\nseed: 2\n", "mine.yaml, line 2: key 'seed' is given twice"),
        ("seed: [1\n", "mine.yaml, line 2: "),
        ("- seed\n", "mine.yaml: expected 'key: value' lines"),
        ("? [seed]\n: 1\n", "mine.yaml, line 1: found unhashable key"),
        ("seed: \x00\n", "mine.yaml: unacceptable character"),
        ("1: 2\n", "mine.yaml: unknown key 1 (value 2)"),
    ],
)
def test_a_file_that_is_no_profile_is_told_where(tmp_path, text, problem):
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    assert f"{tmp_path.name}/{problem}" in error_of(path)


def test_an_unknown_profile_is_told_those_that_exist():
    message = error_of("demmo")
    assert message.startswith("no profile 'demmo'; nearest: 'demo'; there are: ")
    assert all(name in message for name in PROFILES)


@pytest.mark.parametrize("overrides", [["seed=3"], "seed=3", 3])
def test_overrides_must_be_a_mapping(overrides):
    assert error_of("demo", overrides).startswith("overrides must be a dict such as")


@pytest.mark.parametrize("text", ["seed", "=3", "seed 3"])
def test_an_assignment_needs_key_and_value(text):
    with pytest.raises(ParamsError, match="is not of the form key=value"):
        parse_assignments([text])


def test_an_assignment_that_is_not_yaml_is_refused():
    with pytest.raises(ParamsError, match=r"^overrides: seed, line 1: "):
        parse_assignments(["seed=[1"])


def test_a_notebook_shows_the_message_alone(capsys):
    shell = InteractiveShell.instance()
    shell.run_cell("from diffcore.params import load_params; load_params('demmo')")
    shown = capsys.readouterr().out
    InteractiveShell.clear_instance()
    assert shown.startswith("ParamsError: no profile 'demmo'; nearest: 'demo'")
    assert "Traceback" not in shown
