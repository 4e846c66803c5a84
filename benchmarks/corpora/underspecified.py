"""Underspecified queries: a human caption of which the subject and one weak fact are left.

The rule. A caption is cut to its subject, which at least three captions of the photo name, and one
thing that this subject does or that is with it, which at least two of them state. Adjectives,
numbers, colours, the scene and everything else go. The relevant photo is the caption's own.

The checks. The text is ambiguous, yet not hopeless: by captions at least `FEWEST` and at most
`MOST` photos fit it. No text is asked more often than `per_text` times, each time for another
photo, and no photo more often than `per_photo` times.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

from benchmarks.corpora.facts import Collection, Fact, stated
from benchmarks.corpora.lexicon import lexicon
from benchmarks.corpora.photos import Made, Photo, words_of

FEWEST = 3
MOST = 40
KEPT = ("action", "object")


def underspecified_queries(
    photos: Sequence[Photo],
    *,
    number: int | None = 200,
    seed: int = 0,
    per_photo: int = 1,
    per_text: int = 1,
) -> Made:
    """Underspecified queries over photos.

    Args:
        photos: With captions by people.
        number: Queries wanted; None for all that the rule gives.
        seed: Of the order and of what is kept.
        per_photo: Queries a photo at most.
        per_text: Photos that may share a text.

    Returns:
        Query lines; the whole captions are the twins. `dropped` counts captions, each under the
        last check that its candidates failed.
    """
    made, collection, draw = Made(), Collection(photos), random.Random(seed)
    asked: Counter[str] = Counter()
    texts: Counter[str] = Counter()
    captions = [
        (place, n) for place, photo in enumerate(photos) for n in range(len(photo.captions))
    ]
    draw.shuffle(captions)
    for place, n in captions:
        photo = photos[place]
        if number is not None and len(made.records) == number:
            made.dropped["more than were asked for"] += 1
            continue
        if asked[photo.id] == per_photo:
            made.dropped["the photo was asked for often enough"] += 1
            continue
        text, why = _cut(collection, place, photo.captions[n], texts, per_text, draw)
        if text is None:
            made.dropped[why] += 1
            continue
        asked[photo.id] += 1
        texts[text] += 1
        name = f"{photo.id}#{n}"
        made.records.append({"id": name, "text": text, "relevant": [photo.id]})
        made.twins.append({"id": name, "text": photo.captions[n], "relevant": [photo.id]})
    return made


def _cut(
    collection: Collection,
    place: int,
    caption: str,
    texts: Counter[str],
    per_text: int,
    draw: random.Random,
) -> tuple[str | None, str]:
    """What is left of a caption, or why nothing is."""
    ways = _ways(collection, place, caption)
    if not ways:
        return None, "no subject with a fact that two captions share"
    draw.shuffle(ways)
    why = ""
    for text, subject, fact in ways:
        fitting = len(collection.fitting(subject, [fact]))
        if fitting < FEWEST:
            why = "the text is not ambiguous"
        elif fitting > MOST:
            why = "too many photos fit"
        elif texts[text] >= per_text:
            why = "the text was taken"
        else:
            return text, ""
    return None, why


def _ways(collection: Collection, place: int, caption: str) -> list[tuple[str, str, Fact]]:
    """Each subject of a caption with each thing that it does or that is with it."""
    words = words_of(caption)
    found: list[tuple[str, str, Fact]] = []
    for subject in collection.subjects(place):
        nouns = [word for word in words if lexicon().subjects.get(word) == subject]
        agreed = {*collection.reading(place, subject).agreed()}
        for fact, phrase in stated(words, subject).items():
            if nouns and fact in agreed and fact.kind in KEPT:
                found.append((worded(nouns[0], phrase), subject, fact))
    return found


def worded(noun: str, phrase: str) -> str:
    """A subject and what is left of its caption.

    Examples:
        >>> worded("dog", "with a ball"), worded("boys", "jumping")
        ('a dog with a ball', 'boys jumping')
    """
    if noun in lexicon().plurals:
        return f"{noun} {phrase}"
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun} {phrase}"
