"""How likely a model finds whole phrases, many in one pass."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Sequence

import torch

from genmm_retriever.decoding.own_phrases import Phrase, longest_only
from genmm_retriever.models.base import MLLM, DecodingState, Prompt

_AT_ONCE = 512
"""Phrases that are scored in one pass."""
_KEPT = 200_000


def phrase_scores(
    model: MLLM, state: DecodingState, phrases: Sequence[tuple[int, Phrase]]
) -> dict[tuple[int, Phrase], float]:
    """Log-probabilities of phrases behind rows of a state, and of all that they begin with.

    Args:
        model: Whose state it is.
        state: Left as it was.
        phrases: Rows and phrases, none empty.
    """
    by_row: dict[int, list[Phrase]] = {}
    for row, phrase in phrases:
        by_row.setdefault(row, []).append(phrase)
    tails = [(row, tail) for row, some in by_row.items() for tail in longest_only(some)]
    found: dict[tuple[int, Phrase], float] = {}
    for start in range(0, len(tails), _AT_ONCE):
        some = tails[start : start + _AT_ONCE]
        rows = torch.tensor([row for row, _ in some])
        with torch.no_grad():
            scored = model.score_from(state, rows, [tail for _, tail in some])
        for (row, tail), logprobs in zip(some, scored, strict=True):
            totals = logprobs.double().cpu().numpy().cumsum().tolist()
            found |= {(row, tail[: n + 1]): total for n, total in enumerate(totals)}
    return found


class Unasked:
    """What a model says whatever is asked: log-probabilities behind the prompt of no query.

    They do not depend on the query, and queries have many phrases in common: those met are
    kept. Shared by threads.

    Args:
        model: The language model.
        prompt: That asks for nothing.
    """

    def __init__(self, model: MLLM, prompt: Prompt) -> None:
        self._model = model
        self._prompt = prompt
        self._state: DecodingState | None = None
        self._known: dict[Phrase, float] = {}
        self._lock = threading.Lock()

    def scores(self, phrases: Iterable[Phrase]) -> dict[Phrase, float]:
        """Log-probability of each phrase, nats; none may be empty."""
        wanted: Collection[Phrase] = set(phrases)
        with self._lock:
            if self._state is None:
                with torch.no_grad():
                    self._state = self._model.prefill([self._prompt])
            if len(self._known) > _KEPT:
                self._known.clear()
            new = [(0, phrase) for phrase in wanted if phrase not in self._known]
            scored = phrase_scores(self._model, self._state, new)
            self._known |= {phrase: value for (_, phrase), value in scored.items()}
            return {phrase: self._known[phrase] for phrase in wanted}
