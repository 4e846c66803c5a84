"""Composed queries from real photos: a reference, and the change that leads to the target.

The rule. The target is among the reference's nearest photos, but it is neither nearly the same
picture nor told of in nearly the same words; at least three captions of each name one subject. The
change is one or two facts that at least two captions of the target state and that no caption of
the reference states or hints at. It may name what the reference alone has, under the same rule
with the sides swapped. The words come from the human captions and from fixed phrasings.

The checks. Neither half is enough alone: by captions at least three photos fit the text with its
subject, and at least three of the photos near the reference show its subject. Together they are
enough: of the photos near the reference, the target alone fits the text.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.corpora.facts import Collection, Fact
from benchmarks.corpora.lexicon import lexicon
from benchmarks.corpora.photos import Made, Photo, Record, overlap
from benchmarks.corpora.phrasing import modification

NEAREST = 30
SAME_PICTURE = 0.75
"""Cosine from which two photos count as nearly the same picture."""
SAME_WORDS = 0.35
"""Overlap of their captions' words from which two photos count as the same scene."""
AMBIGUOUS = 3
FACTS = 2

Nearness = Callable[[int], Sequence[tuple[int, float]]]
"""Place of a photo -> the places of others, nearest first, each with its cosine."""


@dataclass(frozen=True)
class Pair:
    """A reference, a target, what they share and what changes.

    Attributes:
        reference: Place of the reference among the photos.
        target: Place of the target.
        subject: What both show.
        facts: What the target has and the reference lacks.
    """

    reference: int
    target: int
    subject: str
    facts: tuple[Fact, ...]


def composed_queries(
    photos: Sequence[Photo],
    features: NDArray[Any] | Nearness,
    *,
    number: int | None = None,
    seed: int = 0,
    per_photo: int = 2,
) -> Made:
    """Composed queries over photos.

    Args:
        photos: n of them, with captions by people.
        features: One vector a photo, [n, d], or a function that ranks the others.
        number: Queries wanted; None for all that the rule gives.
        seed: Of the order, the facts and the phrasings.
        per_photo: How often a photo may be reference, and how often target.

    Returns:
        Query lines with the id of the reference. `dropped` counts pairs of photos, each under the
        first check that it failed; those that only `per_photo` or `number` left out are counted
        too.

    Raises:
        ValueError: If there is not one vector a photo.
    """
    near = features if callable(features) else nearest_by_cosine(features, len(photos))
    made, collection, draw = Made(), Collection(photos), random.Random(seed)
    pairs = _pairs(collection, near, made.dropped)
    draw.shuffle(pairs)
    pairs.sort(key=lambda ways: not any(map(_is_rare, ways)))
    sources: Counter[int] = Counter()
    targets: Counter[int] = Counter()
    for ways in pairs:
        pair = draw.choice([way for way in ways if _is_rare(way)] or ways)
        if number is not None and len(made.records) == number:
            made.dropped["more than were asked for"] += 1
        elif sources[pair.reference] == per_photo or targets[pair.target] == per_photo:
            made.dropped["a photo was used often enough"] += 1
        else:
            sources[pair.reference] += 1
            targets[pair.target] += 1
            made.records.append(_record(collection, pair, len(made.records), draw))
    return made


def nearest_by_cosine(features: NDArray[Any], count: int) -> Nearness:
    """Rank photos by the cosine of their vectors, [n, d] or [n, rows, d], nearest first.

    Raises:
        ValueError: If there is not one vector a photo.
    """
    vectors = np.asarray(features, dtype=np.float32)
    if vectors.ndim == 3:
        vectors = vectors.mean(axis=1)
    if vectors.ndim != 2 or len(vectors) != count:
        raise ValueError(f"features of shape {features.shape} do not fit {count} photos")
    vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)

    def near(place: int) -> list[tuple[int, float]]:
        cosines = vectors @ vectors[place]
        order = np.argsort(-cosines, kind="stable")
        return [(int(other), float(cosines[other])) for other in order if other != place]

    return near


def fault(collection: Collection, pair: Pair, near: Sequence[int]) -> str | None:
    """The first check that a pair with its facts fails, or None.

    Args:
        collection: The photos.
        pair: What to check.
        near: Places of the photos near the reference.
    """
    named = collection.naming
    reading = collection.reading(pair.target, pair.subject)
    if not {*pair.facts} <= {*reading.agreed()}:
        return "the target's captions do not agree in the change"
    if not all(collection.rules_out(pair.reference, pair.subject, fact) for fact in pair.facts):
        return "the reference may show the change too"
    fitting = collection.fitting(pair.subject, pair.facts)
    if len(fitting) < AMBIGUOUS:
        return "the text alone names the target"
    alike = [place for place in near if pair.subject in named[place]]
    if len(alike) < AMBIGUOUS or alike[0] == pair.target:
        return "the picture alone leads to the target"
    if any(_may_fit(collection, place, pair) for place in alike if place != pair.target):
        return "another photo near the reference may fit as well"
    return None


