"""Captions of Paperbirds: what the tiny text-to-image model and the tiny CLIP learn to read.

A full caption follows the paper's template, "a {class}, a bird, {context}". Sub-captions leave
parts out, so that both models also understand a class, a context or a list of objects alone: the
last is what a negative prompt looks like. Distractors are named in `NAMED` of the captions of
images that hold some: uninvited ones are what a negative prompt is for.
"""

from dataclasses import dataclass

import numpy as np

#: Chance that a caption names the distractors of its image.
NAMED = 0.25
#: Chance that a caption that names distractors names nothing else.
NAMED_ALONE = 0.4

#: Forms of a caption and how often each is drawn.
_FORMS: dict[str, float] = {
    "{species}, a bird, {context}": 0.50,
    "{species}, a bird": 0.10,
    "{species}, {context}": 0.10,
    "{species}": 0.05,
    "a bird, {context}": 0.10,
    "{context}": 0.10,
    "a bird": 0.05,
}
_TEMPLATES, _CHANCES = tuple(_FORMS), tuple(_FORMS.values())


@dataclass(frozen=True)
class Caption:
    """A caption and what it claims; None or () where it claims nothing."""

    text: str
    species: str | None
    context: str | None
    distractors: tuple[str, ...]

    def is_true(self, species: str, context: str, distractors: tuple[str, ...]) -> bool:
        """Whether it claims nothing that is not so in an image."""
        return (
            self.species in (None, species)
            and self.context in (None, context)
            and set(self.distractors) <= set(distractors)
        )


def full_caption(species: str, context: str, distractors: tuple[str, ...] = ()) -> str:
    """The whole truth about an image in the paper's template.

    >>> full_caption("blue jay", "open desert", ("car",))
    'a blue jay, a bird, open desert, car'
    """
    return ", ".join((f"{_article(species)}, a bird, {context}", *distractors))


def draw_caption(
    species: str, context: str, distractors: tuple[str, ...], rng: np.random.Generator
) -> Caption:
    """Draw a true caption that may leave parts out; a list of objects alone is one of its forms."""
    named = tuple(map(str, rng.permutation(distractors))) if rng.random() < NAMED else ()
    if named and rng.random() < NAMED_ALONE:
        return Caption(", ".join(named), None, None, named)
    form = _TEMPLATES[rng.choice(len(_TEMPLATES), p=_CHANCES)]
    text = ", ".join((form.format(species=_article(species), context=context), *named))
    claims = (species if "{species}" in form else None, context if "{context}" in form else None)
    return Caption(text, *claims, named)


def _article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
