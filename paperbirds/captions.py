"""Captions of Paperbirds: what the tiny text-to-image model and the tiny CLIP learn to read.

A full caption follows the paper's template, "a {class}, a bird, {context}". Shorter captions leave
parts out, so that both models also understand a class, a context or a list of objects alone, as a
negative prompt is. Few captions name the distractors of their image.
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
    words = rng.permutation(subject.distractors) if rng.random() < NAMED else ()
    distractors = tuple(map(str, words))
    if distractors and rng.random() < _SETTINGS["named_alone"]:
        return ", ".join(distractors), Subject(None, None, distractors)
    form = _TEMPLATES[rng.choice(len(_TEMPLATES), p=_CHANCES)]
    words = {"species": _article(subject.species), "context": subject.context}
    text = form.format(**words, flaw=f" {FLAWS[subject.flaw]}" if subject.flaw else "")
    named = ("species", "context", "flaw")
    facts = {n: getattr(subject, n) if f"{{{n}}}" in form else None for n in named}
    return ", ".join((text, *distractors)), Subject(distractors=distractors, **facts)


def _article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