def _may_fit(collection: Collection, place: int, pair: Pair) -> bool:
    """Whether a photo's captions state or hint at every fact of a change."""
    stated = collection.reading(place, pair.subject).captions
    return all(
        fact in stated or collection.hints_at(place, pair.subject, fact) for fact in pair.facts
    )


def _pairs(collection: Collection, near: Nearness, dropped: Counter[str]) -> list[list[Pair]]:
    """Every pair of photos that passes, with the ways to tell its change."""
    found: list[list[Pair]] = []
    for reference in range(len(collection)):
        ranked = near(reference)[:NEAREST]
        places = [place for place, _ in ranked]
        for target, cosine in ranked:
            ways, why = _ways(collection, reference, target, cosine, places)
            if ways:
                found.append(ways)
            else:
                dropped[why] += 1
    return found


def _ways(
    collection: Collection, reference: int, target: int, cosine: float, near: Sequence[int]
) -> tuple[list[Pair], str]:
    """The changes between two photos that pass, or why there is none."""
    words = collection.words
    if cosine >= SAME_PICTURE or overlap(words[reference], words[target]) >= SAME_WORDS:
        return [], "nearly the same picture or the same words"
    shared = sorted({*collection.subjects(reference)} & {*collection.subjects(target)})
    if not shared:
        return [], "no main subject is shared"
    ways: list[Pair] = []
    faults: list[str] = []
    for subject in shared:
        for facts in _changes(collection, reference, target, subject):
            pair = Pair(reference, target, subject, facts)
            why = fault(collection, pair, near)
            if why is None:
                ways.append(pair)
            else:
                faults.append(why)
    return ways, faults[0] if faults else "no fact of the target is new"


def _changes(
    collection: Collection, reference: int, target: int, subject: str
) -> list[tuple[Fact, ...]]:
    """Sets of facts that the target has and the reference lacks, of different kinds."""
    new = _only(collection, target, reference, subject)
    return [
        facts
        for size in range(1, FACTS + 1)
        for facts in itertools.combinations(new, size)
        if len({fact.kind for fact in facts}) == size
    ]


def _only(collection: Collection, place: int, other: int, subject: str) -> list[Fact]:
    """Facts that one photo has by agreement and that nothing hints at in the other."""
    return [
        fact
        for fact in collection.reading(place, subject).agreed()
        if not _is_weak(fact) and collection.rules_out(other, subject, fact)
    ]


def _is_weak(fact: Fact) -> bool:
    entry = lexicon().entries.get((fact.kind, fact.key))
    return entry is not None and entry.weak


def _is_rare(pair: Pair) -> bool:
    """Whether a change is of a kind that few pairs of photos allow; those are taken first."""
    return any(fact.kind in ("garment", "colour", "count") for fact in pair.facts)


def _record(collection: Collection, pair: Pair, number: int, draw: random.Random) -> Record:
    reading = collection.reading(pair.target, pair.subject)
    phrases = {fact: reading.phrase(fact) for fact in pair.facts}
    counted = any(fact.kind == "count" for fact in pair.facts)
    noun = collection.noun(pair.target, pair.subject, plural=counted)
    text = modification(phrases, noun, _gone(collection, pair, draw), draw)
    reference, target = collection.photos[pair.reference], collection.photos[pair.target]
    kinds = "-".join(sorted(fact.kind for fact in pair.facts))
    return {
        "id": f"composed-{number:04}-{kinds}",
        "text": text,
        "image": str(reference.image),
        "relevant": [target.id],
        "reference": reference.id,
    }


def _gone(collection: Collection, pair: Pair, draw: random.Random) -> tuple[Fact, str] | None:
    """Half of the time, what the reference has in place of one of the facts."""
    lost = _only(collection, pair.reference, pair.target, pair.subject)
    kinds = {fact.kind for fact in pair.facts}
    reading = collection.reading(pair.reference, pair.subject)
    ways = [(fact, reading.phrase(fact)) for fact in lost if fact.kind in kinds]
    if "count" in kinds and collection.is_alone(pair.reference, pair.subject):
        ways.append((Fact("count", "one"), "one"))
    if not ways or draw.random() < 0.5:
        return None
    return draw.choice(ways)
