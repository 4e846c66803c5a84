"""What a model would answer, read from the log-probabilities of a few short words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from genmm_retriever.errors import ModelError
from genmm_retriever.models.base import MLLM, ImagePart, Prompt

CONTENT_FREE = "something"
"""A query that asks for nothing: what is answered to it is answered whatever is asked."""
_BEFORE = ("", " ", "\n", "(")
_AT_ONCE = 16
"""Pictures, or prompts without any, in one pass."""


class Answers:
    """Log-probabilities of a few answers, each over all tokens that spell it.

    Where every answer is one token for this tokenizer, with or without a blank before it, one
    pass over the prompt tells them all; else whole spellings are scored.

    Args:
        model: The language model.
        answers: For each answer its spellings, such as ("Yes", "yes").

    Raises:
        ModelError: If the tokenizer gives two answers the same tokens.
    """

    def __init__(self, model: MLLM, answers: Sequence[Sequence[str]]) -> None:
        self.model = model
        tokens = [_single_tokens(model, spellings) for spellings in answers]
        self.is_one_pass = all(tokens)
        self.tails: list[list[list[int]]] = (
            [[[token] for token in some] for some in tokens]
            if self.is_one_pass
            else [_whole(model, spellings) for spellings in answers]
        )
        spelled = [tuple(tail) for some in self.tails for tail in some]
        if len(set(spelled)) < len(spelled) or not all(map(len, spelled)):
            raise ModelError(
                f"the tokenizer of {getattr(model, 'name', 'the model')} spells two of the answers "
                f"{[some[0] for some in answers]} alike",
                "verify by likelihood",
            )

    def logprobs(self, prompts: Sequence[Prompt]) -> np.ndarray:
        """Log-probability (natural log) of each answer after each prompt, [prompts, answers]."""
        flat = [tail for some in self.tails for tail in some]
        if not prompts:
            return np.zeros((0, len(self.tails)))
        if self.is_one_pass:
            parts = [self._at_once(chunk, [tail[0] for tail in flat]) for chunk in _chunks(prompts)]
            found = torch.cat(parts)
        else:
            asked = [prompt for prompt in prompts for _ in flat]
            scored = self.model.score(asked, flat * len(prompts))
            found = torch.stack([one.sum() for one in scored]).view(len(prompts), -1)
        by_answer = torch.split(found.double().cpu(), [len(some) for some in self.tails], dim=1)
        return np.stack([one.logsumexp(1).numpy() for one in by_answer], axis=1)

    def _at_once(self, prompts: Sequence[Prompt], tokens: Sequence[int]) -> torch.Tensor:
        """Log-probabilities [prompts, tokens] of the tokens that could come first."""
        state = self.model.prefill(prompts)
        device = state.logits.device
        rows = torch.arange(len(prompts), device=device).repeat_interleave(len(tokens))
        asked = torch.tensor(tokens, device=device).repeat(len(prompts))
        return state.logprobs(rows, asked).view(len(prompts), len(tokens))


def _single_tokens(model: MLLM, spellings: Sequence[str]) -> list[int]:
    """Tokens that spell one of the words by themselves, whatever blanks they bring along."""
    found: dict[int, None] = {}
    for word in spellings:
        for before in _BEFORE:
            # What stands before a word decides which of its tokens the tokenizer takes.
            token = _encode(model, before + word)[-1]
            if model.decode([token]).strip() == word:
                found[token] = None
    return list(found)


def _whole(model: MLLM, spellings: Sequence[str]) -> list[list[int]]:
    return [list(tail) for tail in dict.fromkeys(tuple(_encode(model, s)) for s in spellings)]


def _encode(model: MLLM, text: str) -> list[int]:
    """Token ids as spelled, case and blanks included, which a model's `encode` may change."""
    renderer: Any = getattr(model, "renderer", None)
    return list(model.encode(text) if renderer is None else renderer.tokens(text))


def _chunks(prompts: Sequence[Prompt]) -> Iterator[Sequence[Prompt]]:
    """Prompts that are run together: as many as bring few pictures."""
    start = held = 0
    for end, prompt in enumerate(prompts):
        size = max(1, sum(isinstance(part, ImagePart) for part in prompt.parts))
        if end > start and held + size > _AT_ONCE:
            yield prompts[start:end]
            start, held = end, 0
        held += size
    yield prompts[start:]
