"""Contextual and negative prompts: what to ask of the text-to-image model, image by image.

The first two steps of the paper: a training image gets generative counterparts from the prompt
"a {class}, a {domain}, {context}", and a negative prompt steers the sampler away from clutter.
A prompt book holds what one domain needs. Differences from the authors' released code:

- the domain is a noun of the language ("a bird"), not the identifier of a data set;
- every domain has contexts of its own, where theirs serve birds, cars and flowers alike;
- a negative that contradicts the context or the class of a prompt is named by `find_conflicts`
  and left out of that prompt by `negatives_for`;
- every draw has its own seed, so that it can be repeated, resumed and replaced.

Our choice: how contexts are dealt out (in equal numbers within a class), and at least one image
for every class however small the share. This module knows nothing of the others.
"""

import difflib
import hashlib
import json
import math
import re
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources
from types import MappingProxyType
from typing import Literal

import pandas as pd
import yaml

PLAN_COLUMNS = (
    "sample_id", "class_name", "source_id", "context", "prompt", "negative_prompt", "seed",
)  # fmt: skip

_PLACEHOLDERS = frozenset({"class_name", "domain_noun", "context"})

_SAME = {
    "people": "person", "human": "person", "pedestrian": "person", "men": "man", "women": "woman",
    "children": "child", "automobile": "car", "buses": "bus", "street": "road", "home": "house",
    "leaves": "leaf",
}  # fmt: skip

# What a picture of the word on the left must show. One step deep and deliberately short: it
# holds what a reader would not dispute, so that a reported conflict is a real one.
_SHOWS = {
    "canopy": "forest tree",
    "forest": "tree",
    "woodland": "forest tree",
    "orchard": "tree",
    "pine": "tree",
    "palm": "tree",
    "oak": "tree",
    "maple": "tree",
    "willow": "tree",
    "city": "building cityscape house road",
    "skyline": "building cityscape house sky",
    "town": "building house road",
    "village": "building house road",
    "suburban": "building house road",
    "church": "building",
    "castle": "building",
    "house": "building",
    "garage": "building",
    "greenhouse": "building plant",
    "avenue": "road",
    "driveway": "house road",
    "highway": "road",
    "lane": "road",
    "motorway": "road",
    "mountain": "landscape",
    "peak": "landscape mountain",
    "hill": "landscape",
    "desert": "landscape",
    "field": "landscape",
    "farmland": "field landscape",
    "meadow": "field grass landscape",
    "sunset": "sky sun sunlight",
    "sunrise": "sky sun sunlight",
    "storm": "cloud sky",
    "stormy": "cloud sky storm",
    "lightning": "sky storm",
    "overcast": "cloud sky",
    "cloudy": "cloud sky",
    "moon": "night sky",
    "ocean": "sea water",
    "sea": "water",
    "lake": "water",
    "pond": "water",
    "river": "water",
    "stream": "water",
    "garden": "plant",
    "office": "computer desk",
    "laptop": "computer",
    "traffic": "car road",
    "cab": "car vehicle",
    "car": "vehicle",
    "convertible": "car vehicle",
    "coupe": "car vehicle",
    "hatchback": "car vehicle",
    "minivan": "car vehicle",
    "sedan": "car vehicle",
    "suv": "car vehicle",
    "taxi": "car vehicle",
    "wagon": "car vehicle",
    "bus": "vehicle",
    "truck": "vehicle",
    "van": "vehicle",
    "man": "person",
    "woman": "person",
    "child": "person",
    "boy": "person",
    "girl": "person",
    "baby": "person",
    "face": "person",
}


