"""What a study knows about its images, and which cells of a notebook need to know it.

The notebooks are written once and run on every data set, but some of what they measure can only be
measured where the truth is known. Such a cell says in its first line what it needs:

    # needs: world
    # needs: truth, masks
    <!-- needs: world -->

Where a study lacks that, a cell with code says so instead of running, and the page of an executed
notebook leaves it out, with the prose that goes with it. To Python and Markdown the line is a
comment, so that a cell reads, and is checked, like any other.
"""

import re
from collections.abc import Callable

from diffcore.params import StudyParams

#: What a cell can need, and who has it.
KNOWLEDGE = {
    "world": "Paperbirds, whose renderer and oracle know the truth of every image",
    "truth": "to know which counterparts are wrong, as of Paperbirds and of planted stand-ins",
    "pipeline": "a text-to-image model; this study takes images that are there already",
    "stand-ins": "photographs that stand in for generated images",
    "imports": "generated images that were made elsewhere",
    "masks": "masks or boxes of the objects, which this data set does not bring",
    "texts": "an encoder that reads texts",
    "side studies": "the side studies, which trials.side_studies turns on",
}
_MARK = re.compile(r"(?:#|<!--) needs: ([^\n]*?)\s*(?:-->)?(?:\n|$)")
_BOXED = frozenset({"paperbirds", "cub200", "cars", "caltech101", "tiny_imagenet"})


def known(params: StudyParams) -> frozenset[str]:
    """What of `KNOWLEDGE` a study has.

    >>> from diffcore.params import load_params
    >>> sorted(frozenset(KNOWLEDGE) - known(load_params("demo")))
    ['imports', 'stand-ins']
    """
    world = params.data.dataset == "paperbirds"
    generation = params.generation
    has = {
        "world": world and generation.can_draw,
        "truth": generation.pipeline.kind == "stand_in" or (world and generation.can_draw),
        "pipeline": generation.can_draw,
        "stand-ins": generation.pipeline.kind == "stand_in",
        "imports": generation.pipeline.kind == "import",
        "masks": params.data.dataset in _BOXED,
        "texts": params.filtering.encoder.kind != "timm",
        "side studies": params.trials.side_studies,
    }
    return frozenset(name for name, given in has.items() if given)


def skipper(has: frozenset[str]) -> Callable[[list[str]], list[str]]:
    r"""Make a transformer of IPython's that replaces cells for which something is not known.

    Args:
        has: what is known, of `KNOWLEDGE`.

    Raises:
        ValueError: when a cell needs what nobody knows, such as a misspelt word.

    >>> skipper(frozenset({"world"}))(["# needs: texts", "1 / 0"])
    ['print("Skipped: needs an encoder that reads texts.")\n']
    """

    def skip(lines: list[str]) -> list[str]:
        lacking = [KNOWLEDGE[name] for name in needs("\n".join(lines)) if name not in has]
        return [f'print("Skipped: needs {"; and ".join(lacking)}.")\n'] if lacking else lines

    return skip


def needs(source: str) -> list[str]:
    """What a cell needs, by the first line of its source.

    Raises:
        ValueError: for what is not one of `KNOWLEDGE`.
    """
    if (first := _MARK.match(source.lstrip())) is None:
        return []
    names = [name.strip() for name in first[1].split(",")]
    if unknown := [name for name in names if name not in KNOWLEDGE]:
        raise ValueError(f"a cell needs {unknown[0]!r}; it can need {', '.join(KNOWLEDGE)}")
    return names


def watch_cells(params: StudyParams) -> None:
    """From the next cell of this notebook on, skip those for which something is not known."""
    from IPython import get_ipython

    if (shell := get_ipython()) is None:
        return
    cleanups = shell.input_transformers_cleanup
    cleanups[:] = [step for step in cleanups if not getattr(step, "skips_cells", False)]
    skip = skipper(known(params))
    skip.skips_cells = True  # so that another profile, chosen in the same session, replaces it
    cleanups.append(skip)
