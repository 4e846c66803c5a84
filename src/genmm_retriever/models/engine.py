"""Rows of hypotheses: prefilled, extended and scored, by cache or by recomputing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from genmm_retriever.errors import InputError
from genmm_retriever.models.base import DecodingState, log_normaliser, log_softmax_at
from genmm_retriever.models.caches import gather, is_gatherable
from genmm_retriever.models.forwarding import ForwardPass
from genmm_retriever.models.passes import pass_cost, passes
from genmm_retriever.models.rendering import pack

_LOGITS_AT_ONCE = {"cpu": 2**22, "cuda": 2**26}
"""Entries of a float32 logits block; scoring never holds more.

On a CPU 16 MiB: the allocator then reuses the block instead of mapping fresh pages.
"""


@dataclass
class _Cached:
    """Rows with keys and values: mask [n, L] of the cache, next position [n] of each row."""

    past: Any
    mask: Tensor
    following: Tensor


@dataclass
class _Sequences:
    """Rows of a model whose cache cannot be gathered: whole sequences, run anew each time."""

    prompts: list[dict[str, Tensor]]
    tails: list[list[int]]


class RowEngine:
    """Runs prompts and their continuations through one model.

    Args:
        forward: The model's forward pass.
        vocab_size: V.
        pad_token_id: Fills gaps in batches; always masked out.

    Attributes:
        tokens_per_pass: Scoring is cut into passes of at most so many padded tokens.
    """

    def __init__(self, forward: ForwardPass, vocab_size: int, pad_token_id: int) -> None:
        self.forward = forward
        self.vocab_size = vocab_size
        self.pad_token_id = pad_token_id
        self.tokens_per_pass = 16384

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return torch.device(self.forward.model.device)

    @property
    def can_gather(self) -> bool:
        """Whether rows share a cache of keys and values; else they are recomputed."""
        return self.forward.probe().gatherable

    def prefill(self, encoded: list[dict[str, Tensor]]) -> DecodingState:
        """One row a prompt, from what `PromptRenderer.encode` gave."""
        query = torch.arange(len(encoded), device=self.device)
        if self.can_gather:
            inputs, positions = self._inputs(encoded, [[] for _ in encoded])
            states, past = self.forward.run(inputs, positions, keep=1, use_cache=True)
            if is_gatherable(past, inputs["input_ids"].shape[1]):
                following = positions.amax(dim=-1) + 1
                following = following if following.dim() == 1 else following.amax(dim=0)
                cache = _Cached(past, inputs["attention_mask"], following)
                return DecodingState(self.forward.logits(states[:, -1]), query, cache)
        return self._recompute(_Sequences(encoded, [[] for _ in encoded]), query)

    def _inputs(
        self,
        encoded: Sequence[dict[str, Tensor]],
        tails: Sequence[Sequence[int]],
        *,
        left: bool = True,
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Packed inputs on the device, and the positions of their tokens."""
        packed = pack(encoded, tails, pad_token_id=self.pad_token_id, pad_left=left)
        positions = self.forward.positions(packed).to(self.device)
        return self.forward.accepted(packed), positions

    def _recompute(self, rows: _Sequences, query: Tensor) -> DecodingState:
        """Next-token logits of whole sequences; padded on the right, which no row can see."""
        lengths = [_length(p, t) for p, t in zip(rows.prompts, rows.tails, strict=True)]
        logits = torch.empty(len(lengths), self.vocab_size, device=self.device)
        for chunk in self._passes(lengths):
            prompts, tails = [rows.prompts[i] for i in chunk], [rows.tails[i] for i in chunk]
            inputs, positions = self._inputs(prompts, tails, left=False)
            width = inputs["input_ids"].shape[1]
            states, _ = self.forward.run(inputs, positions, keep=width)
            last = torch.tensor([lengths[i] - 1 for i in chunk])
            logits[chunk] = self.forward.logits(states[torch.arange(len(chunk)), last])
        return DecodingState(logits, query, rows)

    def step(self, state: DecodingState, parents: Tensor, tokens: Tensor) -> DecodingState:
        """Extend rows by one token each; see `MLLM.step`."""
        parents, tokens = parents.to(self.device), tokens.to(self.device)
        query = state.query[parents]
        if isinstance(state.cache, _Sequences):
            old = state.cache
            rows = parents.tolist()
            tails = [[*old.tails[r], t] for r, t in zip(rows, tokens.tolist(), strict=True)]
            return self._recompute(_Sequences([old.prompts[r] for r in rows], tails), query)
        cache = self._rows(state, parents)
        mask = torch.cat([cache.mask, cache.mask.new_ones(len(parents), 1)], dim=1)
        states, past = self.forward.run(
            self.forward.accepted({"input_ids": tokens[:, None], "attention_mask": mask}),
            self.forward.text_positions(cache.following[:, None]),
            keep=1,
            cache=cache.past,
            use_cache=True,
        )
        advanced = _Cached(past, mask, cache.following + 1)
        return DecodingState(self.forward.logits(states[:, -1]), query, advanced)

    def _rows(self, state: DecodingState, parents: Tensor) -> _Cached:
        cache = state.cache
        if not isinstance(cache, _Cached):
            raise InputError("this decoding state was made by another model")
        return replace(
            cache,
            past=gather(cache.past, parents),
            mask=cache.mask[parents],
            following=cache.following[parents],
        )

    def score_from(
        self, state: DecodingState, parents: Tensor, tails: Sequence[Sequence[int]]
    ) -> list[Tensor]:
        """Log-probabilities of whole tails that continue rows of `state`; see `MLLM`."""
        check_tails(tails, len(parents))
        parents = parents.to(self.device)
        if isinstance(state.cache, _Sequences):
            rows = parents.tolist()
            prompts = [state.cache.prompts[r] for r in rows]
            starts = [state.cache.tails[r] for r in rows]
            whole = [[*start, *tail] for start, tail in zip(starts, tails, strict=True)]
            scores = self.score_packed(prompts, whole)
            return [s[len(start) :] for s, start in zip(scores, starts, strict=True)]
        heads = torch.tensor([tail[0] for tail in tails], device=self.device)
        first = log_softmax_at(state.logits, parents, heads)
        scores = [first[i : i + 1] for i in range(len(tails))]
        # Tails of one token are known already; the others are run without their last token.
        longer = [i for i, tail in enumerate(tails) if len(tail) > 1]
        width = state.cache.mask.shape[1] if isinstance(state.cache, _Cached) else 0
        fed = [len(tails[i]) - 1 for i in longer]
        for chunk in self._passes(fed, [width + 1] * len(longer)):
            chosen = [longer[i] for i in chunk]
            rest = self._continue(state, parents[chosen], [tails[i] for i in chosen])
            for i, score in zip(chosen, rest, strict=True):
                scores[i] = torch.cat([scores[i], score])
        return scores

    def _continue(
        self, state: DecodingState, parents: Tensor, tails: Sequence[Sequence[int]]
    ) -> list[Tensor]:
        """Scores of all tokens of the tails but their first."""
        cache = self._rows(state, parents)
        fed = pad_sequence([torch.tensor(tail[:-1]) for tail in tails], True, self.pad_token_id).to(
            self.device
        )
        lengths = torch.tensor([len(tail) - 1 for tail in tails], device=self.device)
        steps = torch.arange(fed.shape[1], device=self.device)
        real = steps[None] < lengths[:, None]
        mask = torch.cat([cache.mask, real.to(cache.mask.dtype)], dim=1)
        states, _ = self.forward.run(
            self.forward.accepted({"input_ids": fed, "attention_mask": mask}),
            self.forward.text_positions(cache.following[:, None] + steps[None]),
            keep=fed.shape[1],
            cache=cache.past,
            use_cache=True,
        )
        return self._scores_at(states[real], [list(tail[1:]) for tail in tails])

    def score_packed(
        self, encoded: Sequence[dict[str, Tensor]], tails: Sequence[Sequence[int]]
    ) -> list[Tensor]:
        """Log-probabilities of one tail a prompt, in one pass as far as the budget goes."""
        scores: list[Tensor] = [torch.empty(0)] * len(tails)
        lengths = [_length(p, t) for p, t in zip(encoded, tails, strict=True)]
        left = self.can_gather
        for chunk in self._passes(lengths):
            chosen = [tails[i] for i in chunk]
            prompts = [encoded[i] for i in chunk]
            # The last token of a tail is asked for, never fed.
            fed = [list(tail[:-1]) for tail in chosen]
            inputs, positions = self._inputs(prompts, fed, left=left)
            total = inputs["input_ids"].shape[1]
            prompt_lengths = torch.tensor([p["input_ids"].shape[1] for p in prompts])
            starts = torch.full_like(prompt_lengths, int(prompt_lengths.max()))
            starts = (starts if left else prompt_lengths) - 1
            keep = total - int(starts.min())
            states, _ = self.forward.run(inputs, positions, keep=keep)
            counts = torch.tensor([len(tail) for tail in chosen])
            steps = torch.arange(keep) + (total - keep)
            wanted = (steps >= starts[:, None]) & (steps < (starts + counts)[:, None])
            found = self._scores_at(states[wanted.to(states.device)], chosen)
            for i, score in zip(chunk, found, strict=True):
                scores[i] = score
        return scores

    def _scores_at(self, states: Tensor, tails: Sequence[Sequence[int]]) -> list[Tensor]:
        """Log-probabilities of the tails' tokens, given one state a token, row after row."""
        targets = torch.tensor([token for tail in tails for token in tail], device=states.device)
        size = max(1, _LOGITS_AT_ONCE.get(states.device.type, 2**24) // self.vocab_size)
        parts = []
        for start in range(0, len(targets), size):
            logits = self.forward.logits(states[start : start + size])
            at = logits.gather(1, targets[start : start + size, None])[:, 0]
            parts.append(at - log_normaliser(logits))
        return list(torch.split(torch.cat(parts), [len(tail) for tail in tails]))

    def _passes(self, fed: Sequence[int], before: Sequence[int] | None = None) -> list[list[int]]:
        cost = pass_cost(self.device.type)
        return passes(fed, most=self.tokens_per_pass, cost=cost, before=before)


def _length(prompt: dict[str, Tensor], tail: Sequence[int]) -> int:
    return int(prompt["input_ids"].shape[1]) + len(tail)


def check_tails(tails: Sequence[Sequence[int]], expected: int) -> None:
    """Raise `InputError` unless there are as many tails as expected, none of them empty."""
    if len(tails) != expected:
        raise InputError(f"{len(tails)} continuations were given for {expected} rows")
    if any(len(tail) == 0 for tail in tails):
        raise InputError("a continuation to be scored is empty")
