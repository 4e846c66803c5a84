"""What it costs to look at a candidate, in tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from genmm_retriever.describing.prompts import data_text, query_given_item_prompt
from genmm_retriever.models.base import MLLM, Prompt
from genmm_retriever.verification.features import CandidateView

_UNCOUNTED_PIXELS = 256
"""Tokens of a picture if the model cannot say; most models take between 64 and 1,500."""


class TokenCosts:
    """Lengths of prompts; those that are alike for all candidates are measured once.

    Args:
        model: If it has `encode_prompt` (`models.transformers_mllm`), prompts are counted.
    """

    def __init__(self, model: MLLM) -> None:
        self.model = model
        self._around: int | None = None
        self._picture: int | None = None

    def words(self, candidates: Sequence[CandidateView]) -> int:
        """Tokens of the prompts that show the candidates' words."""
        if self._around is None:
            counted = self._count(query_given_item_prompt(self.model, text="a"))
            self._around = 0 if counted is None else counted - len(self.model.encode("a"))
        lengths = [len(self.model.encode(data_text(c.words))) for c in candidates]
        return sum(lengths) + self._around * len(lengths)

    def picture(self, candidate: CandidateView) -> int:
        """Tokens of the prompt that shows a candidate's picture, from the first one asked for."""
        if self._picture is None:
            shown = candidate.picture()
            assert shown is not None
            counted = self._count(query_given_item_prompt(self.model, image=shown))
            if counted is None:
                # Features are kept only if they are small; the pass over them is too.
                counted = _UNCOUNTED_PIXELS if shown.features is None else 0
            self._picture = counted
        return self._picture

    def _count(self, prompt: Prompt) -> int | None:
        encode: Any = getattr(self.model, "encode_prompt", None)
        return None if encode is None else int(encode(prompt)["input_ids"].shape[1])
