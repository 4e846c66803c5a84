"""A tiny language model with random weights, whose tokens are numbers in words."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from genmm_retriever.models.base import Prompt, TextPart
from genmm_retriever.models.transformers_mllm import TransformersMLLM

VOCAB = 24
EOS = 2


class TinyMLLM(TransformersMLLM):
    """Prompts are token ids in words ("5 9 3"), without a chat template.

    Attributes:
        passes: Forward passes so far.
        fed: Tokens that the passes fed, padding included.
    """

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
        backend = Tokenizer(models.WordLevel({str(i): i for i in range(VOCAB)}, unk_token="0"))
        backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=backend, eos_token=str(EOS), pad_token="0"
        )
        super().__init__(LlamaForCausalLM(config), tokenizer, name="tiny")
        self.passes = self.fed = 0
        self.model.base_model.register_forward_hook(self._count, with_kwargs=True)

    def _count(self, module: object, args: object, kwargs: dict, output: object) -> None:
        self.passes += 1
        self.fed += kwargs["input_ids"].numel()

    def encode_prompt(self, prompt: Prompt) -> dict[str, Tensor]:
        ids = torch.tensor([self.ids(prompt)])
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def ids(self, prompt: Prompt) -> list[int]:
        return [
            int(t) for part in prompt.parts if isinstance(part, TextPart) for t in part.text.split()
        ]

    def plain_logprob(self, prompt: Prompt, sequence: tuple[int, ...]) -> float:
        """log p(sequence | prompt) by one bare forward of the model, for comparison."""
        ids = [*self.ids(prompt), *sequence]
        with torch.no_grad():
            logprobs = self.model(torch.tensor([ids])).logits[0].log_softmax(-1)
        places = torch.arange(len(ids) - len(sequence), len(ids))
        return float(logprobs[places - 1, torch.tensor(ids)[places]].sum())


@pytest.fixture(scope="session")
def make_tiny() -> Callable[[int], TinyMLLM]:
    return TinyMLLM


@pytest.fixture(scope="session")
def tiny() -> TinyMLLM:
    return TinyMLLM(seed=0)


@pytest.fixture
def counted(tiny: TinyMLLM) -> TinyMLLM:
    """The same model, past its first probing pass, with its counters at zero."""
    assert tiny.can_gather
    tiny.passes = tiny.fed = 0
    return tiny


@pytest.fixture(scope="session")
def prompts() -> list[Prompt]:
    return [Prompt((TextPart(text),)) for text in ("5 9 3", "7", "11 4 4 8 6", "1 23")]
