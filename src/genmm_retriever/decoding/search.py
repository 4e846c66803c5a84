"""The constrained beam search: exact where it can be, and few forward passes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic

import torch
from torch import Tensor

from genmm_retriever.constraints.base import Completions, Constraint, StateT, Subsets
from genmm_retriever.decoding.branches import Branches, to_next_choice, to_the_end
from genmm_retriever.decoding.config import BeamConfig
from genmm_retriever.decoding.guide import Guides, ahead_of, guided
from genmm_retriever.decoding.hypotheses import (
    Expansion,
    Hypothesis,
    Live,
    Ranking,
    best_of_each,
    expand,
    written,
)
from genmm_retriever.decoding.parity import transformers_beam_search
from genmm_retriever.errors import InputError
from genmm_retriever.models.base import MLLM, DecodingState, Prompt

_SLACK = 1e-2
"""Room for rounding (float32 sums, bf16 models) before a beam is certified as hopeless."""


def constrained_beam_search(
    model: MLLM,
    prompts: Sequence[Prompt],
    constraint: Constraint[StateT],
    subsets: Subsets | None = None,
    config: BeamConfig | None = None,
    guides: Guides | None = None,
) -> list[Ranking]:
    """Let the model write the identifiers that the constraint allows, best ones first.

    Each prompt is prefilled once. A step goes from choice to choice: it scores the legal tokens
    of all beams of all queries at once, keeps the best unfinished ones of each query, and runs
    these and all tokens that they force, up to the next choice, in one pass. A finished
    hypothesis leaves the beam with its exact score and competes with all that finish later.
    Once few identifiers are left under a query's beams, all of them are scored in that pass.

    The result is exact, that is equal to scoring every identifier, whenever nothing had to be
    pruned: if no step has more than `num_beams` unfinished continuations, or if the identifiers
    of the subset are at most `max_leaves_exact`.

    Args:
        model: The language model.
        prompts: Q prompts.
        constraint: Usually a `TokenTrie` of the index's identifiers.
        subsets: For each query the rows of the items that may be found, or None for all.
        config: Width, debiasing and so on; the defaults if None.
        guides: For each query what lies ahead of beginnings of identifiers, added to their
            scores (PAG, arXiv 2404.14600), or None for no guide.

    Returns:
        For each query its hypotheses, best first; equal scores in order of their tokens. Empty
        where the subset is empty. `Ranking.proven` says how many of the first are exact.

    Raises:
        InputError: If there is not one subset or guide a query.
        ModelError: If the model's logits are NaN.
    """
    config = config or BeamConfig()
    if subsets is not None and len(subsets) != len(prompts):
        raise InputError(
            f"{len(prompts)} prompts but {len(subsets)} subsets", "give one subset a prompt"
        )
    if guides is not None and len(guides) != len(prompts):
        raise InputError(f"{len(prompts)} prompts but {len(guides)} guides", "give one a prompt")
    if not prompts:
        return []
    with torch.no_grad():
        state = model.prefill(prompts)
        device = state.logits.device
        start = constraint.start(len(prompts), subsets, device=device)
        zeros = torch.zeros(len(prompts), device=device)
        live = Live(state, start, [()] * len(prompts), zeros, zeros)
        if config.compat == "hf":
            if guides is not None:
                raise InputError("transformers knows no guide", 'search with compat="genmm"')
            return transformers_beam_search(model, live, constraint, config)
        return _Search(model, constraint, config, guides or [None] * len(prompts), device).run(live)


class _Search(Generic[StateT]):
    """One search; holds what is finished, and how good that may be which was given up."""

    def __init__(
        self,
        model: MLLM,
        constraint: Constraint[StateT],
        config: BeamConfig,
        guides: Guides,
        device: torch.device,
    ) -> None:
        queries = len(guides)
        self.guides = guides
        self.guided = any(guide is not None for guide in guides)
        self.model = model
        self.constraint = constraint
        self.config = config
        self.local = config.score == "local"
        self.exact = torch.zeros(queries, dtype=torch.bool, device=device)
        self.finished: list[list[Hypothesis]] = [[] for _ in range(queries)]
        self.partly = torch.zeros_like(self.exact)
        self.missed = torch.full((queries,), -torch.inf, device=device)
        self.left = torch.zeros(queries, dtype=torch.int64, device=device)

    def run(self, live: Live[StateT]) -> list[Ranking]:
        """Advance until no row is live."""
        self.left = self._in_all(live.constraint.query, self.constraint.remaining(live.constraint))
        while live.tokens:
            expansion = expand(live, self.constraint, self.config.debias, local=self.local)
            if self.guided:
                expansion = guided(live, expansion, self.guides)
            self._finish(live, expansion)
            picks = self._select(live, expansion)
            rows, tokens = expansion.rows[picks], expansion.tokens[picks]
            state = self.constraint.advance(live.constraint, rows, tokens)
            hopeful = self._hopeful(expansion, picks, state)
            if hopeful is not None:
                picks, state = picks[hopeful], self.constraint.choose(state, hopeful)
            live = self._advance(live, expansion, picks, state)
        return [
            self._ranked(one, missed)
            for one, missed in zip(self.finished, self.missed.tolist(), strict=True)
        ]

    def _ranked(self, finished: list[Hypothesis], missed: float) -> Ranking:
        best = sorted(finished, key=lambda h: (-h.score, h.tokens))[: self.config.num_hypotheses]
        # Rounding must not prove what is a tie.
        bar = missed + _SLACK
        return Ranking(best, proven=sum(h.score >= bar for h in best))

    def _finish(self, live: Live[StateT], expansion: Expansion) -> None:
        """Move continuations that are complete by one token to the finished ones."""
        done = torch.nonzero(expansion.finishes).flatten()
        if not len(done):
            return
        rows, tokens = expansion.rows[done], expansion.tokens[done]
        state = self.constraint.advance(live.constraint, rows, tokens)
        self._add(
            state.query,
            written(live, rows, tokens[:, None].tolist()),
            self.constraint.documents(state),
            expansion.logprob[done],
            expansion.null[done],
        )

    def _select(self, live: Live[StateT], expansion: Expansion) -> Tensor:
        """The unfinished continuations that stay live, ordered by query and falling score."""
        self.exact |= self._are_few(self.left)
        open_pairs = torch.nonzero(~expansion.finishes).flatten()
        most = torch.where(self.exact, len(open_pairs), self.config.num_beams)
        best = best_of_each(expansion.query[open_pairs], expansion.score[open_pairs], most)
        if len(best) < len(open_pairs):
            pruned = torch.ones(len(open_pairs), dtype=torch.bool, device=best.device)
            pruned[best] = False
            self._give_up(live, expansion, open_pairs[pruned])
        return open_pairs[best]

    def _give_up(self, live: Live[StateT], expansion: Expansion, pairs: Tensor) -> None:
        """Remember the best score that anything under these pairs can reach."""
        reach = expansion.logprob[pairs] + ahead_of(expansion, pairs)
        if self.config.debias:
            # What is under a pair is under its row, so the row's bound holds for it too.
            least = live.null + self.constraint.least_null_logprob(live.constraint)
            reach = reach - self.config.debias * least[expansion.rows[pairs]]
        if self.config.length_penalty:
            reach = torch.full_like(reach, torch.inf)
        self.missed.scatter_reduce_(0, expansion.query[pairs], reach, "amax")

    def _are_few(self, left: Tensor) -> Tensor:
        """Whether so few identifiers are left that all of them are scored, [Q].

        Not where some were left open: whole ones and begun ones do not compare.
        """
        return (left <= self.config.max_leaves_exact) & ~self.partly

    def _in_all(self, query: Tensor, counts: Tensor) -> Tensor:
        """Numbers of rows, [n], added up for each query, [Q]."""
        return torch.zeros_like(self.exact, dtype=torch.int64).index_add_(0, query, counts)

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
        if self.config.debias:
            reach = reach - self.config.debias * self.constraint.least_null_logprob(state)
        hopeless = reach < bar - _SLACK
        self.missed.scatter_reduce_(0, state.query[hopeless], reach[hopeless], "amax")
        return torch.nonzero(~hopeless).flatten()

    def _advance(
        self, live: Live[StateT], expansion: Expansion, picks: Tensor, state: StateT
    ) -> Live[StateT]:
        """Run the picks to their next choices in one pass, and finish what is complete."""
        remaining = self.constraint.remaining(state)
        few = self._are_few(self._in_all(state.query, remaining))
        self.exact |= few
        # Under "local" scores every choice is renormalised, so none can be passed over.
        at_once = (few & (not self.local))[state.query]
        stepping, ending = torch.nonzero(~at_once).flatten(), torch.nonzero(at_once).flatten()
        # Forced tokens are looked for only where somebody steps on: the last pass has nobody.
        state_after = self.constraint.choose(state, stepping)
        rest = self.constraint.choose(state, ending)
        if not len(stepping) and len(ending):
            branches = to_the_end(self.constraint, expansion, picks[ending], rest)
        else:
            branches, state_after = to_next_choice(
                self.constraint, expansion, picks[stepping], state_after, self.config
            )
            if len(ending):
                branches += to_the_end(self.constraint, expansion, picks[ending], rest)
        opened, state_after = self._left_open(branches, state_after)
        model, logprob = self._run(live, branches)
        tokens = written(live, branches.rows, branches.tails)
        done, going = branches.which(end=True), branches.which(end=False)
        if opened is not None:
            of, found = opened
            done = done[~torch.isin(done, of)]
            self._add(
                branches.query[of],
                [(*tokens[i], *tail) for i, tail in zip(of.tolist(), found.tails, strict=True)],
                found.items,
                logprob[of],
                branches.null[of],
                lengths=[len(tokens[i]) for i in of.tolist()],
            )
        self._add(
            branches.query[done],
            [tokens[i] for i in done.tolist()],
            [branches.items[i] for i in done.tolist()],
            logprob[done],
            branches.null[done],
        )
        # What ends at once follows what steps on, and what steps on loses nothing by that.
        self.left = self._in_all(state_after.query, remaining[stepping[going]])
        return Live(
            model=model,
            constraint=state_after,
            tokens=[tokens[i] for i in going.tolist()],
            logprob=logprob[going],
            null=branches.null[going],
        )

    def _left_open(
        self, branches: Branches, state: StateT
    ) -> tuple[tuple[Tensor, Completions] | None, StateT]:
        """End the branches under which little is left; what is under them, and who goes on."""
        going = branches.which(end=False)
        if not self.config.open_leaves or not len(going):
            return None, state
        few = self.constraint.remaining(state) <= self.config.open_leaves
        if self.config.level_end is not None:
            last = [branches.tails[i][-1] == self.config.level_end for i in going.tolist()]
            few &= torch.tensor(last, device=few.device)
        if not bool(few.any()):
            return None, state
        for i in going[few].tolist():
            branches.ends[i] = True
        self.partly[branches.query[going[few]]] = True
        found = self.constraint.completions(
            self.constraint.choose(state, torch.nonzero(few).flatten())
        )
        rest = self.constraint.choose(state, torch.nonzero(~few).flatten())
        return (going[few][found.rows], found), rest

    def _run(self, live: Live[StateT], branches: Branches) -> tuple[DecodingState, Tensor]:
        """The model's rows behind the branches that go on, and log p(. | query) of them all."""
        if not self.local:
            model, sums = self.model.extend(
                live.model, branches.rows, branches.tails, branches.ends
            )
            return model, live.logprob[branches.rows] + sums
        # Forced tokens are certain, and what is complete needs no pass at all.
        going = branches.which(end=False)
        tails = [branches.tails[i] for i in going.tolist()]
        model, _ = self.model.extend(live.model, branches.rows[going], tails, [False] * len(tails))
        return model, branches.first

    def _add(
        self,
        query: Tensor,
        tokens: list[tuple[int, ...]],
        items: list[tuple[int, ...]],
        logprob: Tensor,
        null: Tensor,
        lengths: Sequence[int] | None = None,
    ) -> None:
        lengths = [len(some) for some in tokens] if lengths is None else lengths
        columns = (query.tolist(), tokens, items, logprob.tolist(), null.tolist(), lengths)
        for of, sequence, named, given, unconditional, length in zip(*columns, strict=True):
            score = given - self.config.debias * unconditional if self.config.debias else given
            score /= length**self.config.length_penalty
            guide = self.guides[of]
            score += 0.0 if guide is None else guide.of(sequence[:length])
            self.finished[of].append(
                Hypothesis(sequence, named, given, unconditional, score, length)
            )
