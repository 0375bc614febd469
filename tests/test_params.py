"""Parameters: the paper's defaults, profiles over them, overrides over those, and every mistake."""

import pytest
from conftest import PROJECT
from IPython.core.interactiveshell import InteractiveShell
from pydantic import ValidationError

from diffcore.params import (
    GenerationParams,
    ParamsError,
    change_params,
    dump_params,
    is_hub_id,
    load_params,
    parameter_keys,
    parse_assignments,
    project_root,
    resolve_device,
    resolve_precision,
)

PROFILES = sorted((PROJECT / "params").glob("*.yaml"))
NAMES = [path.stem for path in PROFILES]


def error_of(profile, overrides=None):
    with pytest.raises(ParamsError) as caught:
        load_params(profile, overrides)
    return str(caught.value)


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


# ------------------------------------------------------------------------------- how many there are
def test_a_reader_can_take_in_all_parameters_and_profiles():
    keys = set(parameter_keys())
    sections = {key.rpartition(".")[0] for key in keys}
    assert len(keys - sections) <= 70
    assert sum(len(path.read_text("utf-8").splitlines()) for path in PROFILES) <= 480


# ------------------------------------------------------------------------------- what is accepted
def test_defaults_are_the_settings_that_the_authors_released():
    generation = GenerationParams()
    assert (generation.guidance_scale, generation.num_inference_steps) == (12.0, 50)
    assert (generation.image_size, generation.generated_share) == (512, 0.3)
    pipeline = generation.pipeline
    assert (pipeline.dtype, pipeline.vae) == ("float16", "madebyollin/sdxl-vae-fp16-fix")
    assert pipeline.scheduler.class_name == "EDMEulerScheduler"
    noise = {"sigma_min": 0.002, "sigma_max": 120.0, "sigma_data": 1.0}
    kinds = {"prediction_type": "v_prediction", "sigma_schedule": "exponential"}
    assert pipeline.scheduler.settings == noise | kinds


@pytest.mark.parametrize("name", NAMES)
def test_every_profile_is_legal_and_survives_being_dumped(name, tmp_path):
    numbers = {"seed": 7, "generation.guidance_scale": 1 / 0.3}
    params = load_params(name, numbers)
    assert (params.profile, params.seed) == (name, 7)
    assert load_params(write(tmp_path / "params.yaml", dump_params(params))) == params


def test_dotted_and_nested_overrides_agree():
    dotted = load_params("demo", {"generation.pipeline.device": "cuda", "generation.batch_size": 4})
    nested = load_params("demo", {"generation": {"pipeline": {"device": "cuda"}, "batch_size": 4}})
    assert dotted == nested
    assert dotted.generation.pipeline.kind == "folder"


def test_parameters_cannot_be_changed_afterwards():
    params = load_params("demo")
    with pytest.raises(ValidationError):
        params.seed = 3
    assert isinstance(params.runs.pixel_shares, tuple)


def test_assignments_are_read_as_yaml():
    texts = ["seed=3", "a.b=a {class_name}, = ", "c=null", "d=1e-3", "e=010", "f=no"]
    values = {"seed": 3, "a.b": "a {class_name}, =", "c": None, "d": 0.001, "e": 10, "f": "no"}
    assert parse_assignments(texts) == values  # of YAML 1.2


def test_the_root_is_found_from_below_and_from_elsewhere(study_folder, monkeypatch, tmp_path):
    monkeypatch.chdir(study_folder / "notebooks")
    assert project_root() == study_folder
    monkeypatch.chdir(tmp_path.parent)
    assert project_root() == PROJECT


def test_only_what_looks_like_one_and_is_no_path_is_a_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "sdxl").mkdir(parents=True)
    paths = ("checkpoints/x", "models/sdxl", "./a/b", "/a/b", "~/a", "name", "package:a/b")
    assert [path for path in ("owner/name", *paths) if is_hub_id(path)] == ["owner/name"]


# ------------------------------------------------------------------------------------- inheritance
def chain(folder, **texts):
    """Write profiles, and return the path of the last."""
    for name, text in texts.items():
        path = write(folder / "params" / f"{name}.yaml", text)
    return path


def test_a_profile_holds_what_differs_from_its_base(study_folder):
    lowest = "seed: 1\ntraining: {lr: 0.5, epochs: 3}\nruns: {noise_shares: [0.1, 0.2]}\n"
    middle = "base: lowest\ntraining: {lr: 0.25}\nruns: {noise_shares: [0.3]}\n"
    chain(study_folder, lowest=lowest, middle=middle, top="base: middle\nseed: 2\n")
    params = load_params("top")
    assert (params.profile, params.seed) == ("top", 2)
    assert (params.training.lr, params.training.epochs) == (0.25, 3)
    assert params.runs.noise_shares == (0.3,)  # a list is replaced, a mapping merged
    assert load_params("top", {"seed": 9}).seed == 9


