"""Every method that the study compares: `METHODS` by name, and `method_of` a study's settings."""

import difflib
from dataclasses import fields

from diffcore.methods import baselines
from diffcore.methods.base import Method
from diffcore.methods.diffusemix import DiffuseMix
from diffcore.methods.generated import Added, DiffCoReMixing, MixedAdded
from diffcore.params import ParamsError, StudyParams, change_params

_KINDS = (
    *(baselines.Vanilla, baselines.MixUp, baselines.CutMix, baselines.SaliencyMix),
    *(baselines.RandAugment, baselines.TrivialAugment, baselines.AugMix),
    *(DiffuseMix, Added, DiffCoReMixing, MixedAdded),
)
#: Name -> class of each method, in the order of the tables.
METHODS: dict[str, type[Method]] = {kind.name: kind for kind in _KINDS}
#: Methods without which there is nothing to compare.
REQUIRED = ("vanilla", "cutmix", "added", "diffcoremix", "mixed_added")


def method_of(name: str, params: StudyParams) -> Method:
    """Make a method with a study's settings; ParamsError for a name or setting that is not legal.

    >>> from diffcore.params import load_params
    >>> method_of("added", load_params("demo"))
    Added(probability=0.6)
    """
    if name not in METHODS:
        raise ParamsError(f"no method {name!r}; {_nearest(name, METHODS)}")
    mixing = params.mixing.model_dump(include={"alpha", "patch_share", "probability"})
    shared = {"diffusemix": {"seed": params.seed}, "diffcoremix": mixing}
    shared["mixed_added"] = {"mixing": DiffCoReMixing(**mixing)}
    fixed, settings = shared.get(name, {}), params.training.methods.get(name, {})
    legal = [field.name for field in fields(METHODS[name]) if field.name not in fixed]
    for setting in settings:
        if setting not in legal:
            key = f"training.methods.{name}.{setting}"
            raise ParamsError(f"unknown key {key}; {_nearest(setting, legal)}")
    return METHODS[name](**settings, **fixed)


def study_methods(params: StudyParams) -> list[str]:
    """Return the methods of the main table: those of the parameters, or all with images.

    Raises ParamsError, naming every method that is unknown, has no images or is missing, and for a
    setting that is not legal, also at other numbers of generated images.
    """
    at_shares = [
        change_params(params, {"runs.shares": [], **at.changes}) for at in params.runs.shares
    ]
    for each in (params, *at_shares):
        for name in each.training.methods:
            method_of(name, each)
    can_draw = params.generation.can_draw
    possible = [name for name, kind in METHODS.items() if can_draw or kind.sees != "restyled"]
    wanted = params.runs.methods or possible
    problems = [f"{name!r} is no method" for name in wanted if name not in METHODS]
    if "diffusemix" in wanted and "diffusemix" not in possible:
        problems.append("'diffusemix' needs a pipeline that can edit")
    if lacking := [repr(name) for name in REQUIRED if name not in wanted]:
        problems.append(f"{', '.join(lacking)} must be there, as every notebook compares with them")
    if problems:
        problems.append(f"there are {', '.join(possible)}")
        raise ParamsError(f"runs.methods: {'; '.join(problems)}")
    return [name for name in METHODS if name in wanted]


def _nearest(wrong: str, names: list[str]) -> str:
    nearest = difflib.get_close_matches(wrong, names, n=1, cutoff=0.0)
    return f"nearest: {nearest[0]}; there are {', '.join(names)}" if nearest else "there are none"
