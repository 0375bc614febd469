"""Captions of Paperbirds: what the tiny text-to-image model and the tiny CLIP learn to read.

A full caption follows the paper's template, "a {class}, a bird, {context}". Shorter captions leave
parts out, so that both models also understand a class, a context or a list of objects alone. Such
a list is what a negative prompt looks like. Few captions name the distractors of their image:
negative prompts are for objects that nobody named. The numbers are in ``world.yaml``.
"""

from dataclasses import dataclass

import numpy as np

from paperbirds.birds import WORLD

_SETTINGS = WORLD["captions"]
#: Malformation -> what a caption says of it.
FLAWS: dict[str, str] = _SETTINGS["flaws"]
#: Chance that a caption names the distractors of its image.
NAMED: float = _SETTINGS["named"]
_TEMPLATES, _CHANCES = tuple(_SETTINGS["forms"]), tuple(_SETTINGS["forms"].values())


@dataclass(frozen=True)
class Caption:
    """A caption and what it claims; None or () where it claims nothing."""

    text: str
    species: str | None
    context: str | None
    distractors: tuple[str, ...]
    flaw: str | None = None

    def is_true(
        self, species: str, context: str, distractors: tuple[str, ...], flaw: str | None = None
    ) -> bool:
        """Return whether everything that it claims holds for an image."""
        return (
            self.species in (None, species)
            and self.context in (None, context)
            and self.flaw in (None, flaw)
            and set(self.distractors) <= set(distractors)
        )


def full_caption(species: str, context: str, distractors: tuple[str, ...] = ()) -> str:
    """Caption all of an image in the paper's template.

    >>> full_caption("blue jay", "open desert", ("car",))
    'a blue jay, a bird, open desert, car'
    """
    return ", ".join((f"{_article(species)}, a bird, {context}", *distractors))


def draw_caption(
    species: str,
    context: str,
    distractors: tuple[str, ...],
    flaw: str | None,
    rng: np.random.Generator,
) -> Caption:
    """Draw a caption of all these facts or of some; a flaw is named wherever the bird is."""
    named = tuple(map(str, rng.permutation(distractors))) if rng.random() < NAMED else ()
    if named and rng.random() < _SETTINGS["named_alone"]:
        return Caption(", ".join(named), None, None, named)
    form = _TEMPLATES[rng.choice(len(_TEMPLATES), p=_CHANCES)]
    words = f" {FLAWS[flaw]}" if flaw else ""
    text = form.format(species=_article(species), context=context, flaw=words)
    facts = {"species": species, "context": context, "flaw": flaw}
    claims = {name: fact if f"{{{name}}}" in form else None for name, fact in facts.items()}
    return Caption(", ".join((text, *named)), distractors=named, **claims)


def _article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
