"""The captioned images that the text-to-image model and CLIP learn from, biased and partly wrong.

Like real ones, they are unfair. Species are as frequent as by Zipf's law, and live in some contexts
more than in others, and in some never. One caption in five is wrong. Some birds are cut off, and
captions do not say so. CLIP's images are balanced by species, as real ones are by query (Radford et
al., 2021). Half of the captions leave parts out of the paper's template, so that both models also
understand a class, a context, or a list of objects as in a negative prompt.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from diffcore.store import digest, written_whole
from paperbirds.birds import CUT, SPECIES, WORLD
from paperbirds.contexts import CONTEXTS, SIZE
from paperbirds.dataset import HOMES, draw_distractors, draw_scene
from paperbirds.render import Scene

SETTINGS, _CAPTIONS = WORLD["training_data"], WORLD["captions"]
#: Kinds of wrong captions and the share of images that carry one.
MISTAKES: dict[str, float] = SETTINGS["mistakes"]
_RIGHT = 1 - sum(MISTAKES.values())
#: Malformation -> what a caption says of it.
FLAWS: dict[str, str] = _CAPTIONS["flaws"]
_TEMPLATES, _CHANCES = tuple(_CAPTIONS["forms"]), tuple(_CAPTIONS["forms"].values())


# ----------------------------------------------------------------------------------------- captions
@dataclass(frozen=True)
class Subject:
    """What a caption is about; None or () for what is left out or not there."""

    species: str | None
    context: str | None
    distractors: tuple[str, ...] = ()
    flaw: str | None = None  # one of FLAWS

    def holds_for(self, image: "Subject") -> bool:
        """Return whether an image shows everything that this names."""
        return (
            self.species in (None, image.species)
            and self.context in (None, image.context)
            and self.flaw in (None, image.flaw)
            and set(self.distractors) <= set(image.distractors)
        )


def full_caption(species: str, context: str, distractors: tuple[str, ...] = ()) -> str:
    """Caption all of an image in the paper's template.

    >>> full_caption("blue jay", "open desert", ("car",))
    'a blue jay, a bird, open desert, car'
    """
    return ", ".join((f"{_article(species)}, a bird, {context}", *distractors))


def draw_caption(subject: Subject, rng: np.random.Generator) -> tuple[str, Subject]:
    """Draw a caption of a subject or of some of it, and return the part that it names.

    A flaw is named wherever the bird is.
    """
    words = rng.permutation(subject.distractors) if rng.random() < _CAPTIONS["named"] else ()
    distractors = tuple(map(str, words))
    if distractors and rng.random() < _CAPTIONS["named_alone"]:
        return ", ".join(distractors), Subject(None, None, distractors)
    form = _TEMPLATES[rng.choice(len(_TEMPLATES), p=_CHANCES)]
    words = {"species": _article(subject.species), "context": subject.context}
    text = form.format(**words, flaw=f" {FLAWS[subject.flaw]}" if subject.flaw else "")
    named = ("species", "context", "flaw")
    facts = {n: getattr(subject, n) if f"{{{n}}}" in form else None for n in named}
    return ", ".join((text, *distractors)), Subject(distractors=distractors, **facts)


def _article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


# ----------------------------------------------------------------------------------------- examples
@dataclass(frozen=True)
class Example:
    """An image to learn from and the subject of its caption, which the image need not show."""

    scene: Scene
    subject: Subject | None = None  # None: without a caption
    mistake: str | None = None  # one of MISTAKES


def species_shares() -> np.ndarray:
    """Return the share of images of each of `SPECIES`, (12,)."""
    ranks = np.array([1 + SETTINGS["ranks"].index(name) for name in SPECIES], float)
    shares = ranks ** -SETTINGS["zipf"]
    return shares / shares.sum()


@cache
def context_shares() -> np.ndarray:
    """Return the share of each context within each species, (12, 16); 0 for a pair never seen."""
    rng, shares = np.random.default_rng(0), np.ones((len(SPECIES), len(CONTEXTS)))
    for row, species in zip(shares, SPECIES, strict=True):
        at_home = np.isin(CONTEXTS, HOMES[species])
        row[at_home] = SETTINGS["home"]
        row[rng.permutation(np.flatnonzero(~at_home))[: SETTINGS["absent"]]] = 0
    return shares / shares.sum(axis=1, keepdims=True)


def is_seen(species: str, context: str) -> bool:
    """Return whether any image shows this species in this context."""
    return context_shares()[SPECIES.index(species), CONTEXTS.index(context)] > 0


def draw_example(
    seed: tuple[int, ...],
    style: float | None = 0.0,
    extra_distractor: float = 0.0,
    flawed: float = 0.0,
    balanced: bool = False,
) -> Example:
    """Draw one example, as `draw_scene`; the same seed gives the same one.

    `flawed` is the share of birds of wrong form; half of their captions name it. `balanced` draws
    all species equally often.
    """
    rng = np.random.default_rng(seed)
    species = str(rng.choice(SPECIES, p=None if balanced else species_shares()))
    context = str(rng.choice(CONTEXTS, p=context_shares()[SPECIES.index(species)]))
    distractors = draw_distractors(context, extra_distractor, rng)
    style = float(rng.random()) if style is None else style
    mistake = str(rng.choice([*MISTAKES, ""], p=[*MISTAKES.values(), _RIGHT])) or None
    form, dice = ("no bird", 1.0) if mistake == "no bird" else (None, rng.random())
    if dice < flawed + SETTINGS["cut"]:
        forms = [*FLAWS] if dice < flawed else CUT
        form = forms[rng.integers(len(forms))]
    flaw = form if form in FLAWS and rng.random() < 0.5 else None
    subject = Subject(*_draw_names(species, context, mistake, rng), distractors, flaw)
    scene = Scene(species, context, (*seed, 1), distractors, style, form)
    return Example(scene, subject, mistake)


def _draw_names(
    species: str, context: str, mistake: str | None, rng: np.random.Generator
) -> tuple[str, str]:
    """Draw the species and the context that a caption with some mistake is about."""
    twin = SETTINGS["look_alike"][species]
    if mistake == "look-alike":
        return twin, context
    if mistake == "another bird":
        names = [name for name in SPECIES if name not in (species, twin)]
        return names[rng.integers(len(names))], context
    if mistake == "another context":
        names = [name for name in CONTEXTS if name != context]
        return species, names[rng.integers(len(names))]
    return species, context


# ----------------------------------------------------------------------------------- what to expect
def expected_errors(guidance: float) -> pd.DataFrame:
    """Compute what a learner without fault would draw for each pair of species and context.

    At guidance w that is an image x for a caption c in proportion to p(x) · p(c | x)^w. One row per
    pair that was seen: species, context, and the shares ``another species``, ``no bird``, ``cut``
    (of the right species) and their sum ``wrong``.
    """
    seen, absent, rows = species_shares()[:, None] * context_shares(), MISTAKES["no bird"], []
    twins = [SPECIES.index(SETTINGS["look_alike"][name]) for name in SPECIES]
    # Chance that a species (row) is named as another (column).
    names = np.full((len(SPECIES),) * 2, MISTAKES["another bird"] / (len(SPECIES) - 2))
    names[np.arange(len(SPECIES)), twins] = MISTAKES["look-alike"]
    np.fill_diagonal(names, _RIGHT)
    for s, c in np.argwhere(seen > 0):
        likelihood = np.zeros_like(seen)  # of the caption, for each image with a bird
        likelihood[s] = MISTAKES["another context"] / (len(CONTEXTS) - 1)
        likelihood[:, c] = names[:, s]
        birds = (1 - absent) * seen * (likelihood / (1 - absent)) ** guidance
        # The caption of an empty scene names a species that is often there.
        there = seen[:, c].sum()
        empty = absent * there * (seen[s, c] / there) ** guidance
        birds, empty = birds / (birds.sum() + empty), empty / (birds.sum() + empty)
        named = birds[s].sum()
        errors = birds.sum() - named, empty, SETTINGS["cut"] * named
        rows.append((SPECIES[s], CONTEXTS[c], *errors))
    columns = ["species", "context", "another species", "no bird", "cut"]
    table = pd.DataFrame(rows, columns=columns)
    return table.assign(wrong=table[columns[2:]].sum(axis=1))


# ---------------------------------------------------------------------------------- sets of images
@dataclass(frozen=True)
class Recipe:
    """How one set of renders is drawn; `seed` sets it apart from every other set."""

    name: str
    count: int
    seed: int
    options: Mapping[str, Any]  # of `draw_example` for a captioned set, else of `draw_scene`
    captioned: bool = False

    def example(self, index: int) -> Example:
        """Draw one image and, in a captioned set, the subject of its caption."""
        seed = (self.seed, index)
        if self.captioned:
            return draw_example(seed, **self.options)
        return Example(draw_scene(seed, **self.options))

    def image(self, index: int) -> np.ndarray:
        """Render one image of the set."""
        return self.example(index).scene.render().image

    def facts(self) -> pd.DataFrame:
        """Return the subject of each caption, or each scene in a set without captions."""
        examples = map(self.example, range(self.count))
        return pd.DataFrame([vars(each.subject or each.scene) for each in examples], dtype=object)


#: What the shipped text-to-image model learned from.
GENERATOR_DATA = Recipe("generator", 64_000, 108, {"extra_distractor": 0.10}, captioned=True)


@dataclass(frozen=True)
class RenderSet:
    """Images (N, 64, 64, 3) uint8 with one row of metadata each."""

    images: np.ndarray
    metadata: pd.DataFrame  # the recipe's facts
    key: str = ""  # digest of the recipe and the world


def render_set(recipe: Recipe, folder: Path) -> RenderSet:
    """Render a set on all cores, or open it if this world's was rendered before."""

    def render_all() -> np.ndarray:
        with ProcessPoolExecutor() as pool:
            rendered = pool.map(recipe.image, range(recipe.count), chunksize=512)
            bar = tqdm(rendered, f"render {recipe.name}", recipe.count, unit="image")
            return np.fromiter(bar, np.dtype((np.uint8, (SIZE, SIZE, 3))), recipe.count)

    key = digest(vars(recipe), WORLD)
    images = keep(folder / f"{recipe.name}-{key}.npy", render_all)
    return RenderSet(images, recipe.facts(), key)


def keep(path: Path, make: Callable[[], np.ndarray]) -> np.ndarray:
    """Open an array on disk, which is made first if it is missing."""
    if not path.exists():
        with written_whole(path) as aside, aside.open("wb") as file:
            np.save(file, make())
    return np.load(path, mmap_mode="r")
