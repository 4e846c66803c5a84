"""From hypotheses to the items that they name."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from genmm_retriever.decoding.hypotheses import Hypothesis


@dataclass(frozen=True)
class Candidate:
    """An item that at least one hypothesis names.

    Attributes:
        row: The item.
        score: logsumexp of its hypotheses' scores, at the temperature they were merged at.
        hypotheses: What led to it, best first.
    """

    row: int
    score: float
    hypotheses: tuple[Hypothesis, ...]


def aggregate(hypotheses: Iterable[Hypothesis], *, temperature: float = 1.0) -> list[Candidate]:
    """Merge the hypotheses of each item by logsumexp.

    Args:
        hypotheses: Of one query, in any order.
        temperature: How many log-probabilities are summed in a score, such as the model's own and
            a guide's: the likelihoods of an item's identifiers add up, and not their powers.

    Returns:
        One candidate an item, best first; equal scores in the order of their rows.

    Examples:
        >>> found = aggregate([Hypothesis((4, 0), (7,), -1.0, 0.0, -1.0),
        ...                    Hypothesis((5, 0), (7, 8), -1.0, 0.0, -1.0)])
        >>> [(c.row, round(c.score, 3)) for c in found]
        [(7, -0.307), (8, -1.0)]
    """
    by_row: dict[int, list[Hypothesis]] = {}
    for hypothesis in hypotheses:
        for row in hypothesis.items:
            by_row.setdefault(row, []).append(hypothesis)
    candidates = []
    for row, of_row in by_row.items():
        of_row.sort(key=lambda hypothesis: (-hypothesis.score, hypothesis.tokens))
        best = of_row[0].score
        total = best
        if math.isfinite(best):
            total += temperature * math.log(
                math.fsum(math.exp((h.score - best) / temperature) for h in of_row)
            )
        candidates.append(Candidate(row, total, tuple(of_row)))
    return sorted(candidates, key=lambda candidate: (-candidate.score, candidate.row))
