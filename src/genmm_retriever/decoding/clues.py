"""The search for clues: phrases that stand in the text, written by the model token by token.

As SEAL (Bevilacqua et al., NeurIPS 2022) and GeMKR (arXiv 2401.08206) do, over whatever knows
which tokens may follow a phrase somewhere in the text (a `constraints.clues.ClueIndex`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from genmm_retriever.decoding.clue_types import (
    MOST_DOCUMENTS,
    Clue,
    ClueConfig,
    ClueTexts,
    Ints,
    smoothing,
)
from genmm_retriever.errors import InputError, ModelError
from genmm_retriever.models.base import MLLM, DecodingState, Prompt

Floats = NDArray[np.float64]


def clue_search(
    model: MLLM,
    prompts: Sequence[Prompt],
    views: Sequence[ClueTexts],
    config: ClueConfig | None = None,
    *,
    given: Sequence[Sequence[int]] | None = None,
) -> list[list[Clue]]:
    """Let the model write phrases that occur in the text; every phrase on the way is a clue.

    Each prompt is prefilled once; all beams of all queries advance together. With one group
    and `debias` 0 the phrases kept at each step are exactly the likeliest continuations of
    those kept before.

    Args:
        model: The language model.
        prompts: Q prompts.
        views: The text of each query; queries that look into the same text should share one
            object, so that they are looked up together.
        config: The defaults if None.
        given: The tokens of each query's own words, or None. Their phrases that occur in the
            text are clues as well, scored behind the prompt in one pass.

    Returns:
        For each query its distinct clues, likeliest first; equal ones in order of their
        tokens. Empty where nothing of the text may be found.

    Raises:
        InputError: If there is not one text (and own phrase) a query.
        ModelError: If the model's logits are NaN.
    """
    config = config or ClueConfig()
    if len(views) != len(prompts) or (given is not None and len(given) != len(prompts)):
        raise InputError(f"{len(prompts)} prompts need as many texts to look into")
    if not prompts:
        return []
    with torch.no_grad():
        state = model.prefill(prompts)
        search = _Search(model, views, config)
        if given is not None:
            search.add_given(state, [list(one[: config.max_given]) for one in given])
        search.run(state)
    return [sorted(one.values(), key=lambda c: (-c.logprob, c.tokens)) for one in search.found]


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Continuations (row, token), m of them, ordered by row."""

    rows: Ints
    tokens: Ints
    counts: Ints
    logprob: Floats
    score: Floats

    def take(self, which: Ints) -> _Pairs:
        return _Pairs(*(getattr(self, field.name)[which] for field in dataclasses.fields(self)))


