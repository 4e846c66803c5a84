"""transformers' own beam search under `prefix_allowed_tokens_fn`, end to end."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.peers.tries import PrefixTrie
from genmm_retriever.models.base import Prompt


def constrained_generate(
    mllm: Any, prompt: Prompt, trie: PrefixTrie, *, beams: int, wanted: int, longest: int
) -> list[tuple[tuple[int, ...], float]]:
    """The best identifiers by `generate`, as the documentation of transformers shows it.

    Args:
        mllm: A `TransformersMLLM`; its model, its prompt form and its end token are used.
        prompt: The query.
        trie: Says what may come next.
        beams: `num_beams`.
        wanted: `num_return_sequences`.
        longest: Tokens of the longest identifier, end token included.

    Returns:
        Tokens (end token included) and their log-probability (nats), best first.
    """
    inputs = mllm.accepted(mllm.encode_prompt(prompt))
    length, end = inputs["input_ids"].shape[1], mllm.eos_token_id

    def allowed(_: int, tokens: Tensor) -> list[int]:
        return trie.get(tokens[length:].tolist()) or [end]

    with torch.no_grad():
        out = mllm.model.generate(
            **inputs,
            num_beams=beams,
            num_return_sequences=wanted,
            max_new_tokens=longest,
            do_sample=False,
            length_penalty=0.0,
            early_stopping=False,
            eos_token_id=end,
            pad_token_id=mllm.pad_token_id,
            prefix_allowed_tokens_fn=allowed,
            return_dict_in_generate=True,
            output_scores=True,
        )
    found = []
    rows = out.sequences[:, length:].tolist()
    for row, score in zip(rows, out.sequences_scores.tolist(), strict=True):
        # Where the trie holds fewer than `beams`, the rest are placeholders at -1e9.
        if score > -1e6 and end in row:
            found.append(((*row[: row.index(end)], end), score))
    return found
