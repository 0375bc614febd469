"""Contextual and negative prompts: the wording of one domain.

The paper's prompt is "a {class}, a {domain}, {context}"; a negative one steers away from clutter.
Differences from the authors' released code: the domain is a noun of the language ("a bird"), not
the name of a data set; every domain has contexts of its own; and a negative that contradicts the
context or the class of a prompt is left out of it.
"""

import difflib
import re
import string
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

import yaml

from diffcore.params import ParamsError, PromptParams
from diffcore.store import locate

_PLACEHOLDERS = frozenset({"class_name", "domain_noun", "context"})
_SETS = Path(__file__).with_name("sets")
_WORDS = yaml.safe_load((_SETS.parent / "words.yaml").read_text("utf-8"))
_SYNONYMS = _WORDS["synonyms"]
_SHOWN_BY = {shown: frozenset(words) for shown, words in _WORDS["shown_by"].items()}


@dataclass(frozen=True)
class PromptSet:
    """What the prompts of one domain are made of; ParamsError for what breaks these rules.

    The template is clauses joined by ", " with the placeholders ``{class_name}`` (needed),
    ``{domain_noun}`` and ``{context}``; the clause of the context is left out when a prompt has
    none, so it must not name the class.
    """

    domain: str
    template: str
    contexts: tuple[str, ...]  # at least one scene, each once
    negatives: tuple[str, ...] = ()  # what no image should show, each once
    domain_noun: str = ""  # what all classes are ("bird"); needed if the template uses it
    # Context -> negatives that it is made of and that are not named with it.
    exceptions: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        """Freeze the lists, then check the whole."""
        for name in ("contexts", "negatives"):
            object.__setattr__(self, name, _distinct(self, name))
        frozen = {context: tuple(names) for context, names in self.exceptions.items()}
        object.__setattr__(self, "exceptions", MappingProxyType(frozen))
        if not self.contexts:
            raise ParamsError(f"prompt set {self.domain!r}: contexts must name at least one scene")
        _check_template(self)


def list_prompt_sets() -> list[str]:
    """Return the names of the prompt sets that ship with the package, sorted."""
    return sorted(path.stem for path in _SETS.iterdir())


