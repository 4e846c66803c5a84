"""Several rankings of the same items made one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, zip_longest
from typing import Any

from genmm_retriever.schema import Hit

RRF_K = 60


def fuse(rankings: Sequence[Sequence[Hit]], k: int, *, constant: int = RRF_K) -> list[Hit]:
    """Reciprocal rank fusion (Cormack, Clarke and Buettcher, SIGIR 2009).

    An item's score is the sum over the rankings of 1 / (constant + rank), as a share of what an
    item has that is first in all of them; it is in `evidence.parts` as `fused` too. The rest of
    its evidence is that of the ranking where it stands best, the earlier of equals. A single
    ranking is left as it is: there its scores say more.

    Args:
        rankings: Hits, best first, each.
        k: Most hits.
        constant: How little the first ranks count more than the next.

    Examples:
        >>> from genmm_retriever.schema import Item
        >>> a, b, c = (Hit(item=Item(id=i, text=i), score=0.5, rank=1) for i in "abc")
        >>> ranked = [[h.model_copy(update={"rank": n}) for n, h in enumerate(r, 1)]
        ...           for r in ([a, b], [b, c])]
        >>> [(hit.item.id, round(hit.score, 3)) for hit in fuse(ranked, 2)]
        [('b', 0.992), ('a', 0.5)]
    """
    if len(rankings) == 1:
        return list(rankings[0][:k])
    best: dict[str, Hit] = {}
    sums: dict[str, float] = {}
    for ranking in rankings:
        for hit in ranking:
            name = hit.item.id
            sums[name] = sums.get(name, 0.0) + 1.0 / (constant + hit.rank)
            if name not in best or hit.rank < best[name].rank:
                best[name] = hit
    whole = len(rankings) / (constant + 1)
    order = sorted(sums, key=lambda name: (-sums[name], best[name].rank))[:k]
    return [
        _fused(best[name], min(1.0, sums[name] / whole), rank)
        for rank, name in enumerate(order, start=1)
    ]


def interleaved(rankings: Sequence[Sequence[str]]) -> list[str]:
    """Ids of several rankings, rank by rank, each once.

    Examples:
        >>> interleaved([["a", "b"], ["b", "c", "d"]])
        ['a', 'b', 'c', 'd']
    """
    by_rank = chain.from_iterable(zip_longest(*rankings))
    return list(dict.fromkeys(name for name in by_rank if name is not None))


def summed(timings: Sequence[dict[str, float]]) -> dict[str, float]:
    """Seconds by stage, over several calls.

    Examples:
        >>> summed([{"decode": 1.0}, {"adapt": 0.5, "decode": 2.0}])
        {'decode': 3.0, 'adapt': 0.5}
    """
    stages = dict.fromkeys(stage for timing in timings for stage in timing)
    return {stage: sum(timing.get(stage, 0.0) for timing in timings) for stage in stages}


def _fused(hit: Hit, score: float, rank: int) -> Hit:
    parts = {**hit.evidence.parts, "fused": score}
    return with_evidence(hit, parts=parts).model_copy(update={"score": score, "rank": rank})


def with_evidence(hit: Hit, **changes: Any) -> Hit:
    """A hit with some fields of its evidence changed."""
    evidence = hit.evidence.model_copy(update=changes)
    return hit.model_copy(update={"evidence": evidence})
