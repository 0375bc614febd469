"""Captions of Paperbirds: what the tiny text-to-image model and the tiny CLIP learn to read.

A full caption follows the paper's template, "a {class}, a bird, {context}". Sub-captions leave
parts out, so that both models also understand a class, a context or a list of objects alone: the
last is what a negative prompt looks like. Distractors are named in `NAMED` of the captions of
images that hold some: uninvited ones are what a negative prompt is for. A caption that tells what
is wrong with a bird says so behind the bird's name.
"""

from dataclasses import dataclass

import numpy as np

#: Chance that a caption names the distractors of its image.
NAMED = 0.25
#: Chance that a caption that names distractors names nothing else.
NAMED_ALONE = 0.4

#: What a caption says of a bird of wrong form, if it says so.
FLAWS: dict[str, str] = {
    "two heads": "with two heads", "no head": "without a head", "missing wing": "without a wing",
}  # fmt: skip

#: Forms of a caption and how often each is drawn; a quarter names no species.
_FORMS: dict[str, float] = {
    "{species}{flaw}, a bird, {context}": 0.50,
    "{species}{flaw}, a bird": 0.10,
    "{species}{flaw}, {context}": 0.10,
    "{species}{flaw}": 0.05,
    "a bird{flaw}, {context}": 0.10,
    "{context}": 0.10,
    "a bird{flaw}": 0.05,
}
_TEMPLATES, _CHANCES = tuple(_FORMS), tuple(_FORMS.values())


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
        """Whether it claims nothing that is not so in an image."""
        return (
            self.species in (None, species)
            and self.context in (None, context)
            and self.flaw in (None, flaw)
            and set(self.distractors) <= set(distractors)
        )


def full_caption(species: str, context: str, distractors: tuple[str, ...] = ()) -> str:
    """The whole truth about an image in the paper's template.

    >>> full_caption("blue jay", "open desert", ("car",))
    'a blue jay, a bird, open desert, car'
    """
    return ", ".join((f"{_article(species)}, a bird, {context}", *distractors))


def draw_caption(
    species: str, context: str, distractors: tuple[str, ...], flaw: str | None,
    rng: np.random.Generator,
) -> Caption:  # fmt: skip
    """Draw a caption of what is given, or of parts of it; objects alone are one of its forms.

    `flaw` is one of FLAWS, told wherever the bird is, or None.
    """
    named = tuple(map(str, rng.permutation(distractors))) if rng.random() < NAMED else ()
    if named and rng.random() < NAMED_ALONE:
        return Caption(", ".join(named), None, None, named)
    form = _TEMPLATES[rng.choice(len(_TEMPLATES), p=_CHANCES)]
    told = f" {FLAWS[flaw]}" if flaw else ""
    head = form.format(species=_article(species), context=context, flaw=told)
    claims = {"species": species, "context": context, "flaw": flaw}
    claimed = {name: what if f"{{{name}}}" in form else None for name, what in claims.items()}
    return Caption(", ".join((head, *named)), distractors=named, **claimed)


def _article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