def load_prompt_set(domain: str, **parts: str | Sequence[str] | None) -> PromptSet:
    """Load the prompt set of a domain, with the parts that are not None in place of its own.

    The domain is the name of a shipped set or a YAML file, also one inside a package. ParamsError
    for an unknown domain, with the nearest known one, and for a part that cannot work.

    >>> load_prompt_set("flowers").domain_noun
    'flower'
    """
    location, known = domain, list_prompt_sets()
    if not domain.endswith((".yaml", ".yml")):
        if domain not in known:
            nearest = difflib.get_close_matches(domain, known, n=1, cutoff=0.0)[0]
            raise ParamsError(
                f"no prompt set {domain!r}; there are {', '.join(known)} (nearest: {nearest})"
            )
        location = _SETS / f"{domain}.yaml"
    try:
        values = yaml.safe_load(locate(location).read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ParamsError(f"prompts.domain: {location} cannot be read: {error}") from None
    fields = set(PromptSet.__dataclass_fields__)
    if not isinstance(values, dict) or set(values) - fields:
        raise ParamsError(f"prompts.domain: {location} must hold {', '.join(sorted(fields))}")
    replaced = {name: part for name, part in parts.items() if part is not None}
    return PromptSet(**(values | replaced))


def choose_prompt_set(settings: PromptParams) -> PromptSet:
    """Load the prompt set of a study, with the parts that its parameters replace."""
    parts = settings.model_dump(include={"template", "contexts", "negatives"})
    return load_prompt_set(settings.domain, **parts)


def _distinct(prompt_set: PromptSet, name: str) -> tuple[str, ...]:
    """Return a list of the prompt set as a tuple of distinct, non-empty texts."""
    items = getattr(prompt_set, name)
    if isinstance(items, str) or not all(isinstance(item, str) and item.strip() for item in items):
        raise ParamsError(f"prompt set {prompt_set.domain!r}: {name} must be a list of texts")
    if twice := sorted({item for item in items if list(items).count(item) > 1}):
        raise ParamsError(f"prompt set {prompt_set.domain!r}: {name} holds {twice} more than once")
    return tuple(items)


def _check_template(prompt_set: PromptSet) -> None:
    """Raise ParamsError unless every placeholder can be filled and the context left out."""
    start = f"prompt set {prompt_set.domain!r}: template {prompt_set.template!r} "
    try:
        used = _placeholders(prompt_set.template)
        parsed = string.Formatter().parse(prompt_set.template)
        formatted = [name for _, name, *how in parsed if any(how)]
    except ValueError as error:
        raise ParamsError(f"{start}cannot be read: {error}") from None
    if formatted:
        raise ParamsError(f"{start}formats {formatted}; write {{{formatted[0]}}} and no more")
    if unknown := used - _PLACEHOLDERS:
        raise ParamsError(f"{start}has {sorted(unknown)}; legal are {sorted(_PLACEHOLDERS)}")
    if "class_name" not in used:
        raise ParamsError(f"{start}does not name the {{class_name}}")
    if "domain_noun" in used and not prompt_set.domain_noun:
        raise ParamsError(f"{start}uses {{domain_noun}}, but the prompt set's domain_noun is empty")
    clauses = map(_placeholders, _clauses(prompt_set.template))
    if any({"class_name", "context"} <= names for names in clauses):
        raise ParamsError(f"{start}has class and context in one clause; put a comma between them")


def _placeholders(template: str) -> set[str]:
    return {name for _, name, *_ in string.Formatter().parse(template) if name is not None}


def _clauses(template: str) -> list[str]:
    return re.split(r",\s*", template)


def clean_class_name(name: str) -> str:
    """Turn the name of a class folder or label into words.

    Leading indices go, underscores become spaces, and of synonyms joined by commas the first
    stays. Numbers that are part of the name stay. Raises ValueError if nothing is left.

    >>> clean_class_name("001.Black_footed_Albatross")
    'black footed albatross'
    >>> clean_class_name("747-400"), clean_class_name("Audi S4 Sedan 2012")
    ('747-400', 'audi s4 sedan 2012')
    """
    first = unicodedata.normalize("NFC", name.split(",")[0].strip())  # macOS takes letters apart
    # An index has at most three digits or leading zeros: "2012_..." may well be a year.
    unnumbered = re.sub(r"^(?:0\d*|\d{1,3})[._-]+(?=[^\W\d])", "", first)
    words = " ".join(unnumbered.replace("_", " ").lower().split())
    if not words:
        raise ValueError(f"class name {name!r} holds no word")
    return words


def write_prompt(prompt_set: PromptSet, class_name: str, context: str = "") -> str:
    """Write the prompt of a class, in a context or, for an empty one, in none; "a" may be "an".

    >>> write_prompt(load_prompt_set("birds"), "021.Eastern_Towhee", "open desert")
    'an eastern towhee, a bird, open desert'
    """
    parts = [part for part in _clauses(prompt_set.template) if context or "{context}" not in part]
    filled = ", ".join(parts).format(
        class_name=clean_class_name(class_name), domain_noun=prompt_set.domain_noun, context=context
    )
    return re.sub(r"\ba (?=[aeiou])", "an ", filled)


def negatives_for(
    prompt_set: PromptSet, context: str = "", class_name: str = ""
) -> tuple[str, ...]:
    """Return the negatives that fit one prompt: all but those that contradict it.

    A negative contradicts the context, the class or the domain if each of its words is in that
    text or is implied by it, both reduced to stems.

    >>> prompt_set = PromptSet("birds", "a {class_name}, {context}", ("forest",), ("tree", "car"))
    >>> negatives_for(prompt_set, "forest", "blue jay")
    ('car',)
    """
    texts = (context, prompt_set.domain_noun, clean_class_name(class_name) if class_name else "")
    return tuple(
        negative
        for negative in prompt_set.negatives
        if negative not in prompt_set.exceptions.get(context, ())
        and not any(_contradicts(negative, text) for text in texts)
    )


@lru_cache(maxsize=65536)
def _contradicts(negative: str, text: str) -> bool:
    """Whether a text names or implies every word of a negative."""
    stems, named = _stems(negative), _stems(text)
    implied = {shown for shown, words in _SHOWN_BY.items() if words & named}
    return bool(stems) and stems <= named | implied


def _stems(text: str) -> set[str]:
    return {_stem(word) for word in re.findall(r"[^\W\d_]+", text.lower())}


def _stem(word: str) -> str:
    """Reduce a lower-case word to its singular and to one of several names of a thing."""
    if word not in _SYNONYMS:
        if re.search(r"(?:ch|sh|x|ss)es$", word):
            word = word[:-2]
        elif re.search(r"[^aeiou]ies$", word):
            word = word[:-3] + "y"
        elif re.search(r"[^siu]s$", word):
            word = word[:-1]
    return _SYNONYMS.get(word, word)