class _Search:
    """One search; `found` holds each query's clues by their tokens."""

    def __init__(self, model: MLLM, views: Sequence[ClueTexts], config: ClueConfig) -> None:
        self.model = model
        self.config = config
        distinct: dict[int, int] = {}
        # By identity: queries without a filter share the view of the whole index.
        self.view_of = np.array([distinct.setdefault(id(v), len(distinct)) for v in views])
        self.views: list[ClueTexts] = [
            views[list(self.view_of).index(i)] for i in distinct.values()
        ]
        self.sizes = np.array(
            [int(view.counts(view.start(1))[0]) for view in views], dtype=np.float64
        )
        self.added = np.array([smoothing(config.prior, size) for size in self.sizes])
        self.found: list[dict[tuple[int, ...], Clue]] = [{} for _ in views]
        queries = len(views)
        self.copied: list[dict[tuple[int, ...], float]] = [{} for _ in views]
        self.query = np.arange(queries)
        self.group = np.full(queries, -1)
        self.written: list[tuple[int, ...]] = [()] * queries
        self.logprob = np.zeros(queries)
        self.ranges = [v.start(int((self.view_of == i).sum())) for i, v in enumerate(self.views)]

    def run(self, state: DecodingState) -> None:
        """Write until no phrase may go on."""
        for length in range(1, self.config.max_tokens + 1):
            pairs = self._pairs(state)
            picks, group = self._select(pairs)
            kept = pairs.take(picks)
            going = self._advance(kept, group)
            if length == self.config.max_tokens or not len(going):
                return
            parents, tokens = kept.rows[going], kept.tokens[going]
            state = self.model.step(state, torch.from_numpy(parents), torch.from_numpy(tokens))

    def _rows_of(self, view: int) -> Ints:
        return np.flatnonzero(self.view_of[self.query] == view)

    def _pairs(self, state: DecodingState) -> _Pairs:
        """Every continuation worth looking at, by row and then by token."""
        normaliser = state.normaliser.double().cpu().numpy()
        logits = state.logits.float().cpu().numpy()
        columns: list[tuple[Ints, Ints, Ints]] = []
        for i, view in enumerate(self.views):
            rows = self._rows_of(i)
            if len(rows):
                offsets, tokens, counts = view.next_tokens(
                    self.ranges[i], logits[rows], 2 * self.config.num_beams
                )
                columns.append((np.repeat(rows, np.diff(offsets)), tokens, counts))
        rows, tokens, counts = (
            np.concatenate([column[i] for column in columns]).astype(np.int64) for i in range(3)
        )
        order = np.lexsort((tokens, rows))
        rows, tokens, counts = rows[order], tokens[order], counts[order]
        logprob = self.logprob[rows] + logits[rows, tokens] - normaliser[rows]
        if np.isnan(logprob).any():
            raise ModelError(
                "the model's logits are not numbers (NaN)", "load it in another dtype, or check it"
            )
        score = logprob
        if self.config.debias:
            score = logprob - self.config.debias * self._log_frequency(rows, counts)
        possible = np.flatnonzero(np.isfinite(logprob))
        return _Pairs(rows, tokens, counts, logprob, score).take(possible)

    def _log_frequency(self, rows: Ints, counts: Ints) -> Floats:
        sizes = self.sizes[self.query[rows]]
        added = self.added[self.query[rows]]
        frequency: Floats = np.log((counts + added) / (sizes + added))
        return frequency

    def _select(self, pairs: _Pairs) -> tuple[Ints, Ints]:
        """The pairs that are kept and their groups, ordered by query and group."""
        width = self.config.num_beams // self.config.groups
        query = self.query[pairs.rows]
        first = len(self.group) > 0 and self.group[0] < 0
        # A token of a query as one number; what earlier groups have written at this step.
        word = query * (int(pairs.tokens.max(initial=0)) + 1) + pairs.tokens
        chosen: list[Ints] = []
        groups: list[Ints] = []
        for group in range(self.config.groups):
            member = np.arange(len(word)) if first else self.group[pairs.rows] == group
            member = np.arange(len(word))[member]
            used = np.concatenate([np.empty(0, dtype=np.int64), *chosen])
            if first:
                # All groups begin at the same place: what one has taken is taken.
                member = np.setdiff1d(member, used, assume_unique=True)
            score = pairs.score[member]
            if len(used) and self.config.diversity:
                names, times = np.unique(word[used], return_counts=True)
                at = np.searchsorted(names, word[member]).clip(max=len(names) - 1)
                hits = np.where(names[at] == word[member], times[at], 0)
                score = score - self.config.diversity * hits
            best = member[_best(query[member], score, width)]
            chosen.append(best)
            groups.append(np.full(len(best), group))
        picks, group_of = np.concatenate(chosen), np.concatenate(groups)
        order = np.argsort(query[picks], kind="stable")
        return picks[order], group_of[order]

    def _advance(self, kept: _Pairs, group: Ints) -> Ints:
        """Note the clues and move to those that may go on; returns their places in `kept`."""
        query = self.query[kept.rows]
        documents = np.zeros(len(query), dtype=np.int64)
        ranges = list(self.ranges)
        of_view = self.view_of[query]
        for i, view in enumerate(self.views):
            mine = np.flatnonzero(of_view == i)
            local = np.searchsorted(self._rows_of(i), kept.rows[mine])
            ranges[i] = view.extend(self.ranges[i], local, kept.tokens[mine])
            documents[mine] = view.document_frequency(ranges[i], MOST_DOCUMENTS)
        written = [
            (*self.written[row], token)
            for row, token in zip(kept.rows.tolist(), kept.tokens.tolist(), strict=True)
        ]
        columns = (query, written, kept.logprob, kept.counts, documents)
        for of, tokens, logprob, count, many in zip(*columns, strict=True):
            expected = self._expected(of, tokens, float(logprob))
            self.found[of][tokens] = Clue(tokens, expected, int(count), int(many))
        stop = documents <= 1 if self.config.stop_unique else np.zeros(len(query), dtype=bool)
        going = np.flatnonzero(~stop)
        for i in range(len(self.views)):
            mine = np.flatnonzero(of_view == i)
            self.ranges[i] = _taken(ranges[i], np.flatnonzero(~stop[mine]))
        self.query, self.group = query[going], group[going]
        self.written = [written[i] for i in going]
        self.logprob = kept.logprob[going]
        return going

    def add_given(self, state: DecodingState, given: Sequence[list[int]]) -> None:
        """Add the phrases of the queries' own words that occur in the text."""
        windows: list[tuple[int, list[int], Ints, Ints]] = []
        for query, tokens in enumerate(given):
            view = self.views[self.view_of[query]]
            windows += [(query, *one) for one in _windows(view, tokens, self.config.max_tokens)]
        if not windows:
            return
        scored = self.model.score_from(
            state, torch.tensor([query for query, *_ in windows]), [tail for _, tail, *_ in windows]
        )
        for query, tail, *_ in windows:
            share = 1 / len(given[query])
            for end in range(1, len(tail) + 1):
                copies = self.copied[query]
                copies[tuple(tail[:end])] = copies.get(tuple(tail[:end]), 0.0) + share
        for (query, tail, counts, documents), logprobs in zip(windows, scored, strict=True):
            total = logprobs.double().cpu().numpy().cumsum()
            for end in range(1, len(tail) + 1):
                phrase = tuple(tail[:end])
                expected = self._expected(query, phrase, float(total[end - 1]))
                if math.isfinite(expected):
                    count, many = int(counts[end - 1]), int(documents[end - 1])
                    self.found[query][phrase] = Clue(phrase, expected, count, many, given=True)

    def _expected(self, query: int, phrase: tuple[int, ...], logprob: float) -> float:
        """The log-probability of a phrase, given that an answer may copy the query."""
        copied = self.config.copying * self.copied[query].get(phrase, 0.0)
        if not copied:
            return logprob
        return math.log((1 - self.config.copying) * math.exp(logprob) + copied)


