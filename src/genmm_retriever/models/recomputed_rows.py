"""Rows of models whose states cannot be shared: whole sequences, run anew each time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from genmm_retriever.models.base import DecodingState

if TYPE_CHECKING:
    from genmm_retriever.models.engine import RowEngine

Encoded = dict[str, Tensor]


@dataclass
class Sequences:
    """The prompt of each row and what it has written."""

    prompts: list[Encoded]
    tails: list[list[int]]


class RecomputedRows:
    """Extends rows by running them from their beginning: slower, the same results.

    Args:
        engine: Gives batches and scores of whole sequences.
    """

    def __init__(self, engine: RowEngine) -> None:
        self.engine = engine

    def start(self, encoded: Sequence[Encoded], query: Tensor) -> DecodingState:
        """One row a prompt."""
        return self._run(Sequences(list(encoded), [[] for _ in encoded]), query)

    def extend(
        self,
        state: DecodingState,
        parents: Sequence[int],
        tails: Sequence[Sequence[int]],
        ends: Sequence[bool],
    ) -> tuple[DecodingState, list[Tensor]]:
        """Extend rows; see `MLLM.extend`."""
        cache = state.cache_as(Sequences)
        device = state.logits.device
        scores = state.first_logprobs(parents, tails)
        longer = [i for i, tail in enumerate(tails) if len(tail) > 1]
        if longer:
            prompts = [cache.prompts[parents[i]] for i in longer]
            written = [cache.tails[parents[i]] for i in longer]
            whole = [[*w, *tails[i]] for w, i in zip(written, longer, strict=True)]
            found = self.engine.score_packed(prompts, whole)
            for i, score, before in zip(longer, found, written, strict=True):
                scores[i] = score[len(before) :]
        going = [i for i, end in enumerate(ends) if not end]
        if not going:
            return state.none(), scores
        rows = [parents[i] for i in going]
        after = Sequences(
            [cache.prompts[row] for row in rows],
            [[*cache.tails[row], *tails[i]] for row, i in zip(rows, going, strict=True)],
        )
        return self._run(after, state.query[torch.tensor(rows, device=device)]), scores

    def _run(self, rows: Sequences, query: Tensor) -> DecodingState:
        """Next-token logits of whole sequences; padded on the right, which no row can see."""
        engine, forward = self.engine, self.engine.forward
        lengths = [
            int(p["input_ids"].shape[1]) + len(t)
            for p, t in zip(rows.prompts, rows.tails, strict=True)
        ]
        logits = torch.empty(len(lengths), engine.vocab_size, device=engine.device)
        for chunk in engine.passes(lengths):
            prompts, tails = [rows.prompts[i] for i in chunk], [rows.tails[i] for i in chunk]
            inputs, positions = engine.inputs(prompts, tails, left=False)
            width = inputs["input_ids"].shape[1]
            states, _ = forward.run(inputs, positions, keep=width)
            last = torch.tensor([lengths[i] - 1 for i in chunk])
            logits[chunk] = forward.logits(states[torch.arange(len(chunk)), last])
        return DecodingState(logits, query, rows)
