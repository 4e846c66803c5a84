"""Reverse likelihood: what a candidate adds to the log-probability of a text.

Ranking by p(query | picture) is what TIGeR (arXiv 2406.05814) found to work best without
training. Where the text scored is the candidate's own, as for a picture that looks for
captions, its unconditional likelihood is taken off, since candidates then differ in it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from genmm_retriever.describing.prompts import data_text, query_given_item_prompt
from genmm_retriever.models.base import MLLM, DecodingState, Prompt, TextPart
from genmm_retriever.verification.features import CandidateView, QueryView
from genmm_retriever.verification.steps import Steps, ToScore

MAX_TEXT_TOKENS = 64
BASELINE = Prompt((TextPart("Describe."),))
"""What a caption looks like when nothing is known of its picture."""


class ReverseLikelihood:
    """Scores the candidates of one query, as many at a time as one likes.

    What the query alone costs is paid once: its unconditional likelihood, and for a query that
    is only a picture the pass over that picture.

    Args:
        model: The language model.
        query: With text, a picture or both.
        chunked: Whether candidates come in several calls.
    """

    def __init__(self, model: MLLM, query: QueryView, *, chunked: bool = False) -> None:
        self.model = model
        self.query = query
        self._chunked = chunked
        self._alone: dict[str, float] = {}
        self._state: DecodingState | None = None

    def given_items(self, candidates: Sequence[CandidateView]) -> Steps[np.ndarray]:
        """Nats a token that each candidate adds to the likelihood of the text, [n].

        The text is the query's; for a query that is only a picture it is the candidate's
        words given the query's picture.
        """
        if self.query.text:
            return (
                yield from self._gains([self._looked_at(c) for c in candidates], self.query.text)
            )
        return self._words_given_picture(candidates)

    def given_words(self, candidates: Sequence[CandidateView]) -> Steps[np.ndarray]:
        """Nats a token that each candidate's words add to the query's likelihood, [n].

        NaN for a picture without words, and for all if the query has no text.
        """
        gains = np.full(len(candidates), np.nan)
        text = self.query.text
        if not text:
            return gains
        read = [i for i, c in enumerate(candidates) if c.image is None or data_text(c.words)]
        gains[read] = yield from self._gains([self.words_prompt(candidates[i]) for i in read], text)
        return gains

    def words_prompt(self, candidate: CandidateView) -> Prompt:
        """After which the query is scored given the candidate's words."""
        if not data_text(candidate.words):
            return BASELINE  # without visible words it adds nothing
        return query_given_item_prompt(self.model, text=candidate.words)

    def _looked_at(self, candidate: CandidateView) -> Prompt:
        picture = candidate.picture()
        if picture is None:
            return self.words_prompt(candidate)
        return query_given_item_prompt(self.model, image=picture)

    def tokens(self, text: str) -> list[int]:
        """The text as it is scored: cut, with the end token."""
        return [*self.model.encode(text)[:MAX_TEXT_TOKENS], self.model.eos_token_id]

    def _gains(self, prompts: list[Prompt], text: str) -> Steps[np.ndarray]:
        """Of one text after several prompts, in one pass with the text alone."""
        if not prompts:
            return np.zeros(0)
        tokens = self.tokens(text)
        new = [] if text in self._alone else [BASELINE]
        scored = yield ToScore([*prompts, *new], [tokens] * (len(prompts) + len(new)))
        means = np.array([float(one.mean()) for one in scored])
        if new:
            self._alone[text] = float(means[-1])
        gains: np.ndarray = means[: len(prompts)] - self._alone[text]
        return gains

    def _words_given_picture(self, candidates: Sequence[CandidateView]) -> np.ndarray:
        if not candidates:
            return np.zeros(0)
        words = [c.words for c in candidates]
        new = list(dict.fromkeys(w for w in words if w not in self._alone))
        tails = [self.tokens(w) for w in [*words, *new]]
        rows = [0] * len(words) + [1] * len(new)
        prompts = [query_given_item_prompt(self.model, image=self.query.image), BASELINE]
        if self._chunked:
            if self._state is None:
                self._state = self.model.prefill(prompts)
            scored = self.model.score_from(self._state, torch.tensor(rows), tails)
        else:
            scored = self.model.score([prompts[row] for row in rows], tails)
        means = np.array([float(one.mean()) for one in scored])
        self._alone |= dict(zip(new, means[len(words) :].tolist(), strict=True))
        gains: np.ndarray = means[: len(words)] - [self._alone[w] for w in words]
        return gains
