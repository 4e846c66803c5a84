"""Triplets as pairs to learn from, both ways, some of them held out."""

from __future__ import annotations

import random
from collections.abc import Sequence

from genmm_retriever.training.lessons import Pair
from genmm_retriever.training.triplets.book import KnownTriplet
from genmm_retriever.training.triplets.filters import text_key

MOST_HELD = 100
_HELD = 0.1
_FEWEST = 4


def composed_pairs(
    triplets: Sequence[KnownTriplet], *, seed: int = 0
) -> tuple[list[Pair], list[Pair]]:
    """Composed queries with what answers them: forward, and backward where there is a reverse.

    Of four and more pairs of pictures a tenth is held out, at least one and 100 at most, with
    all that leads between the two in either direction; nothing is learnt from a text of theirs.

    Args:
        triplets: By rows.
        seed: Of what is held out.

    Returns:
        The queries to be learnt, and those that are held out.

    Examples:
        >>> learnt, held = composed_pairs([KnownTriplet(3, 5, "in snow", "on grass")])
        >>> [(pair.looked, pair.text, pair.rows) for pair in learnt], held
        ([(3, 'in snow', (5,)), (5, 'on grass', (3,))], [])
    """
    both = sorted({tuple(sorted((one.reference, one.target))) for one in triplets})
    most = min(MOST_HELD, max(1, int(len(both) * _HELD))) if len(both) >= _FEWEST else 0
    chosen = set(random.Random(f"{seed}-composed").sample(both, most))
    learnt: dict[Pair, None] = {}
    held: dict[Pair, None] = {}
    for one in triplets:
        kept = tuple(sorted((one.reference, one.target))) in chosen
        for looked, text, row in (
            (one.reference, one.text, one.target),
            (one.target, one.reverse, one.reference),
        ):
            if text is not None:
                (held if kept else learnt)[Pair(text, None, (row,), looked)] = None
    unseen = {text_key(pair.text or "") for pair in held}
    return [pair for pair in learnt if text_key(pair.text or "") not in unseen], list(held)
