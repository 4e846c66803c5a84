"""Rows of hypotheses: prefilled, extended and scored, in the best way that a model allows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from genmm_retriever.errors import InputError
from genmm_retriever.models.base import DecodingState
from genmm_retriever.models.cached_rows import CachedRows, RowCache
from genmm_retriever.models.caches import is_gatherable
from genmm_retriever.models.forwarding import ForwardPass
from genmm_retriever.models.kept_prompts import KeptPrompts
from genmm_retriever.models.passes import pass_cost, passes
from genmm_retriever.models.recomputed_rows import RecomputedRows, Sequences
from genmm_retriever.models.rendering import pack
from genmm_retriever.models.scoring import score_pairs
from genmm_retriever.models.tree_rows import TreeCache, TreeRows


class RowEngine:
    """Runs prompts and their continuations through one model.

    Rows are branches of a tree over a shared prompt where the model can be told by a mask which
    tokens see which; else they have caches of their own; else they are recomputed.

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
        self.tree = TreeRows(forward, vocab_size)
        self.kept = KeptPrompts(self.tree)
        self.cached = CachedRows(self)
        self.recomputed = RecomputedRows(self)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return torch.device(self.forward.model.device)

    @property
    def can_gather(self) -> bool:
        """Whether rows share a cache of keys and values; else they are recomputed."""
        return self.forward.probe().gatherable

    @property
    def can_grow_trees(self) -> bool:
        """Whether rows are branches of a tree over a prompt that is run once."""
        probed = self.forward.probe()
        return probed.gatherable and probed.tree

    def prefill(self, encoded: list[dict[str, Tensor]]) -> DecodingState:
        """One row a prompt, from what `PromptRenderer.encode` gave."""
        if self.can_gather:
            inputs, positions = self.inputs(encoded, [[] for _ in encoded])
            states, past = self.forward.run(inputs, positions, keep=1, use_cache=True)
            if is_gatherable(past, inputs["input_ids"].shape[1]):
                following = positions.amax(dim=-1) + 1
                following = following if following.dim() == 1 else following.amax(dim=0)
                rows = self.tree if self.forward.probe().tree else self.cached
                logits = self.forward.logits(states[:, -1])
                return rows.start(past, inputs["attention_mask"], following, logits)
        query = torch.arange(len(encoded), device=self.device)
        return self.recomputed.start(encoded, query)

    def inputs(
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

    def step(self, state: DecodingState, parents: Tensor, tokens: Tensor) -> DecodingState:
        """Extend rows by one token each; see `MLLM.step`."""
        tails = [[token] for token in tokens.tolist()]
        return self._extend(state, parents, tails, [False] * len(tails))[0]

    def extend(
        self,
        state: DecodingState,
        parents: Tensor,
        tails: Sequence[Sequence[int]],
        ends: Sequence[bool],
    ) -> tuple[DecodingState, Tensor]:
        """Extend rows by tails; see `MLLM.extend`."""
        after, scores = self._extend(state, parents, tails, ends)
        sums = [score.sum() for score in scores]
        return after, torch.stack(sums) if sums else torch.zeros(0, device=self.device)

    def score_from(
        self, state: DecodingState, parents: Tensor, tails: Sequence[Sequence[int]]
    ) -> list[Tensor]:
        """Log-probabilities of whole tails that continue rows of `state`; see `MLLM`."""
        return self._extend(state, parents, tails, [True] * len(tails))[1]

    def _extend(
        self,
        state: DecodingState,
        parents: Tensor,
        tails: Sequence[Sequence[int]],
        ends: Sequence[bool],
    ) -> tuple[DecodingState, list[Tensor]]:
        check_tails(tails, len(parents))
        if len(ends) != len(tails):
            raise InputError(f"{len(ends)} ends were given for {len(tails)} tails")
        if not tails:
            return state.none(), []
        rows: TreeRows | CachedRows | RecomputedRows
        if isinstance(state.cache, TreeCache):
            rows = self.tree
        elif isinstance(state.cache, RowCache):
            rows = self.cached
        elif isinstance(state.cache, Sequences):
            rows = self.recomputed
        else:
            raise InputError("this decoding state was made by another model")
        return rows.extend(state, parents.tolist(), tails, ends)

    def score_packed(
        self, encoded: Sequence[dict[str, Tensor]], tails: Sequence[Sequence[int]]
    ) -> list[Tensor]:
        """Log-probabilities of one tail a prompt, in one pass as far as the budget goes."""
        scores: list[Tensor] = [torch.empty(0)] * len(tails)
        lengths = [
            int(p["input_ids"].shape[1]) + len(t) for p, t in zip(encoded, tails, strict=True)
        ]
        left = self.can_gather
        for chunk in self.passes(lengths):
            chosen = [tails[i] for i in chunk]
            prompts = [encoded[i] for i in chunk]
            # The last token of a tail is asked for, never fed.
            fed = [list(tail[:-1]) for tail in chosen]
            inputs, positions = self.inputs(prompts, fed, left=left)
            total = inputs["input_ids"].shape[1]
            prompt_lengths = torch.tensor([p["input_ids"].shape[1] for p in prompts])
            starts = torch.full_like(prompt_lengths, int(prompt_lengths.max()))
            starts = (starts if left else prompt_lengths) - 1
            keep = total - int(starts.min())
            states, _ = self.forward.run(inputs, positions, keep=keep)
            counts = torch.tensor([len(tail) for tail in chosen])
            steps = torch.arange(keep) + (total - keep)
            wanted = (steps >= starts[:, None]) & (steps < (starts + counts)[:, None])
            device = states.device
            asked = torch.tensor([token for tail in chosen for token in tail], device=device)
            rows = torch.arange(len(asked), device=device)
            found, _, _ = score_pairs(
                self.forward.vocabulary(self.vocab_size),
                states[wanted.to(device)],
                rows,
                asked,
                rows[:0],
            )
            for i, score in zip(chunk, torch.split(found, counts.tolist()), strict=True):
                scores[i] = score
        return scores

    def passes(self, fed: Sequence[int], before: int = 0) -> list[list[int]]:
        """Rows cut into passes, by the tokens that each has to compute."""
        return passes(
            fed,
            most=self.tokens_per_pass,
            cost=pass_cost(self.device.type),
            before=[before] * len(fed),
        )


def check_tails(tails: Sequence[Sequence[int]], expected: int) -> None:
    """Raise `InputError` unless there are as many tails as expected, none of them empty."""
    if len(tails) != expected:
        raise InputError(f"{len(tails)} continuations were given for {expected} rows")
    if any(len(tail) == 0 for tail in tails):
        raise InputError("a continuation to be scored is empty")
