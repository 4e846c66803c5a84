"""A tiny language model with random weights behind the MLLM protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from genmm_retriever.models.base import DecodingState, Prompt, TextPart

VOCAB = 24
EOS = 2


class TinyMLLM:
    """Prompts are token ids in words ("5 9 3"); every call runs whole sequences, uncached.

    Attributes:
        model: The causal language model.
        passes: Forward passes so far.
        tokens: Tokens that the passes fed.
    """

    name = "tiny"
    fingerprint = "tiny"
    vocab_size = VOCAB
    eos_token_id = EOS
    supports_images = False

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=VOCAB,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            initializer_range=0.6,
            bos_token_id=1,
            eos_token_id=EOS,
            pad_token_id=0,
        )
        self.model = LlamaForCausalLM(config).eval()
        self.passes = 0
        self.tokens = 0

    def encode(self, text: str) -> list[int]:
        return [int(word) for word in text.split()]

    def decode(self, tokens: Sequence[int]) -> str:
        return " ".join(str(token) for token in tokens)

    def encode_images(self, images: Sequence[Image.Image]) -> Tensor | None:
        return None

    def generate(
        self,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int = 64,
        num_return_sequences: int = 1,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[list[str]]:
        answers = []
        for prompt in prompts:
            ids = torch.tensor([self._prompt(prompt)])
            out = self.model.generate(ids, max_new_tokens=max_new_tokens, do_sample=False)
            answers.append([self.decode(out[0, ids.shape[1] :].tolist())])
        return answers

    def _prompt(self, prompt: Prompt) -> list[int]:
        return [t for part in prompt.parts if isinstance(part, TextPart) for t in self.encode(part.text)]

    def _logits(self, rows: list[list[int]]) -> Tensor:
        """[n, longest, V]; padding on the right is never attended by what stands before it."""
        longest = max(map(len, rows))
        padded = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        self.passes += 1
        self.tokens += sum(map(len, rows))
        with torch.no_grad():
            return self.model(padded).logits.float()

    def _state(self, rows: list[list[int]], query: Tensor) -> DecodingState:
        last = torch.tensor([len(row) - 1 for row in rows])
        logits = self._logits(rows)[torch.arange(len(rows)), last]
        return DecodingState(logits=logits, query=query, cache=rows)

    def prefill(self, prompts: Sequence[Prompt]) -> DecodingState:
        return self._state([self._prompt(p) for p in prompts], torch.arange(len(prompts)))

    def step(self, state: DecodingState, parents: Tensor, tokens: Tensor) -> DecodingState:
        rows = state.cache
        assert isinstance(rows, list)
        new = [rows[p] + [t] for p, t in zip(parents.tolist(), tokens.tolist(), strict=True)]
        # A state is used up by the step, so that a search that looks back fails.
        state.cache, state.logits = None, torch.empty(0)
        return self._state(new, state.query[parents])

    def score_from(
        self, state: DecodingState, parents: Tensor, tails: Sequence[Sequence[int]]
    ) -> list[Tensor]:
        rows = state.cache
        assert isinstance(rows, list)
        return self._score([rows[p] for p in parents.tolist()], tails)

    def score(
        self, prompts: Sequence[Prompt], continuations: Sequence[Sequence[int]]
    ) -> list[Tensor]:
        return self._score([self._prompt(p) for p in prompts], continuations)

    def _score(self, before: list[list[int]], tails: Sequence[Sequence[int]]) -> list[Tensor]:
        rows = [a + list(b) for a, b in zip(before, tails, strict=True)]
        logprobs = self._logits(rows).log_softmax(-1)
        scores = []
        for i, (prefix, tail) in enumerate(zip(before, tails, strict=True)):
            places = torch.arange(len(prefix) - 1, len(prefix) + len(tail) - 1)
            scores.append(logprobs[i, places, torch.tensor(list(tail))])
        return scores


@pytest.fixture(scope="session")
def tiny() -> TinyMLLM:
    return TinyMLLM(seed=0)


@pytest.fixture
def counted(tiny: TinyMLLM) -> TinyMLLM:
    """The same model with its counters at zero."""
    tiny.passes = tiny.tokens = 0
    return tiny


@pytest.fixture(scope="session")
def prompts() -> list[Prompt]:
    texts = ["5 9 3", "7", "11 4 4 8 6", "1 23"]
    return [replace(Prompt(()), parts=(TextPart(text),)) for text in texts]