def _windows(
    view: ClueTexts, tokens: list[int], longest: int
) -> list[tuple[list[int], Ints, Ints]]:
    """From each place of the query the longest phrase that occurs, with counts of its prefixes."""
    if not tokens:
        return []
    starts = np.arange(len(tokens))
    ids = np.array(tokens, dtype=np.int64)
    ranges = view.start(len(tokens))
    counts = np.zeros((longest, len(tokens)), dtype=np.int64)
    documents = np.zeros_like(counts)
    alive = starts
    for length in range(longest):
        local = np.flatnonzero(alive + length < len(tokens))
        ranges = view.extend(ranges, local, ids[alive[local] + length])
        alive = alive[local]
        occurring = view.counts(ranges)
        counts[length, alive] = occurring
        documents[length, alive] = view.document_frequency(ranges, MOST_DOCUMENTS)
        ranges = _taken(ranges, np.flatnonzero(occurring > 0))
        alive = alive[occurring > 0]
        if not len(alive):
            break
    lengths = (counts > 0).sum(axis=0)
    return [
        (tokens[at : at + n], counts[:n, at], documents[:n, at])
        for at, n in enumerate(lengths.tolist())
        if n
    ]


def _best(query: Ints, score: Floats, width: int) -> Ints:
    """Places of the `width` best of each query, by query and falling score; first come first."""
    order = np.lexsort((-score, query))
    ordered = query[order]
    rank = np.arange(len(order)) - np.searchsorted(ordered, ordered)
    best: Ints = order[rank < width]
    return best


def _taken(ranges: Any, rows: Ints) -> Any:
    """Some of the phrases."""
    fields = dataclasses.fields(ranges)
    return dataclasses.replace(ranges, **{f.name: getattr(ranges, f.name)[rows] for f in fields})
