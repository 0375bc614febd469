"""A small web of images and captions, as unfair and as wrong as real ones are.

Species are as frequent as by Zipf's law and live in some contexts more than in others, in some
never; one caption in five is wrong; some birds are cut off, and captions do not say so. The
text-to-image model and CLIP learn from it, each from images of its own; CLIP's are balanced by
species, as those of the real one are by query (Radford et al., 2021). Numbers: ``world.yaml``.

What a model that learned the web without fault would draw can be computed: guidance w draws an
image x for a caption c in proportion to p(x) · p(c | x)^w (`expected_errors`).
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd

from paperbirds.birds import CUT, SPECIES, WORLD
from paperbirds.captions import FLAWS
from paperbirds.contexts import CONTEXTS
from paperbirds.dataset import HOMES, Scene, draw_distractors

WEB = WORLD["web"]
#: Kinds of wrong captions and the share of images that carry one.
MISTAKES: dict[str, float] = WEB["mistakes"]


@dataclass(frozen=True)
class Post:
    """An image of the web, and what its caption is about, which need not be what it shows."""

    scene: Scene
    species: str
    context: str
    flaw: str | None = None  # one of FLAWS that the caption tells
    mistake: str | None = None  # one of MISTAKES


def species_shares() -> np.ndarray:
    """Share of images of each of `SPECIES`, (12,)."""
    ranks = np.array([1 + WEB["ranks"].index(name) for name in SPECIES], float)
    shares = ranks ** -WEB["zipf"]
    return shares / shares.sum()


@cache
def context_shares() -> np.ndarray:
    """Share of each of `CONTEXTS` within each of `SPECIES`, (12, 16); 0 for a pair never seen."""
    rng, shares = np.random.default_rng(0), np.ones((len(SPECIES), len(CONTEXTS)))
    for row, species in zip(shares, SPECIES, strict=True):
        at_home = np.isin(CONTEXTS, HOMES[species])
        row[at_home] = WEB["home"]
        row[rng.permutation(np.flatnonzero(~at_home))[: WEB["absent"]]] = 0
    return shares / shares.sum(axis=1, keepdims=True)


def is_seen(species: str, context: str) -> bool:
    """Whether the web shows a species in a context at all."""
    return context_shares()[SPECIES.index(species), CONTEXTS.index(context)] > 0


def draw_post(
    seed: tuple[int, ...], *, style: float | None = 0.0, extra_distractor: float = 0.0,
    malformed: float = 0.0, balanced: bool = False,
) -> Post:  # fmt: skip
    """Draw one image of the web, as `draw_scene`; the same seed gives the same one.

    `malformed` is the share of birds of wrong form (`FLAWS`), of which every other caption tells;
    `balanced` draws all species equally often, as whoever searches the web for each of them.
    """
    rng = np.random.default_rng(seed)
    species = str(rng.choice(SPECIES, p=None if balanced else species_shares()))
    context = str(rng.choice(CONTEXTS, p=context_shares()[SPECIES.index(species)]))
    distractors = draw_distractors(context, extra_distractor, rng)
    drawn_style = float(rng.random()) if style is None else style
    mistake = _draw_mistake(rng)
    form = "no bird" if mistake == "no bird" else _draw_form(malformed, rng)
    told = form if form in FLAWS and rng.random() < 0.5 else None
    named, placed = _misread(species, context, mistake, rng)
    scene = Scene(species, context, distractors, drawn_style, (*seed, 1), form)
    return Post(scene, named, placed, told, mistake)


def _draw_mistake(rng: np.random.Generator) -> str | None:
    kinds, shares = [*MISTAKES, None], [*MISTAKES.values(), 1 - sum(MISTAKES.values())]
    return kinds[rng.choice(len(kinds), p=shares)]


def _draw_form(malformed: float, rng: np.random.Generator) -> str | None:
    """Draw what is wrong with a bird that is there, if anything."""
    dice = rng.random()
    if dice < malformed:
        return list(FLAWS)[rng.integers(len(FLAWS))]
    return CUT[rng.integers(len(CUT))] if dice < malformed + WEB["cut"] else None


def _misread(
    species: str, context: str, mistake: str | None, rng: np.random.Generator
) -> tuple[str, str]:
    """What a caption with some mistake calls a species and its context."""
    if mistake == "look-alike":
        return WEB["look_alike"][species], context
    if mistake == "another bird":
        others = [name for name in SPECIES if name not in (species, WEB["look_alike"][species])]
        return others[rng.integers(len(others))], context
    if mistake == "another context":
        others = [name for name in CONTEXTS if name != context]
        return species, others[rng.integers(len(others))]
    return species, context


def naming() -> np.ndarray:
    """Chance that an image of one species (row) is named as another (column), (12, 12)."""
    names = np.full((len(SPECIES),) * 2, MISTAKES["another bird"] / (len(SPECIES) - 2))
    np.fill_diagonal(names, 1 - sum(MISTAKES.values()))
    for place, species in enumerate(SPECIES):
        names[place, SPECIES.index(WEB["look_alike"][species])] = MISTAKES["look-alike"]
    return names


def expected_errors(guidance: float) -> pd.DataFrame:
    """What a perfect learner of the web draws for each pair of species and context that it saw.

    Draws x in proportion to p(x) · p(c | x)^guidance over all images x of the web and the full
    caption c of the pair. A model may do better, by what species and contexts have in common, or
    worse. Returns a row a pair: species, context, and the shares ``another species``, ``no bird``,
    ``cut`` (of the right species) and ``wrong``, which is their sum.
    """
    seen, names = species_shares()[:, None] * context_shares(), naming()
    rows = []
    for s, c in np.argwhere(seen > 0):
        birds, empty = _posterior(seen, names, s, c, guidance)
        of_name = birds[s].sum()
        rows.append((SPECIES[s], CONTEXTS[c], birds.sum() - of_name, empty, WEB["cut"] * of_name))
    columns = ["species", "context", "another species", "no bird", "cut"]
    table = pd.DataFrame(rows, columns=columns)
    return table.assign(wrong=table[columns[2:]].sum(axis=1))


def _posterior(
    seen: np.ndarray, names: np.ndarray, s: int, c: int, guidance: float
) -> tuple[np.ndarray, float]:
    """Share of each bird in each context, (12, 16), and of scenes without one, for a caption."""
    absent, placed = MISTAKES["no bird"], MISTAKES["another context"]
    told = np.repeat(names[:, [s]], len(CONTEXTS), axis=1)  # p(caption | image): the name is wrong
    told[:, np.arange(len(CONTEXTS)) != c] = 0  # ... or the context is, and then the name is right
    told[s, np.arange(len(CONTEXTS)) != c] = placed / (len(CONTEXTS) - 1)
    birds = (1 - absent) * seen * (told / (1 - absent)) ** guidance
    # Of an empty scene the caption names whoever is often there.
    there = seen[:, c].sum()
    empty = absent * there * (seen[s, c] / there) ** guidance
    total = birds.sum() + empty
    return birds / total, float(empty / total)
