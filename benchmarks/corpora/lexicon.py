"""The words by which captions are read: who is there, what they do, wear and hold, and where.

A curated table, not a parser: a word that is not in it says nothing, so what is read is little
and mostly right. Each fact has words that *state* it, with the phrase that they are worded as, and
words that only *hint* at it. A hint never makes a fact hold, yet it keeps a fact from counting as
absent: a photo of a skier is not taken for one without snow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

from benchmarks.corpora.lexicon_tables import (
    ACTIONS,
    COMPOUNDS,
    GARMENTS,
    OBJECTS,
    SCENES,
    SUBJECTS,
)

Kind = Literal["count", "colour", "garment", "action", "object", "scene"]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


KINDS: tuple[Kind, ...] = ("count", "colour", "garment", "action", "object", "scene")

_ONCE = "red orange yellow green blue purple pink brown black white tan gray"
COLOURS = {**{word: word for word in _words(_ONCE)}, "grey": "gray"}
NUMBERS = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6}
MANY = _words(
    "another both couple pair each other others together group groups several many some bunch "
    "crowd team family friends twins multiple seven eight nine ten"
)
"""Words by which a photo may show more than one, without a number."""

ANIMALS = frozenset(("dog", "cat", "horse", "bird"))
_SEXED = frozenset(("man", "woman", "boy", "girl"))

_RAISED = _words("ears ear legs leg arms arm hands hand feet foot paws paw tail hair")
PLURAL_GARMENTS = _words(
    "shirts tops jackets coats hats pants jeans trousers shorts trunks uniforms"
)
BETWEEN = _words(
    "baseball soccer tank winter ski bathing rain hooded striped plaid long short sleeved life "
    "tennis basketball hockey football polo leather tee sports button-down small big large little "
    "young furry fluffy shaggy old tiny haired long-haired muscular skinny wet adult smaller "
    "larger spotted colored coloured curly cute light dark bright"
)
"""Words that may stand between a colour or a number and its noun."""


@dataclass(frozen=True)
class Entry:
    """How one fact of the table is said.

    Attributes:
        phrases: The phrase that each word is worded as.
        hints: Every word that keeps the fact from counting as absent, those that state it too.
        weak: Whether it often goes unsaid.
    """

    phrases: dict[str, str]
    hints: frozenset[str]
    weak: bool = False


@dataclass(frozen=True)
class Lexicon:
    """The tables, read.

    Attributes:
        entries: By kind and key.
        subjects: Group of each singular or plural noun for a being.
        plurals: The nouns that are plural.
        garments: Group of each word for a garment.
    """

    entries: dict[tuple[Kind, str], Entry]
    subjects: dict[str, str]
    plurals: frozenset[str]
    garments: dict[str, str]
    _stating: dict[str, list[tuple[Kind, str, str]]] = field(default_factory=dict)
    _muted: dict[tuple[str, ...], tuple[bool, ...]] = field(default_factory=dict)

    def stating(self, word: str) -> list[tuple[Kind, str, str]]:
        """Kind, key and phrase of each fact that a word states."""
        return self._stating.get(word, [])

    def is_muted(self, words: Sequence[str], place: int) -> bool:
        """Whether a word is part of a compound and says something else there.

        Examples:
            >>> lexicon().is_muted(["a", "tennis", "ball"], 1)
            True
        """
        if words[place] in ("air", "midair") and _RAISED & {*words[max(0, place - 4) : place]}:
            return True
        before = tuple(words[max(0, place - 1) : place + 1])
        after = tuple(words[place : place + 2])
        return self._muted.get(before, (False, False))[1] or self._muted.get(after, (False,))[0]

    def visible(self) -> frozenset[str]:
        """Every word that says something of what a photo shows."""
        hints = frozenset().union(*(entry.hints for entry in self.entries.values()))
        return hints | set(self.subjects) | set(self.garments) | set(COLOURS) | set(NUMBERS)


@lru_cache(maxsize=1)
def lexicon() -> Lexicon:
    """The lexicon.

    Examples:
        >>> lexicon().stating("snowy"), lexicon().subjects["puppies"]
        ([('scene', 'snow', 'in the snow')], 'dog')
    """
    tables: tuple[tuple[Kind, str], ...] = (
        ("action", ACTIONS),
        ("object", OBJECTS),
        ("scene", SCENES),
    )
    entries = {(kind, key): entry for kind, table in tables for key, entry in _entries(table)}
    stating: dict[str, list[tuple[Kind, str, str]]] = {}
    for (kind, key), entry in entries.items():
        for word, phrase in entry.phrases.items():
            stating.setdefault(word, []).append((kind, key, phrase))
    subjects = {
        word: key for key, rest in _rows(SUBJECTS) for word in rest.replace("|", "").split()
    }
    plurals = frozenset(w for _, rest in _rows(SUBJECTS) for w in rest.split("|")[1].split())
    garments = {word: key for key, rest in _rows(GARMENTS) for word in rest.split()}
    return Lexicon(entries, subjects, plurals, garments, stating, _compounds())


def _compounds() -> dict[tuple[str, ...], tuple[bool, ...]]:
    """Which of the two words of a compound says something else."""
    found: dict[tuple[str, ...], tuple[bool, ...]] = {}
    for pair in COMPOUNDS.strip().replace("\n", "|").split("|"):
        first, second = pair.split()
        stars = (first.endswith("*"), second.endswith("*"))
        found[first.removesuffix("*"), second.removesuffix("*")] = stars
    return found


def may_be(subject: str, other: str) -> bool:
    """Whether a noun of one group may speak of a being that another group names.

    Examples:
        >>> may_be("man", "person"), may_be("man", "woman"), may_be("dog", "person")
        (True, False, False)
    """
    if subject == other:
        return True
    both = {subject, other}
    if both & ANIMALS:
        return False
    if "child" in both:
        return bool(both & {"boy", "girl", "person", "player"}) or not both & _SEXED
    return not both <= _SEXED


def _rows(table: str) -> list[tuple[str, str]]:
    lines = table.replace("\n ", " ").strip().splitlines()
    return [(key.strip(), rest.strip()) for key, _, rest in (line.partition(":") for line in lines)]


def _entries(table: str) -> list[tuple[str, Entry]]:
    found: list[tuple[str, Entry]] = []
    for key, rest in _rows(table):
        stated, _, hints = rest.partition("~")
        phrases: dict[str, str] = {}
        for way in stated.split(";"):
            phrase, _, words = way.partition("=")
            phrases |= dict.fromkeys(words.split(), phrase.strip())
        entry = Entry(phrases, frozenset(hints.split()) | phrases.keys(), key.startswith("?"))
        found.append((key.removeprefix("?"), entry))
    return found
