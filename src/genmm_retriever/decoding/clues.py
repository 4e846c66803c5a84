"""The search for clues: phrases that stand in the text, written by the model token by token.

As SEAL (Bevilacqua et al., NeurIPS 2022) and GeMKR (arXiv 2401.08206) do, over whatever knows
which tokens may follow a phrase somewhere in the text (a `constraints.clues.ClueIndex`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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
from genmm_retriever.decoding.own_phrases import (
    OwnPhrase,
    Phrase,
    occurring,
    taken,
    whole_counts,
    windows_of,
)
from genmm_retriever.decoding.phrase_scores import Unasked, phrase_scores
from genmm_retriever.errors import InputError, ModelError
from genmm_retriever.identifiers.words import WordEdges
from genmm_retriever.models.base import MLLM, DecodingState, Prompt

Floats = NDArray[np.float64]


def clue_search(
    model: MLLM,
    prompts: Sequence[Prompt],
    views: Sequence[ClueTexts],
    config: ClueConfig | None = None,
    *,
    given: Sequence[Sequence[int]] | None = None,
    seen: Sequence[Mapping[Phrase, float]] | None = None,
    words: WordEdges | None = None,
    unasked: Unasked | None = None,
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
        seen: Phrases for what is seen in each query's picture, with the probability that the
            answer is named so; or None. Those that occur in the text are clues as well.
        words: If given, clues begin and end where words do. Otherwise the beginning of a rare
            word that the tokenizer cuts in pieces passes for a phrase that stands there.
        unasked: Tells what the model says without a query. Each clue then knows how likely it is
            whatever is asked; what is so for most models are single letters and short words.

    Returns:
        For each query its distinct clues, likeliest first; equal ones in order of their
        tokens. Empty where nothing of the text may be found.

    Raises:
        InputError: If there is not one text (and own phrase) a query.
        ModelError: If the model's logits are NaN.
    """
    config = config or ClueConfig()
    for one in (views, given, seen):
        if one is not None and len(one) != len(prompts):
            raise InputError(f"{len(prompts)} prompts need as many texts to look into")
    if not prompts:
        return []
    with torch.no_grad():
        state = model.prefill(prompts)
        search = _Search(model, views, config, words)
        if given is not None or seen is not None:
            nothing: Sequence[Sequence[int]] = [()] * len(prompts)
            search.add_own(state, given or nothing, seen or [{}] * len(prompts))
        search.run(state)
        if unasked is not None:
            search.add_unasked(unasked)
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

    def __init__(
        self,
        model: MLLM,
        views: Sequence[ClueTexts],
        config: ClueConfig,
        words: WordEdges | None,
    ) -> None:
        self.model = model
        self.config = config
        self.words = words
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
        self.copied: list[dict[Phrase, float]] = [{} for _ in views]
        self.written_share = np.ones(queries)
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
        if np.isnan(normaliser).any():
            raise _no_numbers()
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
            raise _no_numbers()
        score = logprob
        if self.config.debias:
            score = logprob - self.config.debias * self._log_frequency(rows, counts)
        possible = np.isfinite(logprob)
        if self.words is not None and len(self.group) and self.group[0] < 0:
            possible &= ~self.words.joined(tokens)
        return _Pairs(rows, tokens, counts, logprob, score).take(np.flatnonzero(possible))

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
        documents, counts = np.zeros((2, len(query)), dtype=np.int64)
        ranges = list(self.ranges)
        of_view = self.view_of[query]
        for i, view in enumerate(self.views):
            mine = np.flatnonzero(of_view == i)
            local = np.searchsorted(self._rows_of(i), kept.rows[mine])
            ranges[i] = view.extend(self.ranges[i], local, kept.tokens[mine])
            documents[mine] = view.document_frequency(ranges[i], MOST_DOCUMENTS)
            counts[mine] = whole_counts(view, ranges[i], self.words)
        if self.words is not None:
            counts[self.words.blank(kept.tokens)] = 0
        # Passages that have the phrase only as the beginning of a longer word are among those
        # counted; more than its whole words they are not.
        many_at_most = np.minimum(documents, counts)
        written = [
            (*self.written[row], token)
            for row, token in zip(kept.rows.tolist(), kept.tokens.tolist(), strict=True)
        ]
        columns = (query, written, kept.logprob, counts, many_at_most)
        for of, phrase, logprob, count, many in zip(*columns, strict=True):
            if count > 0:
                expected = self._expected(of, phrase, float(logprob))
                seen = self._is_seen(of, phrase)
                self.found[of][phrase] = Clue(phrase, expected, int(count), int(many), seen=seen)
        # A phrase that stands in one passage is written on while it is no whole word.
        stop = (documents <= 1) & (counts > 0) & self.config.stop_unique
        going = np.flatnonzero(~stop)
        for i in range(len(self.views)):
            mine = np.flatnonzero(of_view == i)
            self.ranges[i] = taken(ranges[i], np.flatnonzero(~stop[mine]))
        self.query, self.group = query[going], group[going]
        self.written = [written[i] for i in going]
        self.logprob = kept.logprob[going]
        return going

    def add_own(
        self,
        state: DecodingState,
        given: Sequence[Sequence[int]],
        seen: Sequence[Mapping[Phrase, float]],
    ) -> None:
        """Add the phrases of the queries' own words, and of their pictures, that occur."""
        own: list[tuple[int, OwnPhrase]] = []
        for query, (tokens, named) in enumerate(zip(given, seen, strict=True)):
            own += [(query, phrase) for phrase in self._own(query, tokens, named)]
        scored = phrase_scores(self.model, state, [(query, phrase.tokens) for query, phrase in own])
        for query, phrase in own:
            expected = self._expected(query, phrase.tokens, scored[query, phrase.tokens])
            if math.isfinite(expected):
                self.found[query][phrase.tokens] = Clue(
                    phrase.tokens,
                    expected,
                    phrase.count,
                    phrase.documents,
                    given=phrase.tokens not in seen[query],
                    seen=phrase.tokens in seen[query],
                )

    def _own(
        self, query: int, tokens: Sequence[int], named: Mapping[Phrase, float]
    ) -> list[OwnPhrase]:
        """Of one query; notes how likely an answer is to copy each."""
        view, config, copies = self.views[self.view_of[query]], self.config, self.copied[query]
        cut = list(tokens[: config.max_given])
        windows, places = windows_of(view, cut, config.max_tokens, self.words)
        for phrase in windows:
            size = len(phrase.tokens)
            times = sum(tuple(cut[i : i + size]) == phrase.tokens for i in range(len(cut)))
            copies[phrase.tokens] = config.copying * times / places
        names = occurring(view, named, self.words)
        for phrase in names:
            share = config.naming * named[phrase.tokens]
            copies[phrase.tokens] = copies.get(phrase.tokens, 0.0) + share
        self.written_share[query] = 1 - config.copying * bool(cut) - config.naming * bool(named)
        return list({phrase.tokens: phrase for phrase in (*windows, *names)}.values())

    def add_unasked(self, unasked: Unasked) -> None:
        """Note how likely each clue is whatever is asked."""
        scored = unasked.scores(phrase for found in self.found for phrase in found)
        for found in self.found:
            for phrase, clue in found.items():
                found[phrase] = dataclasses.replace(clue, unasked=scored[phrase])

    def _is_seen(self, query: int, phrase: Phrase) -> bool:
        known = self.found[query].get(phrase)
        return known is not None and known.seen

    def _expected(self, query: int, phrase: Phrase, logprob: float) -> float:
        """The log-probability of a phrase, given that an answer may copy or name it."""
        copied = self.copied[query].get(phrase, 0.0)
        if not copied:
            return logprob
        return math.log(self.written_share[query] * math.exp(logprob) + copied)


def _best(query: Ints, score: Floats, width: int) -> Ints:
    """Places of the `width` best of each query, by query and falling score; first come first."""
    order = np.lexsort((-score, query))
    ordered = query[order]
    rank = np.arange(len(order)) - np.searchsorted(ordered, ordered)
    best: Ints = order[rank < width]
    return best


def _no_numbers() -> ModelError:
    return ModelError(
        "the model's logits are not numbers (NaN)", "load it in another dtype, or check it"
    )
