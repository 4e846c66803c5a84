"""Rows that have keys and values of their own, gathered by row when beams change places.

For models whose attention cannot be told by a mask who sees whom (sliding windows, say).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from genmm_retriever.models.base import DecodingState
from genmm_retriever.models.caches import append_rows, gather, is_plain
from genmm_retriever.models.scoring import score_pairs

if TYPE_CHECKING:
    from genmm_retriever.models.engine import RowEngine


@dataclass
class RowCache:
    """Rows with keys and values: mask [n, L] of the cache, next position [n] of each row."""

    past: Any
    mask: Tensor
    following: Tensor


class CachedRows:
    """Extends rows that have a cache each.

    Args:
        engine: Gives the forward pass and cuts rows into passes.
    """

    def __init__(self, engine: RowEngine) -> None:
        self.engine = engine

    def start(self, past: Any, mask: Tensor, following: Tensor, logits: Tensor) -> DecodingState:
        """One row a prompt that has been run; see `TreeRows.start`."""
        query = torch.arange(len(logits), device=logits.device)
        return DecodingState(logits, query, RowCache(past, mask, following))

    def extend(
        self,
        state: DecodingState,
        parents: Sequence[int],
        tails: Sequence[Sequence[int]],
        ends: Sequence[bool],
    ) -> tuple[DecodingState, list[Tensor]]:
        """Extend rows; see `MLLM.extend`."""
        scores = state.first_logprobs(parents, tails)
        going = [i for i, end in enumerate(ends) if not end]
        ending = [i for i, end in enumerate(ends) if end and len(tails[i]) > 1]
        width = state.cache_as(RowCache).mask.shape[1]
        chunks = self.engine.passes([len(tails[i]) - 1 for i in ending], width + 1)
        after = state.none()
        if going:
            equal = len({len(tails[i]) for i in going}) == 1
            # Gaps between tokens would count as tokens of a sliding window.
            run = (
                self._run
                if equal or is_plain(state.cache_as(RowCache).past)
                else self._step_by_step
            )
            after, rest = run(state, parents, tails, going)
            for i, score in zip(going, rest, strict=True):
                scores[i] = torch.cat([scores[i], score])
        for chunk in chunks:
            chosen = [ending[i] for i in chunk]
            _, rest = self._run(state, parents, tails, chosen, keep=False)
            for i, score in zip(chosen, rest, strict=True):
                scores[i] = torch.cat([scores[i], score])
        return after, scores

    def _run(
        self,
        state: DecodingState,
        parents: Sequence[int],
        tails: Sequence[Sequence[int]],
        chosen: Sequence[int],
        *,
        keep: bool = True,
    ) -> tuple[DecodingState, list[Tensor]]:
        """One pass over chosen tails; scores of all their tokens but the first."""
        forward, device = self.engine.forward, state.logits.device
        rows = torch.tensor([parents[i] for i in chosen], device=device)
        cache = self._rows(state, rows)
        # The last token of a tail that ends is asked for, never fed.
        fed = [torch.tensor(tails[i] if keep else tails[i][:-1]) for i in chosen]
        lengths = torch.tensor([len(one) for one in fed], device=device)
        tokens = pad_sequence(fed, True, self.engine.pad_token_id).to(device)
        steps = torch.arange(tokens.shape[1], device=device)
        real = steps[None] < lengths[:, None]
        mask = torch.cat([cache.mask, real.to(cache.mask.dtype)], dim=1)
        states, past = forward.run(
            forward.accepted({"input_ids": tokens, "attention_mask": mask}),
            forward.text_positions(cache.following[:, None] + steps[None]),
            keep=tokens.shape[1],
            cache=cache.past,
            use_cache=True,
        )
        asked = [torch.tensor(tails[i][1:], dtype=torch.int64) for i in chosen]
        counts = torch.tensor([len(one) for one in asked], device=device)
        first = lengths.cumsum(0) - lengths
        pairs = torch.nonzero(steps[None] < counts[:, None])
        found, logits, normaliser = score_pairs(
            forward.vocabulary(self.engine.vocab_size),
            states[real],
            first[pairs[:, 0]] + pairs[:, 1],
            torch.cat(asked).to(device),
            first + lengths - 1 if keep else first[:0],
        )
        scores = list(torch.split(found, counts.tolist()))
        if not keep:
            return state.none(), scores
        after = RowCache(past, mask, cache.following + lengths)
        return DecodingState(logits, state.query[rows], after, normaliser), scores

    def _step_by_step(
        self,
        state: DecodingState,
        parents: Sequence[int],
        tails: Sequence[Sequence[int]],
        chosen: Sequence[int],
    ) -> tuple[DecodingState, list[Tensor]]:
        """A token a pass; long tails begin earlier, so that all end together."""
        order = sorted(chosen, key=lambda i: -len(tails[i]))
        scores: dict[int, list[Tensor]] = {i: [] for i in order}
        at, waiting = state.none(), order
        running: list[int] = []
        for left in range(len(tails[order[0]]), 0, -1):
            joining = [i for i in waiting if len(tails[i]) == left]
            waiting = waiting[len(joining) :]
            at = self._joined(at, state, [parents[i] for i in joining]) if joining else at
            running += joining
            step = [[tails[i][-left]] for i in running]
            at, _ = self._run(at, range(len(running)), step, range(len(running)))
            if left > 1:
                following = torch.tensor([tails[i][1 - left] for i in running])
                rows = torch.arange(len(running))
                found = at.logprobs(rows.to(at.logits.device), following.to(at.logits.device))
                for i, score in zip(running, found, strict=True):
                    scores[i].append(score)
        place = {i: row for row, i in enumerate(running)}
        back = torch.tensor([place[i] for i in chosen], device=at.logits.device)
        after = DecodingState(
            at.logits[back], at.query[back], self._rows(at, back), at.normaliser[back]
        )
        none = state.logits.new_zeros(0)
        return after, [torch.stack(scores[i]) if scores[i] else none for i in chosen]

    def _joined(
        self, at: DecodingState, state: DecodingState, parents: Sequence[int]
    ) -> DecodingState:
        """Rows that have been run on, and others that begin only now."""
        rows = torch.tensor(parents, device=state.logits.device)
        new = self._rows(state, rows)
        cache = new
        if len(at.logits):
            old = at.cache_as(RowCache)
            missing = old.mask.shape[1] - new.mask.shape[1]
            cache = RowCache(
                append_rows(old.past, new.past),
                torch.cat([old.mask, pad(new.mask, (missing, 0))]),
                torch.cat([old.following, new.following]),
            )
        return DecodingState(
            torch.cat([at.logits, state.logits[rows]]),
            torch.cat([at.query, state.query[rows]]),
            cache,
            torch.cat([at.normaliser, state.normaliser[rows]]),
        )

    def _rows(self, state: DecodingState, parents: Tensor) -> RowCache:
        cache = state.cache_as(RowCache)
        return replace(
            cache,
            past=gather(cache.past, parents),
            mask=cache.mask[parents],
            following=cache.following[parents],
        )
