"""Pairs of pictures that are alike, and yet not the same: what a change can lead between."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from genmm_retriever.training.triplets.gallery import Vectors

NEAREST = 10
"""Neighbours among whom an item's partners are drawn."""
SAME = 0.95
"""Cosine from which two pictures count as the same one."""
_BLOCK = 512


@dataclass(frozen=True)
class ImagePair:
    """Two pictures of an index.

    Attributes:
        reference: Row of the picture that somebody has.
        target: Row of the picture that is looked for.
        similarity: Cosine of their looks.
        group: What they have in common.
    """

    reference: int
    target: int
    similarity: float
    group: str


def mine_pairs(
    rows: Sequence[int],
    vectors: Vectors,
    groups: Mapping[int, Sequence[str]],
    *,
    per_item: int = 1,
    seed: int = 0,
    same: float = SAME,
) -> list[ImagePair]:
    """Pairs of one group that look alike and are no near-duplicates.

    Each picture is the reference of `per_item` pairs at most and the target of twice as many,
    and two pictures are paired once, since a triplet has both directions. Partners are drawn
    from the nearest 10 of a group, of a small group from the nearest third. In the list all
    pictures come once before any comes again, and groups take turns, so that every beginning
    of it is balanced.

    Args:
        rows: n rows.
        vectors: Their looks, unit vectors [n, d].
        groups: Names of each row's groups.
        per_item: Pairs a picture is the reference of.
        seed: Of all choices.
        same: Cosine from which two pictures are left unpaired.

    Examples:
        >>> looks = np.array([[1.0, 0.0], [0.8, 0.6], [0.8, 0.6], [0.0, 1.0]], np.float32)
        >>> groups = {7: ["dog"], 8: ["dog"], 9: ["dog"], 4: ["cat"]}
        >>> pairs = mine_pairs([7, 8, 9, 4], looks, groups)
        >>> sorted({pair.reference, pair.target} for pair in pairs) == [{7, 8}, {7, 9}]
        True
        >>> {pair.group for pair in pairs}
        {'dog'}
    """
    near = _neighbours(rows, vectors, groups, most=max(NEAREST, 4 * per_item), same=same)
    order = _turns(list(near), groups, random.Random(f"{seed}-turns"))
    used: Counter[int] = Counter()
    paired: set[frozenset[int]] = set()
    pairs = []
    for turn in range(per_item):
        for row in order:
            rng = random.Random(f"{seed}-{turn}-{row}")
            free = [
                one
                for one in near[row]
                if used[one.target] < 2 * per_item and frozenset((row, one.target)) not in paired
            ]
            if free:
                chosen = rng.choice(free)
                used[chosen.target] += 1
                paired.add(frozenset((row, chosen.target)))
                pairs.append(chosen)
    return pairs


def _neighbours(
    rows: Sequence[int],
    vectors: Vectors,
    groups: Mapping[int, Sequence[str]],
    *,
    most: int,
    same: float,
) -> dict[int, list[ImagePair]]:
    """The nearest of each row within its groups, as pairs."""
    members: dict[str, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        for name in groups.get(row, ()):
            members[name].append(place)
    found: dict[int, dict[int, ImagePair]] = defaultdict(dict)
    for name, places in members.items():
        nearest = min(most, max(1, len(places) // 3))
        for start in range(0, len(places), _BLOCK):
            block = places[start : start + _BLOCK]
            cosines = vectors[block] @ vectors[places].T
            for place, row_cosines in zip(block, cosines, strict=True):
                for other in _top(row_cosines, places, place, nearest, same):
                    pair = ImagePair(
                        rows[place], rows[places[other]], float(row_cosines[other]), name
                    )
                    found[rows[place]].setdefault(pair.target, pair)
    return {
        row: sorted(near.values(), key=lambda one: (-one.similarity, one.target))[:most]
        for row, near in found.items()
    }


def _top(cosines: np.ndarray, places: Sequence[int], own: int, most: int, same: float) -> list[int]:
    """The nearest of a group, without the row itself and what is the same as it."""
    allowed = np.flatnonzero((cosines < same) & (np.asarray(places) != own))
    if len(allowed) > most:
        allowed = allowed[np.argpartition(-cosines[allowed], most - 1)[:most]]
    return [int(one) for one in allowed]


def _turns(
    rows: Sequence[int], groups: Mapping[int, Sequence[str]], rng: random.Random
) -> list[int]:
    """Rows in an order in which groups take turns; a row counts for its first group."""
    queues: dict[str, list[int]] = defaultdict(list)
    for row in sorted(rows):
        queues[groups[row][0]].append(row)
    waiting = list(queues.values())
    rng.shuffle(waiting)
    for queue in waiting:
        rng.shuffle(queue)
    longest = max(map(len, waiting), default=0)
    return [queue[turn] for turn in range(longest) for queue in waiting if turn < len(queue)]
