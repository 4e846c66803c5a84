"""What captions state about a subject: counts, colours, garments, actions, objects, scenes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from benchmarks.corpora.lexicon import (
    ANIMALS,
    BETWEEN,
    COLOURS,
    MANY,
    NUMBERS,
    PLURAL_GARMENTS,
    Kind,
    lexicon,
    may_be,
)
from benchmarks.corpora.photos import Photo, words_of

NAMED = 3
"""Captions of five that must name a photo's subject."""
AGREED = 2
"""Captions that must agree in a fact."""
UNUSUAL = frozenset(("night", "sunset", "snow", "stage"))
"""Scenes that people hardly ever leave unsaid."""
_NEAR = frozenset(
    "near nearby beside behind past by toward towards above overlooking body next".split()  # noqa: SIM905
)
LAIRS = frozenset(("couch", "sofa", "bed", "bench", "leash"))
"""What animals are on; what else is ridden has somebody else on it."""


@dataclass(frozen=True, order=True)
class Fact:
    """One thing that can be said of a photo.

    Attributes:
        kind: Its class.
        key: What it is within the class: "snow", "red shirt", "two".
    """

    kind: Kind
    key: str


def stated(words: Sequence[str], subject: str) -> dict[Fact, str]:
    """Facts that one caption states about a subject, each with the phrase for it.

    What beings do and wear counts where the nearest noun for a being may be the subject.

    Examples:
        >>> found = stated(words_of("Two brown dogs running in the snow"), "dog")
        >>> [(fact.kind, phrase) for fact, phrase in found.items()]
        [('count', 'two'), ('colour', 'brown'), ('action', 'running'), ('scene', 'in the snow')]
    """
    found: dict[Fact, str] = {}
    for place, word in enumerate(words):
        if lexicon().is_muted(words, place):
            continue
        if lexicon().subjects.get(word) == subject:
            found |= _of_noun(words, place, subject)
        if word in lexicon().garments and _is_about(words, place, subject):
            found |= _of_garment(words, place)
        for kind, key, phrase in lexicon().stating(word):
            if _is_theirs(words, place, subject, kind, phrase):
                found.setdefault(Fact(kind, key), phrase)
    return found


def _is_theirs(words: Sequence[str], place: int, subject: str, kind: Kind, phrase: str) -> bool:
    """Whether a word's fact can be one of the subject's."""
    if phrase.startswith(("in ", "on ")) and _is_elsewhere(words, place):
        return False
    if kind == "scene":
        return True
    if lexicon().subjects.get(words[place]) == subject:
        return False
    first, *rest = phrase.split()
    if subject in ANIMALS and (first == "playing" or (first == "on" and rest[-1] not in LAIRS)):
        return False
    beside = kind == "object" and first in ("with", "by", "at")
    return beside or _is_about(words, place, subject)


def _is_elsewhere(words: Sequence[str], place: int) -> bool:
    """Whether a caption says that the subject is near a place and not in or on it."""
    near = not _NEAR.isdisjoint(words[max(0, place - 3) : place])
    return near or "background" in words[place + 1 : place + 4]


def _is_about(words: Sequence[str], place: int, subject: str) -> bool:
    """Whether the being before a word, or the one right after it, may be the subject."""
    subjects = lexicon().subjects
    beings = [subjects[word] for word in words[:place] if word in subjects]
    after = [subjects[word] for word in words[place + 1 : place + 2] if word in subjects]
    nearest = after or beings[-1:]
    return bool(nearest) and may_be(subject, nearest[0])


def _of_noun(words: Sequence[str], place: int, subject: str) -> dict[Fact, str]:
    """Count and colour in front of a noun."""
    found: dict[Fact, str] = {}
    colours: list[str] = []
    start = place
    while start and (words[start - 1] in BETWEEN or words[start - 1] in (*COLOURS, "and")):
        start -= 1
        if words[start] in COLOURS:
            colours.insert(0, words[start])
    number = words[start - 1] if start else ""
    if number in NUMBERS and words[place] in lexicon().plurals:
        found[Fact("count", number)] = number
    if colours and subject in ANIMALS:
        key = " and ".join(sorted(COLOURS[one] for one in colours))
        found[Fact("colour", key)] = " and ".join(colours)
    return found


def _of_garment(words: Sequence[str], place: int) -> dict[Fact, str]:
    """The one colour of a garment; two colours are left alone, since people name either."""
    start = place
    while start and words[start - 1] in BETWEEN and place - start < 2:
        start -= 1
    before = list(words[max(0, start - 3) : start])
    if not before or before[-1] not in COLOURS:
        return {}
    if len(before) > 1 and (before[-2] == "and" or before[-2] in COLOURS):
        return {}
    garment, colour = words[place], before[-1]
    key = f"{COLOURS[colour]} {lexicon().garments[garment]}"
    article = "" if garment in PLURAL_GARMENTS else "an " if colour[0] in "aeiou" else "a "
    preposition = "with" if garment == "collar" else "in"
    return {Fact("garment", key): f"{preposition} {article}{colour} {garment}"}


