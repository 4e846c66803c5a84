"""Looking ahead: what a query says of whole beginnings of identifiers, while they are written.

A beam is greedy, token by token. PAG (Zeng et al., arXiv 2404.14600) adds to each prefix the
best score that something simpler gives to what can still come of it, and gets by with a
tenth of the beams. Here the something simpler scores beginnings: the topics of a collection,
which are few however many items there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from genmm_retriever.constraints.base import StateT
from genmm_retriever.decoding.hypotheses import Expansion, Live


@dataclass(frozen=True)
class Guide:
    """Scores of beginnings, for one query.

    Made by `over`.

    Attributes:
        ahead: For each prefix of a beginning, the best score of those that begin so.
        longest: Tokens of the longest beginning.
        least: What an identifier gets that has none of the beginnings.
    """

    ahead: dict[tuple[int, ...], float]
    longest: int
    least: float

    @classmethod
    def over(cls, beginnings: Iterable[tuple[Sequence[int], float]]) -> Guide:
        """A guide from beginnings, none of which continues another, and their scores in nats.

        Examples:
            >>> guide = Guide.over([((4, 5), -1.0), ((4, 6), -2.0), ((7,), -3.0)])
            >>> guide.of((4,)), guide.of((4, 6)), guide.of((4, 6, 9)), guide.of((8,))
            (-1.0, -2.0, -2.0, -3.0)
        """
        ahead: dict[tuple[int, ...], float] = {}
        longest, least = 0, 0.0
        for tokens, score in beginnings:
            longest, least = max(longest, len(tokens)), min(least, score)
            for length in range(1, len(tokens) + 1):
                prefix = tuple(tokens[:length])
                ahead[prefix] = max(score, ahead.get(prefix, score))
        return cls(ahead, longest, least)

    def of(self, tokens: tuple[int, ...]) -> float:
        """The best score of the beginnings that these tokens belong to or may become."""
        for length in range(min(len(tokens), self.longest), 0, -1):
            found = self.ahead.get(tokens[:length])
            if found is not None:
                return found
        return self.least


Guides = Sequence[Guide | None]


def guided(live: Live[StateT], expansion: Expansion, guides: Guides) -> Expansion:
    """The expansion with what lies ahead of each continuation added to its score."""
    columns = (expansion.query.tolist(), expansion.rows.tolist(), expansion.tokens.tolist())
    scores = []
    for query, row, token in zip(*columns, strict=True):
        guide = guides[query]
        scores.append(0.0 if guide is None else guide.of((*live.tokens[row], token)))
    ahead = torch.tensor(scores, device=expansion.score.device)
    return replace(expansion, score=expansion.score + ahead, ahead=ahead)


def ahead_of(expansion: Expansion, pairs: Tensor) -> Tensor | float:
    """What was added to the score of some pairs."""
    return 0.0 if expansion.ahead is None else expansion.ahead[pairs]
