"""How candidates are shown in a prompt: as pictures where the model takes them, else in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from genmm_retriever.describing.prompts import (
    MAX_OPTION_WORDS,
    OPTION_LETTERS,
    data_text,
    style_of,
)
from genmm_retriever.models.base import MLLM, ImagePart
from genmm_retriever.verification.costs import TokenCosts
from genmm_retriever.verification.features import CandidateView, QueryView

_AROUND = 256
"""Tokens left for what stands around the options."""


class Showing:
    """Candidates of one query as options of a prompt; pictures are opened once.

    Args:
        model: The language model.
        costs: Of the model's prompts; shared between queries.
        query: With text, a picture or both.
        candidates: n of them.
    """

    def __init__(
        self,
        model: MLLM,
        costs: TokenCosts,
        query: QueryView,
        candidates: Sequence[CandidateView],
    ) -> None:
        self._costs = costs
        self._query = query
        self._candidates = candidates
        self._opened: dict[int, ImagePart] = {}
        self._context: int | None = getattr(model, "context_length", None)
        self._pictures = _pictures_per_prompt(model) - (query.image is not None)

    def together(self, most: int) -> int:
        """How many candidates are shown in one prompt: at least two, and at most so many."""
        most = max(2, min(most, len(OPTION_LETTERS)))
        pictured = [i for i, c in enumerate(self._candidates) if c.image is not None]
        if pictured and self._pictures >= 2:
            cost = self._costs.picture(CandidateView("", self._picture(pictured[0])))
            fitting = min(self._fitting(cost), self._pictures)
            if fitting >= 2:
                return min(most, fitting)
        self._pictures = 0
        words = [data_text(c.words, max_words=MAX_OPTION_WORDS) for c in self._candidates]
        longest = max(words, key=len, default="")
        return max(2, min(most, self._fitting(self._costs.words([CandidateView(longest)]))))

    def _fitting(self, cost: int) -> int:
        """How many options of a length fit beside the query."""
        if self._context is None:
            return len(OPTION_LETTERS)
        taken = _AROUND + self._costs.words([CandidateView(self._query.text or "a")])
        if self._query.image is not None:
            taken += self._costs.picture(CandidateView("", self._query.image))
        return (self._context - taken) // max(1, cost)

    def option(self, place: int) -> ImagePart | str:
        """A candidate as it is shown."""
        candidate = self._candidates[place]
        if candidate.image is None or self._pictures < 1:
            return candidate.words
        return self._picture(place)

    def _picture(self, place: int) -> ImagePart:
        if place not in self._opened:
            picture = self._candidates[place].picture()
            assert picture is not None
            self._opened[place] = picture
        return self._opened[place]


def _pictures_per_prompt(model: Any) -> int:
    # The builtin model, asked about a picture, answers worse than about its caption.
    if style_of(model) == "builtin" or not getattr(model, "supports_images", True):
        return 0
    most = getattr(model, "pictures_per_prompt", None)
    return len(OPTION_LETTERS) + 1 if most is None else int(most)