@dataclass(frozen=True)
class Reading:
    """What all captions of a photo together state about a subject.

    Attributes:
        captions: How many captions state each fact.
        phrases: How each fact is worded, with counts.
    """

    captions: Counter[Fact] = field(default_factory=Counter)
    phrases: dict[Fact, Counter[str]] = field(default_factory=dict)

    def agreed(self) -> list[Fact]:
        """Facts of at least two captions; none of a kind whose captions contradict each other."""
        single = {
            kind: sum(fact.kind == kind for fact in self.captions) == 1
            for kind in ("count", "colour")
        }
        found = (fact for fact, count in self.captions.items() if count >= AGREED)
        return sorted(fact for fact in found if single.get(fact.kind, True))

    def phrase(self, fact: Fact) -> str:
        """The wording that most captions have."""
        return min(self.phrases[fact].items(), key=lambda entry: (-entry[1], entry[0]))[0]


class Collection:
    """Photos, read by the lexicon.

    Args:
        photos: All that a query may be answered by.
    """

    def __init__(self, photos: Sequence[Photo]) -> None:
        self.photos = list(photos)
        self._tokens = [[words_of(one) for one in photo.captions] for photo in photos]
        self.words = [photo.words() for photo in photos]
        self._readings: dict[tuple[int, str], Reading] = {}

    def __len__(self) -> int:
        return len(self.photos)

    @cached_property
    def naming(self) -> list[Counter[str]]:
        """By photo, how many captions name each subject."""
        subjects = lexicon().subjects
        return [
            Counter(s for words in own for s in {subjects[w] for w in words if w in subjects})
            for own in self._tokens
        ]

    def subjects(self, place: int) -> list[str]:
        """Main subjects of a photo: those that at least three of its captions name."""
        return sorted(s for s, count in self.naming[place].items() if count >= NAMED)

    def noun(self, place: int, subject: str, *, plural: bool = False) -> str:
        """The word, or the plural, for a subject that most captions of a photo have."""
        subjects, plurals = lexicon().subjects, lexicon().plurals
        nouns = Counter(
            word
            for own in self._tokens[place]
            for word in own
            if subjects.get(word) == subject and (not plural or word in plurals)
        )
        return min(nouns.items(), key=lambda entry: (-entry[1], entry[0]))[0]

    def reading(self, place: int, subject: str) -> Reading:
        """What a photo's captions state about a subject."""
        key = (place, subject)
        if key not in self._readings:
            reading = Reading()
            for words in self._tokens[place]:
                for fact, phrase in stated(words, subject).items():
                    reading.captions[fact] += 1
                    reading.phrases.setdefault(fact, Counter())[phrase] += 1
            self._readings[key] = reading
        return self._readings[key]

    def hints_at(self, place: int, subject: str, fact: Fact) -> bool:
        """Whether any caption of a photo says anything that would make a fact likely."""
        words = self.words[place]
        if fact.kind == "count":
            return not self._counts_otherwise(place, subject, fact)
        if fact.kind in ("colour", "garment"):
            named = {COLOURS[word] for word in words if word in COLOURS}
            return any(word in named for word in fact.key.split())
        return bool(words & lexicon().entries[fact.kind, fact.key].hints)

    def rules_out(self, place: int, subject: str, fact: Fact) -> bool:
        """Whether a photo surely lacks a fact.

        Nothing may hint at it; where people often leave such a thing unsaid, they must say
        another one of its kind instead.
        """
        if self.hints_at(place, subject, fact):
            return False
        if fact.kind in ("count", "object") or fact.key in UNUSUAL:
            return True
        return any(
            other.kind == fact.kind and other != fact
            for other in self.reading(place, subject).captions
        )

    def is_alone(self, place: int, subject: str) -> bool:
        """Whether no caption of a photo speaks of more than one of a subject."""
        subjects, plurals = lexicon().subjects, lexicon().plurals
        words = self.words[place]
        several = any(word in plurals and may_be(subject, subjects[word])
                      for word in words if word in subjects)  # fmt: skip
        return not several and not words & (MANY | NUMBERS.keys())

    def _counts_otherwise(self, place: int, subject: str, fact: Fact) -> bool:
        """Whether a photo surely shows another number of a subject."""
        if fact.key in self.words[place]:
            return False
        counts = [one for one in self.reading(place, subject).agreed() if one.kind == "count"]
        return bool(counts) or self.is_alone(place, subject)

    def fitting(self, subject: str, facts: Iterable[Fact]) -> list[int]:
        """Photos of which some caption names the subject and some caption states each fact."""
        wanted = set(facts)
        return [
            place
            for place, named in enumerate(self.naming)
            if subject in named and wanted <= self.reading(place, subject).captions.keys()
        ]
