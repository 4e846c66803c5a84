"""Rows as the branches of one tree of tokens over a query's prompt, which is run once.

All hypotheses of a query share the keys and values of its prompt and of every beginning that
they have in common. A pass feeds the tokens that the tree does not have yet, each of them
once, and a mask lets every token see its prompt and its own ancestors alone. So nothing is
reordered when beams change places, and branches of any lengths are run without padding. (Tree
attention comes from speculative decoding: SpecInfer, arXiv 2305.09781.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from genmm_retriever.models.base import DecodingState
from genmm_retriever.models.branches import Branches
from genmm_retriever.models.caches import choose_tokens, gather, only_read, share
from genmm_retriever.models.forwarding import ForwardPass
from genmm_retriever.models.passes import pass_cost
from genmm_retriever.models.scoring import score_pairs
from genmm_retriever.models.tree_passes import tree_passes

_NODES_AT_ONCE = {"cpu": 1024}
"""Tokens of a pass: attention among them grows with their square."""
_UNSEEN = 256
"""Tokens that no row sees any more may stay in the cache up to so many."""


@dataclass
class TreeCache:
    """The trees of B queries and the n rows that stand in them.

    Attributes:
        past: Keys and values of the prompts (W tokens, padded on the left) and of the S suffix
            tokens that the trees have grown.
        prompt: Prompt tokens that are no padding, [B, W], bool.
        place: Which of the B each row belongs to, [n], int64.
        visible: Suffix tokens on the path of each row, [n, S], bool.
        following: Position of each row's next token, [n], int64.
    """

    past: Any
    prompt: Tensor
    place: Tensor
    visible: Tensor
    following: Tensor


class TreeRows:
    """Extends rows by branches; see the module.

    Args:
        forward: The pass of a model that takes a mask for every pair of tokens.
        vocab_size: V.
    """

    def __init__(self, forward: ForwardPass, vocab_size: int) -> None:
        self.forward = forward
        self.vocab_size = vocab_size
        self.device = torch.device(forward.model.device)
        self.nodes_at_once = _NODES_AT_ONCE.get(self.device.type, 8192)

    def start(self, past: Any, mask: Tensor, following: Tensor, logits: Tensor) -> DecodingState:
        """One row a prompt that has been run.

        Args:
            past: Its cache.
            mask: [Q, W], 1 for tokens, 0 for padding.
            following: Position of the first token to come, [Q].
            logits: [Q, V].
        """
        place = torch.arange(len(logits), device=self.device)
        visible = torch.zeros((len(logits), 0), dtype=torch.bool, device=self.device)
        return DecodingState(logits, place, TreeCache(past, mask.bool(), place, visible, following))

    def extend(
        self,
        state: DecodingState,
        parents: Sequence[int],
        tails: Sequence[Sequence[int]],
        ends: Sequence[bool],
    ) -> tuple[DecodingState, list[Tensor]]:
        """Extend rows; see `MLLM.extend`.

        Returns:
            The state of the rows that go on and the log-probabilities of each tail's tokens.
        """
        scores: list[Tensor] = [torch.empty(0)] * len(tails)
        after = state.none()
        place = state.cache_as(TreeCache).place[list(parents)].tolist()
        chunks = tree_passes(
            # The last token of a tail that ends is asked for, never fed.
            [len(tail) - end for tail, end in zip(tails, ends, strict=True)],
            place,
            ends,
            most=self.nodes_at_once,
            cost=pass_cost(self.device.type),
        )
        for chunk in chunks:
            going = sum(not ends[i] for i in chunk)
            grown, found = self._pass(
                state, [parents[i] for i in chunk], [tails[i] for i in chunk], going
            )
            if going:
                after = grown
            for i, score in zip(chunk, found, strict=True):
                scores[i] = score
        return after, scores

    def _pass(
        self,
        state: DecodingState,
        parents: Sequence[int],
        tails: Sequence[Sequence[int]],
        going: int,
    ) -> tuple[DecodingState, list[Tensor]]:
        """One pass over tails of which the first `going` go on."""
        first = state.first_logprobs(parents, tails)
        fed = [tail if i < going else tail[:-1] for i, tail in enumerate(tails)]
        grown = Branches.of(parents, fed)
        if not grown.tokens:
            return state.none(), first
        rows = torch.tensor(grown.rows, device=self.device)
        cache = of_queries(state.cache_as(TreeCache), rows)
        columns, width = _columns(cache.place[rows])
        seen = grown.ancestors().to(self.device)
        states, past = self._run(cache, grown, rows, columns, width, seen, grow=going > 0)
        before = [
            node
            for path, tail in zip(grown.paths, tails, strict=True)
            for node in path[: len(tail) - 1]
        ]
        asked = [token for tail in tails for token in tail[1:]]
        last = torch.tensor([path[-1] for path in grown.paths[:going]], dtype=torch.int64)
        last = last.to(self.device)
        later, logits, normaliser = score_pairs(
            self.forward.vocabulary(self.vocab_size),
            states,
            torch.tensor(before, dtype=torch.int64, device=self.device),
            torch.tensor(asked, dtype=torch.int64, device=self.device),
            last,
        )
        rest = torch.split(later, [len(tail) - 1 for tail in tails])
        scores = [torch.cat(pair) for pair in zip(first, rest, strict=True)]
        if not going:
            return state.none(), scores
        own = torch.zeros((going, width), dtype=torch.bool, device=self.device)
        row, node = torch.nonzero(seen[last], as_tuple=True)
        own[row, columns[node]] = True
        kept = rows[last]
        lengths = torch.tensor([len(tail) for tail in tails[:going]], device=self.device)
        after = TreeCache(
            past=past,
            prompt=cache.prompt,
            place=cache.place[kept],
            visible=torch.cat([cache.visible[kept], own], dim=1),
            following=cache.following[kept] + lengths,
        )
        return DecodingState(logits, state.query[kept], compacted(after), normaliser), scores

    def _run(
        self,
        cache: TreeCache,
        grown: Branches,
        rows: Tensor,
        columns: Tensor,
        width: int,
        seen: Tensor,
        *,
        grow: bool,
    ) -> tuple[Tensor, Any]:
        """Feed the nodes; their states [N, H] and the cache, which is grown if that is wanted."""
        queries, prompt = cache.prompt.shape
        suffix = prompt + cache.visible.shape[1]
        place = cache.place[rows]
        tokens = torch.zeros((queries, width), dtype=torch.int64, device=self.device)
        tokens[place, columns] = torch.tensor(grown.tokens, device=self.device)
        positions = torch.zeros_like(tokens)
        depths = torch.tensor(grown.depths, device=self.device)
        positions[place, columns] = cache.following[rows] + depths
        mask = torch.zeros((queries, width, suffix + width), dtype=torch.bool, device=self.device)
        # Every token sees itself, also those that only fill a batch.
        mask[:, :, suffix:] = torch.eye(width, dtype=torch.bool, device=self.device)
        mask[place, columns, :prompt] = cache.prompt[place]
        mask[place, columns, prompt:suffix] = cache.visible[rows]
        below, above = torch.nonzero(seen, as_tuple=True)
        mask[place[below], columns[below], suffix + columns[above]] = True
        states, past = self.forward.run(
            {"input_ids": tokens, "attention_mask": self.forward.additive(mask[:, None])},
            self.forward.text_positions(positions),
            keep=width,
            cache=share(cache.past) if grow else only_read(cache.past),
            use_cache=True,
        )
        return states[place, columns], past


def of_queries(cache: TreeCache, rows: Tensor) -> TreeCache:
    """The cache of those queries alone that the given rows belong to.

    `place` of all other rows is meaningless in it.
    """
    live = torch.bincount(cache.place[rows], minlength=len(cache.prompt)) > 0
    if bool(live.all()):
        return cache
    batch = torch.nonzero(live).flatten()
    return replace(
        cache,
        past=gather(cache.past, batch),
        prompt=cache.prompt[batch],
        place=(live.cumsum(0) - 1)[cache.place],
    )


def compacted(cache: TreeCache) -> TreeCache:
    """The cache without what no row sees, once that is worth a copy."""
    queries, room = len(cache.prompt), cache.visible.shape[1]
    seen = torch.zeros((queries, room), dtype=torch.int64, device=cache.place.device)
    seen = seen.index_add_(0, cache.place, cache.visible.long()) > 0
    widest = int(seen.sum(dim=1).max())
    if room - widest <= _UNSEEN:
        return cache
    # Seen tokens first, in their order; what fills up a narrower tree is seen by no row.
    order = torch.sort(~seen, dim=1, stable=True).indices[:, :widest]
    width = cache.prompt.shape[1]
    prompt = torch.arange(width, device=order.device).expand(queries, -1)
    tokens = torch.cat([prompt, width + order], dim=1)
    return replace(
        cache,
        past=choose_tokens(cache.past, torch.arange(queries, device=order.device), tokens),
        visible=cache.visible.gather(1, order[cache.place]),
    )


def _columns(place: Tensor) -> tuple[Tensor, int]:
    """Number of each node within its query, [N], and the most nodes of a query."""
    order = torch.sort(place, stable=True).indices
    ordered = place[order].contiguous()
    rank = torch.arange(len(place), device=place.device) - torch.searchsorted(ordered, ordered)
    columns = torch.empty_like(place)
    columns[order] = rank
    return columns, int(rank.max()) + 1
