"""The constrained beam search: exact where it can be, and few forward passes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic

import torch
from torch import Tensor

from genmm_retriever.constraints.base import Constraint, StateT, Subsets
from genmm_retriever.decoding.config import BeamConfig
from genmm_retriever.decoding.hypotheses import (
    Expansion,
    Hypothesis,
    Live,
    expand,
    ranked,
    stepped,
)
from genmm_retriever.decoding.parity import transformers_beam_search
from genmm_retriever.errors import InputError
from genmm_retriever.models.base import MLLM, Prompt

_SLACK = 1e-2
"""Room for rounding (float32 sums, bf16 models) before a beam is certified as hopeless."""


def constrained_beam_search(
    model: MLLM,
    prompts: Sequence[Prompt],
    constraint: Constraint[StateT],
    subsets: Subsets | None = None,
    config: BeamConfig | None = None,
) -> list[list[Hypothesis]]:
    """Let the model write the identifiers that the constraint allows, best ones first.

    Each prompt is prefilled once. A step scores the legal tokens of all beams of all queries
    at once and keeps the best unfinished ones of each query; a finished hypothesis leaves the
    beam with its exact score and competes with all that finish later. Once few identifiers are
    left under a query's beams, all of them are scored.

    The result is exact, that is equal to scoring every identifier, whenever nothing had to be
    pruned: if no step has more than `num_beams` unfinished continuations, or if the identifiers
    of the subset are at most `max_leaves_exact`.

    Args:
        model: The language model.
        prompts: Q prompts.
        constraint: Usually a `TokenTrie` of the index's identifiers.
        subsets: For each query the rows of the items that may be found, or None for all.
        config: Width, debiasing and so on; the defaults if None.

    Returns:
        For each query its hypotheses, best first; equal scores in order of their tokens. Empty
        where the subset is empty.

    Raises:
        InputError: If there is not one subset a query.
        ModelError: If the model's logits are NaN.
    """
    config = config or BeamConfig()
    if subsets is not None and len(subsets) != len(prompts):
        raise InputError(
            f"{len(prompts)} prompts but {len(subsets)} subsets", "give one subset a prompt"
        )
    if not prompts:
        return []
    with torch.no_grad():
        state = model.prefill(prompts)
        device = state.logits.device
        start = constraint.start(len(prompts), subsets, device=device)
        zeros = torch.zeros(len(prompts), device=device)
        empty = torch.zeros((len(prompts), 0), dtype=torch.int64, device=device)
        live = Live(state, start, empty, zeros, zeros)
        if config.compat == "hf":
            return transformers_beam_search(model, live, constraint, config)
        return _Search(model, constraint, config, len(prompts), device).run(live)


class _Search(Generic[StateT]):
    """One search; holds what is finished and which queries are past pruning."""

    def __init__(
        self,
        model: MLLM,
        constraint: Constraint[StateT],
        config: BeamConfig,
        queries: int,
        device: torch.device,
    ) -> None:
        self.model = model
        self.constraint = constraint
        self.config = config
        self.queries = queries
        self.exact = torch.zeros(queries, dtype=torch.bool, device=device)
        self.finished: list[list[Hypothesis]] = [[] for _ in range(queries)]

    def run(self, live: Live[StateT]) -> list[list[Hypothesis]]:
        """Advance until no row is live."""
        while len(live.logprob):
            expansion = expand(live, self.constraint, self.config.debias)
            self._finish(live, expansion)
            picks = self._select(live, expansion)
            rows, tokens = expansion.rows[picks], expansion.tokens[picks]
            state = self.constraint.advance(live.constraint, rows, tokens)
            hopeful = self._hopeful(expansion, picks, state)
            if hopeful is not None:
                picks, rows, tokens = picks[hopeful], rows[hopeful], tokens[hopeful]
                state = self.constraint.advance(live.constraint, rows, tokens)
            at_once = self._at_once(state)
            if bool(at_once.any()):
                self._score_tails(live, expansion, picks[at_once])
                picks, rows, tokens = picks[~at_once], rows[~at_once], tokens[~at_once]
                state = self.constraint.advance(live.constraint, rows, tokens)
            if not len(picks):
                break
            model = self.model.step(live.model, rows, tokens)
            live = stepped(live, expansion, picks, state, model)
        best = [sorted(one, key=lambda h: (-h.score, h.tokens)) for one in self.finished]
        return [one[: self.config.num_hypotheses] for one in best]

    def _select(self, live: Live[StateT], expansion: Expansion) -> Tensor:
        """The unfinished continuations that stay live, ordered by query and falling score."""
        self._mark_exact(live.constraint)
        open_pairs = torch.nonzero(~expansion.finishes).flatten()
        query = expansion.query[open_pairs]
        order, rank = ranked(query, expansion.score[open_pairs])
        keep = (rank < self.config.num_beams) | self.exact[query[order]]
        return open_pairs[order[keep]]

    def _mark_exact(self, state: StateT) -> None:
        """Stop pruning the queries under whose rows few identifiers are left."""
        left = self._by_query(state.query, self.constraint.remaining(state))
        self.exact |= left <= self.config.max_leaves_exact

    def _at_once(self, state: StateT) -> Tensor:
        """Rows of the queries whose tails should be scored now, [n], bool."""
        self._mark_exact(state)
        left = self._by_query(state.query, self.constraint.remaining(state))
        rows = self._by_query(state.query, torch.ones_like(state.query))
        # A step feeds a row's token once, a packed pass once for each tail that begins by it.
        return (self.exact & (left - rows <= self.config.pass_cost))[state.query]

    def _by_query(self, query: Tensor, values: Tensor) -> Tensor:
        return torch.zeros(self.queries, dtype=values.dtype, device=values.device).index_add_(
            0, query, values
        )

    def _hopeful(self, expansion: Expansion, picks: Tensor, state: StateT) -> Tensor | None:
        """Which picks may still become one of the wanted hypotheses; None if all may.

        A tail's log p(. | query) is at most 0 and its log p(. | no query) is at least what the
        constraint says, so `score - debias * least` bounds what a row can reach. Debiased scores
        may rise, hence no simpler bound is valid.
        """
        wanted = self.config.num_hypotheses
        if wanted is None or self.config.length_penalty or not len(picks):
            return None
        bars = [
            sorted((h.score for h in one), reverse=True)[wanted - 1]
            if len(one) >= wanted
            else -torch.inf
            for one in self.finished
        ]
        if max(bars) == -torch.inf:
            return None
        bar = torch.tensor(bars, device=state.query.device)[state.query]
        reach = expansion.score[picks]
        reach = reach - self.config.debias * self.constraint.least_null_logprob(state)
        return reach >= bar - _SLACK

    def _finish(self, live: Live[StateT], expansion: Expansion) -> None:
        """Move completed continuations to the finished ones."""
        done = torch.nonzero(expansion.finishes).flatten()
        if not len(done):
            return
        rows, tokens = expansion.rows[done], expansion.tokens[done]
        state = self.constraint.advance(live.constraint, rows, tokens)
        self._add(
            state.query,
            torch.cat([live.tokens[rows], tokens[:, None]], dim=1).tolist(),
            self.constraint.documents(state),
            expansion.logprob[done],
            expansion.null[done],
        )

    def _score_tails(self, live: Live[StateT], expansion: Expansion, picks: Tensor) -> None:
        """Score every identifier under the picked continuations in one packed pass."""
        rows, tokens = expansion.rows[picks], expansion.tokens[picks]
        state = self.constraint.advance(live.constraint, rows, tokens)
        completions = self.constraint.completions(state)
        parents = rows[completions.rows]
        first = tokens[completions.rows].tolist()
        tails = [[one, *rest] for one, rest in zip(first, completions.tails, strict=True)]
        scored = self.model.score_from(live.model, parents, tails)
        logprob = torch.stack([tail.sum() for tail in scored]).to(live.logprob.device)
        written = live.tokens[parents].tolist()
        self._add(
            state.query[completions.rows],
            [before + tail for before, tail in zip(written, tails, strict=True)],
            completions.items,
            live.logprob[parents] + logprob,
            expansion.null[picks][completions.rows] + completions.null_logprobs,
        )

    def _add(
        self,
        query: Tensor,
        tokens: list[list[int]],
        items: list[tuple[int, ...]],
        logprob: Tensor,
        null: Tensor,
    ) -> None:
        columns = (query.tolist(), tokens, items, logprob.tolist(), null.tolist())
        for of, written, named, given, unconditional in zip(*columns, strict=True):
            score = given - self.config.debias * unconditional if self.config.debias else given
            score /= len(written) ** self.config.length_penalty
            self.finished[of].append(Hypothesis(tuple(written), named, given, unconditional, score))
