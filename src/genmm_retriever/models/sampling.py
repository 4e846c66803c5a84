"""Free answers: greedy and sampled over shared prompts, and transformers' beam search."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from genmm_retriever.models.base import Prompt
from genmm_retriever.models.rendering import pack

if TYPE_CHECKING:
    from genmm_retriever.models.transformers_mllm import TransformersMLLM

_TOP_K = 50


class TokenChooser:
    """Chooses the next token of each row: the best one, or a sample by Gumbel noise.

    The largest of logits / temperature + Gumbel noise is a sample of the softmax. Each row has
    its own random stream, so its sample does not depend on the rows beside it.

    Args:
        temperature: 0 takes the best token.
        seeds: One a row.
    """

    def __init__(self, temperature: float, seeds: Sequence[int]) -> None:
        self.temperature = temperature
        self.streams = [torch.Generator().manual_seed(seed) for seed in seeds]

    def choose(self, logits: Tensor, rows: Sequence[int]) -> Tensor:
        """Next tokens [n], int64, of the given rows' logits [n, V]."""
        if self.temperature == 0:
            return logits.argmax(-1)
        values, tokens = logits.float().topk(min(_TOP_K, logits.shape[-1]), dim=-1)
        noise = torch.stack(
            [torch.rand(values.shape[1], generator=self.streams[row]) for row in rows]
        )
        gumbel = -torch.log(-torch.log(noise.clamp(1e-9, 1 - 1e-7)))
        best = (values / self.temperature + gumbel.to(values.device)).argmax(-1)
        return tokens.gather(1, best[:, None])[:, 0]


class _ChosenOnly(LogitsProcessor):
    """Leaves transformers' greedy search no choice but the chooser's."""

    def __init__(self, chooser: TokenChooser) -> None:
        self.chooser = chooser

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        chosen = self.chooser.choose(scores, range(len(scores)))
        only = torch.full_like(scores, float("-inf"))
        return only.scatter(1, chosen[:, None], 0.0)  # type: ignore[return-value]


@torch.no_grad()
def generate_texts(
    model: TransformersMLLM,
    prompts: Sequence[Prompt],
    max_new_tokens: int,
    number: int,
    temperature: float,
    seed: int,
) -> list[list[str]]:
    """Answers of one batch; see `TransformersMLLM.generate`."""
    encoded = [model.encode_prompt(prompt) for prompt in prompts]
    if temperature == 0 and number > 1:
        answers = [_beams(model, one, max_new_tokens, number) for one in _batches(model, encoded)]
        tokens = [row for answer in answers for row in answer]
    else:
        seeds = [_seed(one, seed, i) for one in encoded for i in range(number)]
        chooser = TokenChooser(temperature, seeds)
        if model.can_gather:
            tokens = _loop(model, encoded, number, max_new_tokens, chooser)
        else:
            tokens = []
            for row, one in enumerate(encoded):
                part = TokenChooser(temperature, seeds[row * number : (row + 1) * number])
                tokens += _search(model, [one] * number, max_new_tokens, part)
    texts = [model.decode(row).strip() for row in tokens]
    return [texts[i : i + number] for i in range(0, len(texts), number)]


def _loop(
    model: TransformersMLLM,
    encoded: list[dict[str, Tensor]],
    number: int,
    limit: int,
    chooser: TokenChooser,
) -> list[list[int]]:
    """Prompts run once each; rows leave the batch when they end."""
    answers: list[list[int]] = [[] for _ in range(len(encoded) * number)]
    state = model.engine.prefill(encoded)
    live = list(range(len(answers)))
    parents = [row // number for row in live]
    for place in range(limit):
        logits = state.logits[torch.tensor(parents, device=state.logits.device)]
        chosen = chooser.choose(logits, live).tolist()
        going = [i for i, token in enumerate(chosen) if token not in model.stop_tokens]
        for i in going:
            answers[live[i]].append(chosen[i])
        if not going or place == limit - 1:
            break
        rows = torch.tensor([parents[i] for i in going])
        state = model.step(state, rows, torch.tensor([chosen[i] for i in going]))
        live = [live[i] for i in going]
        parents = list(range(len(live)))
    return answers


def _batches(
    model: TransformersMLLM, encoded: list[dict[str, Tensor]]
) -> list[list[dict[str, Tensor]]]:
    """All together, or one by one where a model's states would see the padding."""
    return [encoded] if model.can_gather else [[one] for one in encoded]


def _beams(
    model: TransformersMLLM, encoded: list[dict[str, Tensor]], limit: int, number: int
) -> list[list[int]]:
    options = {"num_beams": number, "num_return_sequences": number}
    return _generate(model, encoded, limit, options, LogitsProcessorList())


def _search(
    model: TransformersMLLM, encoded: list[dict[str, Tensor]], limit: int, chooser: TokenChooser
) -> list[list[int]]:
    return _generate(model, encoded, limit, {}, LogitsProcessorList([_ChosenOnly(chooser)]))


def _generate(
    model: TransformersMLLM,
    encoded: list[dict[str, Tensor]],
    limit: int,
    options: dict[str, int],
    processors: LogitsProcessorList,
) -> list[list[int]]:
    make_config: Any = GenerationConfig
    config = make_config(
        max_new_tokens=limit,
        do_sample=False,
        eos_token_id=list(model.stop_tokens),
        pad_token_id=model.pad_token_id,
        **options,
    )
    inputs = pack(encoded, [[]] * len(encoded), pad_token_id=model.pad_token_id)
    inputs = model.accepted(inputs)
    found = model.model.generate(**inputs, generation_config=config, logits_processor=processors)
    answers = []
    for row in found[:, inputs["input_ids"].shape[1] :].tolist():
        end = next((i for i, token in enumerate(row) if token in model.stop_tokens), len(row))
        answers.append(row[:end])
    return answers


def _seed(encoded: dict[str, Tensor], seed: int, number: int) -> int:
    """A seed from what the prompt says and shows, the caller's seed and the sample's number."""
    digest = hashlib.blake2b(f"{seed}/{number}".encode(), digest_size=7)
    for key in sorted(encoded):
        flat = encoded[key].detach().reshape(-1)
        sample = flat[:: max(1, flat.numel() // 4096)].double().cpu()
        digest.update(sample.numpy().tobytes())
    return int.from_bytes(digest.digest(), "little")