@dataclass(frozen=True)
class PromptBook:
    """What the prompts of one domain are made of.

    Attributes:
        domain: name of the book.
        template: clauses joined by ", " with the placeholders ``{class_name}`` (needed),
            ``{domain_noun}`` and ``{context}``; the clause of the context is left out when a
            prompt has none, so it must not name the class.
        contexts: at least one scene, each once.
        negatives: what no picture should show, each once; may be empty.
        domain_noun: what all classes are ("bird"); needed if the template uses it.
        exceptions: context -> negatives that it is made of and that are not named with it.

    Raises:
        ValueError: for a template, contexts or negatives that break these rules.
    """

    domain: str
    template: str
    contexts: tuple[str, ...]
    negatives: tuple[str, ...] = ()
    domain_noun: str = ""
    exceptions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Freeze the lists, then check the whole."""
        object.__setattr__(self, "contexts", _distinct(self, "contexts"))
        object.__setattr__(self, "negatives", _distinct(self, "negatives"))
        frozen = {context: tuple(names) for context, names in self.exceptions.items()}
        object.__setattr__(self, "exceptions", MappingProxyType(frozen))
        if not self.contexts:
            raise ValueError(f"prompt book {self.domain!r}: contexts must name at least one scene")
        _check_template(self)


@dataclass(frozen=True)
class Conflict:
    """A negative that works against what a prompt asks for."""

    negative: str
    contradicts: str
    where: Literal["context", "class", "domain"]
    why: str


# ---------------------------------------------------------------------------------------- the books
def list_prompt_books() -> list[str]:
    """Names of the books that ship with the package, sorted."""
    folder = resources.files("diffcore") / "prompt_books"
    return sorted(
        book.name.removesuffix(".yaml") for book in folder.iterdir() if book.name.endswith(".yaml")
    )


def load_prompt_book(
    domain: str,
    *,
    template: str | None = None,
    contexts: Sequence[str] | None = None,
    negatives: Sequence[str] | None = None,
) -> PromptBook:
    """Load the book of a domain, with parts of it replaced where they are given.

    Raises:
        ValueError: for an unknown domain (the message lists the known ones and the nearest),
            or a part that makes no valid book.

    >>> load_prompt_book("flowers").domain_noun
    'flower'
    """
    known = list_prompt_books()
    if domain not in known:
        nearest = difflib.get_close_matches(domain, known, n=1, cutoff=0.0)[0]
        raise ValueError(
            f"no prompt book {domain!r}; there are {', '.join(known)} (nearest: {nearest})"
        )
    text = (resources.files("diffcore") / "prompt_books" / f"{domain}.yaml").read_text("utf-8")
    given = {"template": template, "contexts": contexts, "negatives": negatives}
    replaced = {key: value for key, value in given.items() if value is not None}
    return PromptBook(**(yaml.safe_load(text) | replaced))


def _distinct(book: PromptBook, name: str) -> tuple[str, ...]:
    """Return a list of the book as a tuple of distinct, non-empty texts."""
    items = getattr(book, name)
    if isinstance(items, str) or not all(isinstance(item, str) and item.strip() for item in items):
        raise ValueError(f"prompt book {book.domain!r}: {name} must be a list of texts")
    if len(set(items)) < len(items):
        twice = sorted({item for item in items if list(items).count(item) > 1})
        raise ValueError(f"prompt book {book.domain!r}: {name} holds {twice} more than once")
    return tuple(items)


def _check_template(book: PromptBook) -> None:
    """Raise ValueError unless every placeholder can be filled and the context left out."""
    start = f"prompt book {book.domain!r}: template {book.template!r} "
    used = _placeholders(book.template)
    if unknown := used - _PLACEHOLDERS:
        raise ValueError(f"{start}has {sorted(unknown)}; legal are {sorted(_PLACEHOLDERS)}")
    if "class_name" not in used:
        raise ValueError(f"{start}does not name the {{class_name}}")
    if "domain_noun" in used and not book.domain_noun:
        raise ValueError(f"{start}uses {{domain_noun}}, but the book's domain_noun is empty")
    if any({"class_name", "context"} <= _placeholders(part) for part in _clauses(book.template)):
        raise ValueError(f"{start}has class and context in one clause; put a comma between them")


def _placeholders(template: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}


def _clauses(template: str) -> list[str]:
    return re.split(r",\s*", template)


# -------------------------------------------------------------------------------------- the prompts
def clean_class_name(name: str) -> str:
    """Turn the name of a class folder or label into words.

    Leading indices go, underscores become spaces, and of synonyms joined by commas the first
    stays. Numbers that are part of the name stay. Raises ValueError if nothing is left.

    >>> clean_class_name("001.Black_footed_Albatross")
    'black footed albatross'
    >>> clean_class_name("747-400"), clean_class_name("Audi S4 Sedan 2012")
    ('747-400', 'audi s4 sedan 2012')
    """
    first = name.split(",")[0].strip()
    # An index has at most three digits or leading zeros: "2012_..." may well be a year.
    unnumbered = re.sub(r"^(?:0\d*|\d{1,3})[._-]+(?=[^\W\d])", "", first)
    words = " ".join(unnumbered.replace("_", " ").lower().split())
    if not words:
        raise ValueError(f"class name {name!r} holds no word")
    return words


@lru_cache(maxsize=4096)
def _fill(template: str, class_name: str, domain_noun: str, context: str) -> str:
    """Fill a template; an "a" before a vowel becomes "an", as in the captions of Paperbirds."""
    parts = [part for part in _clauses(template) if context or "{context}" not in part]
    words = {"class_name": class_name, "domain_noun": domain_noun, "context": context}
    return re.sub(r"\ba (?=[aeiou])", "an ", ", ".join(parts).format(**words))


def write_prompt(book: PromptBook, class_name: str, context: str = "") -> str:
    """Write the prompt of a class, in a context or, for an empty one, in none.

    >>> write_prompt(load_prompt_book("birds"), "021.Eastern_Towhee", "open desert")
    'an eastern towhee, a bird, open desert'
    """
    return _fill(book.template, clean_class_name(class_name), book.domain_noun, context)


# ----------------------------------------------------------------------------------- contradictions
def find_conflicts(book: PromptBook, class_names: Iterable[str] = ()) -> list[Conflict]:
    """Name every negative that contradicts a context, the domain or one of the classes.

    A negative contradicts a text if each of its words is in the text or is implied by it, both
    reduced to stems. What the book lists under `exceptions` is settled and not reported.

    >>> book = PromptBook("boats", "a {class_name}, {context}", ("open sea",), ("water", "car"))
    >>> [(found.negative, found.contradicts, found.why) for found in find_conflicts(book)]
    [('water', 'open sea', '"sea" implies water')]
    """
    texts = [("context", context) for context in book.contexts]
    texts += [("domain", book.domain_noun)] if book.domain_noun else []
    texts += [("class", clean_class_name(name)) for name in class_names]
    return [
        Conflict(negative, text, where, why)
        for negative in book.negatives
        for where, text in texts
        if negative not in book.exceptions.get(text, ()) and (why := _contradiction(negative, text))
    ]


def negatives_for(book: PromptBook, context: str = "", class_name: str = "") -> tuple[str, ...]:
    """Return the negatives that fit one prompt: the book's without those that contradict it.

    >>> negatives_for(load_prompt_book("paperbirds"), "forest canopy", "blue jay")
    ('car', 'person', 'house', 'traffic light')
    """
    cleaned = clean_class_name(class_name) if class_name else ""
    excepted = book.exceptions.get(context, ())
    return tuple(
        negative
        for negative in book.negatives
        if negative not in excepted
        and not any(_contradiction(negative, text) for text in (context, book.domain_noun, cleaned))
    )


@lru_cache(maxsize=65536)
def _contradiction(negative: str, text: str) -> str:
    """Say why a negative contradicts a text; empty if it does not."""
    concepts = _concepts(text)
    stems = [_stem(word) for word in _words(negative)]
    if not stems or any(stem not in concepts for stem in stems):
        return ""
    implied = {concepts[stem]: stem for stem in stems if concepts[stem] != stem}
    if not implied:
        return f'"{text}" names it'
    return "; ".join(f'"{word}" implies {stem}' for word, stem in implied.items())


@lru_cache(maxsize=4096)
def _concepts(text: str) -> dict[str, str]:
    """Map every stem that a text names or implies to the stem it comes from."""
    named = [_stem(word) for word in _words(text)]
    implied = {shown: stem for stem in named for shown in _SHOWS.get(stem, "").split()}
    return implied | {stem: stem for stem in named}


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]+", text.lower())


def _stem(word: str) -> str:
    """Reduce a lower-case word to its singular and to one of several names of a thing."""
    if word not in _SAME:
        if re.search(r"(?:ch|sh|x|ss)es$", word):
            word = word[:-2]
        elif re.search(r"[^aeiou]ies$", word):
            word = word[:-3] + "y"
        elif re.search(r"[^siu]s$", word):
            word = word[:-1]
    return _SAME.get(word, word)


# ----------------------------------------------------------------------------------------- the plan
def plan_generation(
    sources: pd.DataFrame,
    book: PromptBook,
    *,
    generated_share: float,
    seed: int,
    use_context: bool = True,
    use_negatives: bool = True,
    attempt: int = 0,
    drop_conflicts: bool = True,
) -> pd.DataFrame:
    """Make the table of what to draw: one row per generated image, in the order of the sources.

    The draw's own seed depends on (seed, source, copy, attempt) alone: neither other rows nor
    the wording change it, so plans with and without a context share their noise. Which images
    get a counterpart depends on the seed, the image and its class; contexts are dealt out in
    equal numbers (give or take one) within a class, and the copies of an image get different
    ones as far as there are enough.

    Args:
        sources: training images, columns ``source_id`` (distinct) and ``class_name``; kept as
            text. Other columns are ignored.
        book: wording.
        generated_share: generated images per training image of a class, >= 0; above 1 some or
            all images get several. A class gets at least one unless the share is 0.
        seed: of the study.
        use_context: name a context; else ``context`` is empty.
        use_negatives: name negatives; else ``negative_prompt`` is empty.
        attempt: 0 at first; higher draws replacements: other noise, contexts dealt anew.
        drop_conflicts: leave out negatives that contradict their prompt; False writes the
            book's list as it stands, which is what the released code does.

    Returns:
        Table with the columns `PLAN_COLUMNS`; ``sample_id`` is distinct, seeds are in [0, 2^63).

    Raises:
        ValueError: for missing columns or values, repeated source ids or a negative share.
    """
    if generated_share < 0:
        raise ValueError(f"generated_share is {generated_share}; it must be 0 or more")
    sources = _checked_sources(sources)
    order = {source_id: place for place, source_id in enumerate(sources["source_id"])}
    rows = []
    for class_name, members in sources.groupby("class_name", sort=False):
        contexts = _dealt(book.contexts, seed, class_name, attempt) if use_context else [""]
        for place, (source_id, copy) in enumerate(_draws(members, generated_share, seed)):
            context = contexts[place % len(contexts)]
            names = negatives_for(book, context, class_name) if drop_conflicts else book.negatives
            rows.append((
                order[source_id], copy, f"{source_id}-{copy}-{attempt}", class_name, source_id,
                context, write_prompt(book, class_name, context),
                ", ".join(names) if use_negatives else "",
                _hash("draw", seed, source_id, copy, attempt) >> 1,  # signed 64 bits hold it
            ))  # fmt: skip
    plan = pd.DataFrame(rows, columns=["place", "copy", *PLAN_COLUMNS])
    plan = plan.sort_values(["place", "copy"], ignore_index=True)
    return plan[list(PLAN_COLUMNS)].astype({"seed": "int64"})


def _checked_sources(sources: pd.DataFrame) -> pd.DataFrame:
    """Return ids and classes as text; raises ValueError for what cannot be planned."""
    needed = ["source_id", "class_name"]
    if missing := [name for name in needed if name not in sources]:
        raise ValueError(f"sources lack the columns {missing}; they have {list(sources)}")
    if sources[needed].isna().any(axis=None):
        raise ValueError("sources have rows without a source_id or class_name")
    table = sources[needed].astype(str)
    if (repeated := table["source_id"].duplicated()).any():
        first = table.loc[repeated, "source_id"].iloc[0]
        raise ValueError(f"source_id {first!r} is in sources more than once; ids must be distinct")
    return table


def _draws(members: pd.DataFrame, share: float, seed: int) -> list[tuple[str, int]]:
    """List the (source_id, copy) of one class; an image's copies stand side by side."""
    ranked = sorted(members["source_id"], key=lambda source: _hash("rank", seed, source))
    total = max(1, math.floor(share * len(ranked) + 0.5)) if share > 0 else 0
    base, extra = divmod(total, len(ranked))
    return [
        (source, copy)
        for rank, source in enumerate(ranked)
        for copy in range(base + (rank < extra))
    ]


def _dealt(contexts: Sequence[str], seed: int, class_name: str, attempt: int) -> list[str]:
    """Shuffle the contexts for one class, so that small classes do not all get the same few."""
    return sorted(contexts, key=lambda context: _hash("deal", seed, class_name, attempt, context))


def _hash(*parts: str | int) -> int:
    """Hash parts to 64 bits; the same on every machine and in every process, unlike hash()."""
    digest = hashlib.blake2b(json.dumps(parts, default=int).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")
