"""Queries of which half have lost their photo: what should be found, and what should not be.

The rule. One caption of each photo asks for it. Of the photos that are asked for, a seeded half is
deleted from the index; a retriever that knows when to abstain tells the two halves apart.

The check. A caption that says in nearly the same words what a caption of another photo says is
dropped, since that photo would answer it as well once its own is gone.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence

from benchmarks.corpora.photos import Made, Photo, overlap, words_of

SAME_WORDS = 0.6
_EMPTY = frozenset(
    ["a", "an", "the", "of", "in", "on", "at", "is", "are", "and", "with", "to", "his", "her"]
)


def removed_queries(photos: Sequence[Photo], *, number: int | None = None, seed: int = 0) -> Made:
    """Queries with and without their photo.

    Args:
        photos: With captions by people.
        number: Queries wanted, both halves together; None for one a photo.
        seed: Of the captions and of the halves.

    Returns:
        Query lines; `deleted` are the ids of the items to delete, sorted. A query whose relevant
        item is among them has lost its photo; of an odd number of queries one more keeps it.
        `dropped` counts captions that came too near to another photo's, and photos left without.
    """
    made, draw = Made(), random.Random(seed)
    near = _Nearness(photos)
    for place in draw.sample(range(len(photos)), len(photos)):
        photo = photos[place]
        if number is not None and len(made.records) == number:
            made.dropped["more than were asked for"] += 1
            continue
        order = draw.sample(range(len(photo.captions)), len(photo.captions))
        for n in order:
            if near.nearest(place, photo.captions[n]) < SAME_WORDS:
                line = {"id": f"{photo.id}#{n}", "text": photo.captions[n], "relevant": [photo.id]}
                made.records.append(line)
                break
            made.dropped["another photo is told of in the same words"] += 1
        else:
            made.dropped["a photo without a caption of its own"] += 1
    asked = [record["relevant"][0] for record in made.records]
    made.deleted = sorted(draw.sample(asked, len(asked) // 2))
    return made


class _Nearness:
    """How near a caption comes to captions of other photos, by the words that say something."""

    def __init__(self, photos: Sequence[Photo]) -> None:
        self._captions = [
            (place, _telling(caption))
            for place, photo in enumerate(photos)
            for caption in photo.captions
        ]
        self._holding: dict[str, set[int]] = defaultdict(set)
        for row, (_, words) in enumerate(self._captions):
            for word in words:
                self._holding[word].add(row)

    def nearest(self, place: int, caption: str) -> float:
        """The largest overlap with a caption of another photo."""
        words = _telling(caption)
        rows = set().union(*(self._holding[word] for word in words))
        others = (self._captions[row] for row in rows)
        return max((overlap(words, own) for other, own in others if other != place), default=0.0)


def _telling(caption: str) -> frozenset[str]:
    return frozenset(words_of(caption)) - _EMPTY
