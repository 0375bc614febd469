"""Scenes: what to render, drawn from a seed and an index, uniformly or with the data set's bias."""

from dataclasses import dataclass

import numpy as np

from diffcore.paperbirds.birds import MALFORMATIONS
from diffcore.paperbirds.contexts import CONTEXTS
from diffcore.paperbirds.distractors import DISTRACTORS
from diffcore.paperbirds.render import Rendering, draw_clutter, render
from diffcore.paperbirds.species import SPECIES

#: Where each species is mostly photographed. Alike species live apart, so that a classifier can
#: (wrongly) tell them by their background: the bias that contextual prompts are meant to break.
HOMES: dict[str, tuple[str, ...]] = {
    "northern cardinal": ("swirling snow", "garden", "overcast sky"),
    "summer tanager": ("forest canopy", "vibrant sunset", "open desert"),
    "laysan albatross": ("expansive ocean", "cloudless sky at high altitude", "stormy sky"),
    "black footed albatross": ("lightning storm", "calm water under clear sky", "misty morning"),
    "brewer blackbird": ("city skyline at twilight", "open desert", "overcast sky"),
    "red winged blackbird": ("fields of golden crops", "calm water under clear sky", "garden"),
    "blue jay": ("forest canopy", "mountain peaks", "swirling snow"),
    "indigo bunting": ("cloudless sky at high altitude", "fields of golden crops", "misty morning"),
    "american goldfinch": ("garden", "mountain peaks", "vibrant sunset"),
    "yellow warbler": ("misty morning", "night sky with full moon", "forest canopy"),
    "painted bunting": ("open desert", "stormy sky", "city skyline at twilight"),
    "atlantic puffin": (
        "calm water under clear sky",
        "night sky with full moon",
        "expansive ocean",
    ),
}

#: Share of a biased split in the first, second and third home and anywhere else.
HOME_SHARES: tuple[float, ...] = (0.60, 0.25, 0.10, 0.05)


@dataclass(frozen=True)
class Scene:
    """All arguments of one rendering."""

    species: str
    context: str
    distractors: tuple[str, ...]
    style: float
    seed: tuple[int, ...]
    malformation: str | None = None

    def render(self) -> Rendering:
        """Render this scene; the same scene gives the same bytes."""
        return render(
            self.species, self.context, self.seed, self.distractors,
            style=self.style, malformation=self.malformation,
        )  # fmt: skip


def draw_scene(
    seed: tuple[int, ...],
    *,
    species: str | None = None,
    style: float | None = 0.0,
    biased: bool = False,
    malformed: bool = False,
    extra_distractor: float = 0.0,
) -> Scene:
    """Draw one scene from a seed.

    Args:
        seed: integers that name the scene; the same seed gives the same scene.
        species: fixed species, or None for any.
        style: fixed style in [0, 1], or None for one drawn uniformly.
        biased: contexts by HOMES and HOME_SHARES instead of uniformly.
        malformed: draw one of MALFORMATIONS.
        extra_distractor: chance of one more distractor, whatever the context.
    """
    rng = np.random.default_rng(seed)
    species = species or SPECIES[rng.integers(len(SPECIES))]
    context = _home_context(species, rng) if biased else CONTEXTS[rng.integers(len(CONTEXTS))]
    distractors = draw_clutter(context, rng)
    if rng.random() < extra_distractor:
        extra = DISTRACTORS[rng.integers(len(DISTRACTORS))]
        distractors = tuple(dict.fromkeys((*distractors, extra)))
    drawn_style = float(rng.random()) if style is None else style
    malformation = MALFORMATIONS[rng.integers(len(MALFORMATIONS))] if malformed else None
    return Scene(species, context, distractors, drawn_style, (*seed, 1), malformation)


def _home_context(species: str, rng: np.random.Generator) -> str:
    homes = HOMES[species]
    place = rng.choice(len(HOME_SHARES), p=HOME_SHARES)
    if place < len(homes):
        return homes[place]
    others = [context for context in CONTEXTS if context not in homes]
    return others[rng.integers(len(others))]