def test_all_mistakes_are_reported_at_once_with_their_place(study_folder):
    path = chain(study_folder, lower="seed: -1\n", upper="base: lower\ndata: {stile: 0.5}\n")
    lines = error_of(path, {"generation": {"batch_size": 0}}).splitlines()
    assert sorted(lines) == [
        "overrides: generation.batch_size is 0; should be greater than or equal to 1",
        "params/lower.yaml: seed is -1; should be greater than or equal to 0",
        "params/upper.yaml: unknown key data.stile (value 0.5); nearest valid key: data.image_size",
    ]


def test_a_base_is_another_profile_that_exists(study_folder):
    chain(study_folder, one="base: two\n", two="base: one\n", lost="base: demmo\n")
    assert "base 'one' inherits from this very profile" in error_of("one")
    assert error_of("lost").startswith("no profile 'demmo'; nearest: 'demo'")


# --------------------------------------------------------------------------------- what is refused
@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("generation.guidence_scale", "generation.guidance_scale"),
        ("guidance_scale", "generation.guidance_scale"),
        ("promts", "prompts"),
        ("lr", "training.lr"),
        ("generation.steps", "generation.num_inference_steps"),
    ],
)
def test_a_misspelt_key_is_answered_with_the_nearest_of_all_sections(key, nearest):
    message = f"overrides: unknown key {key} (value 1); nearest valid key: {nearest}"
    assert error_of("demo", {key: 1}) == message


@pytest.mark.parametrize(
    ("key", "value", "legal"),
    [
        ("generation.guidance_scale", 60, "should be less than or equal to 50"),
        ("data.download", "maybe", "should be a valid boolean"),
        ("prompts.domain", None, "should be a valid string"),
        ("training.precision", "bf16", "should be 'auto', 'float32', 'bfloat16' or 'float16'"),
    ],
)
def test_an_illegal_value_is_reported_with_key_value_and_range(key, value, legal):
    assert error_of("demo", {key: value}).startswith(f"overrides: {key} is {value!r}; {legal}")


def test_an_illegal_item_is_counted_in_its_list():
    assert "runs.noise_shares[1] is 1.5;" in error_of("demo", {"runs.noise_shares": [1, 1.5]})


def test_a_changed_parameter_is_checked_like_one_of_a_profile():
    with pytest.raises(ParamsError, match=r"demo: unknown key mixing\.alhpa"):
        change_params(load_params("demo"), {"mixing.alhpa": 1.0})


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("seed: [1\n", "mine.yaml, line 2: "),
        ("1: 2\n", "mine.yaml: unknown key 1 (value 2)"),
    ],
)
def test_a_file_that_is_no_profile_is_placed(tmp_path, text, problem):
    assert problem in error_of(write(tmp_path / "mine.yaml", text))


def test_an_unknown_profile_is_answered_with_those_that_exist():
    message = error_of("demmo")
    assert message.startswith("no profile 'demmo'; nearest: 'demo'; there are: ")
    assert all(name in message for name in NAMES)
    assert "no parameter file" in error_of("demmo.yaml")


@pytest.mark.parametrize("overrides", [["seed=3"], "seed=3", 3])
def test_overrides_must_be_a_mapping(overrides):
    assert error_of("demo", overrides).startswith("overrides must be a dict such as")


def test_a_notebook_shows_the_message_alone(capsys):
    shell = InteractiveShell.instance()
    shell.run_cell("from diffcore.params import load_params; load_params('demmo')")
    shown = capsys.readouterr().out
    InteractiveShell.clear_instance()
    assert shown.startswith("ParamsError: no profile 'demmo'; nearest: 'demo'")
    assert "Traceback" not in shown


# -------------------------------------------------------------------------------------- the machine
def test_a_device_that_is_not_there_is_named_with_its_setting(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert resolve_device("auto", "training.device") == "cpu"
    with pytest.raises(ValueError, match=r"training\.device is cuda, but torch finds no GPU"):
        resolve_device("cuda", "training.device")
    with pytest.raises(ValueError, match="float16, which needs a GPU"):
        resolve_precision("float16", "cpu")


@pytest.mark.parametrize(
    ("capability", "instruction", "expected"),
    [
        ("AVX512", "avx512_bf16", "bfloat16"),
        ("AVX512_AMX", "amx_bf16", "bfloat16"),
        ("AVX512", "none", "float32"),
        ("AVX2", "avx512_bf16", "float32"),  # the CPU has it; torch was set not to use it
    ],
)
def test_bfloat16_is_chosen_where_there_are_instructions_for_it(
    capability, instruction, expected, monkeypatch
):
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: capability)
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {instruction: True})
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation: False)
    wanted = (("auto", "cpu"), ("auto", "cuda"), ("bfloat16", "cpu"), ("float16", "cuda"))
    chosen = [resolve_precision(*each) for each in wanted]
    assert chosen == [expected, "float32", "bfloat16", "float16"]
