"""From clues to items, in the form of SEAL (Bevilacqua et al., NeurIPS 2022).

A clue n weighs `w(n) = max(0, log[p(n|q) (1 - p(n)) / (p(n) (1 - p(n|q)))]) ** a`, where p(n) is
its smoothed frequency in the text, or what the model gives it whatever is asked if that is more:
what it likes to write is no clue. A passage scores the sum over the clues that cover it without
overlap, heaviest first, each times `1 - b + b * new / distinct`: of its distinct tokens those
count in full that no heavier clue of the passage has.

Of the names for what is seen in the query's picture only the heaviest counts in a passage: they
are alternatives, and a passage is not likelier meant for being about two of them.

Clues that the query makes no likelier weigh nothing. What they alone name comes behind all the
rest, in order of their log-odds: in a small text, or for a hesitant model, that is better than
no order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genmm_retriever.decoding.clue_types import PRIOR, Clue, ClueTexts, Ints, smoothing
from genmm_retriever.decoding.matching import occurrences
from genmm_retriever.decoding.own_phrases import taken
from genmm_retriever.errors import InputError
from genmm_retriever.identifiers.words import WordEdges

_CERTAIN = -1e-9
"""Log-probabilities are cut here, so that a phrase that is certain has a finite weight."""


@dataclass(frozen=True)
class CoverConfig:
    """How clues add up.

    Attributes:
        exponent: a, of the log-odds.
        repetition: b, what a token costs that a heavier clue of the passage has already.
        prior: Smooths the frequencies; None as for `decoding.clue_types.smoothing`.
        most_hits: Clues that occur more often do not nominate passages; they count in those
            that others have nominated.
        passages: Nominated passages that are scored in full.
        later: What a name for what is seen costs, in nats, where it does not begin the passage:
            a thing is meant by its title sooner than by a further name.

    Raises:
        InputError: If a value is out of range.
    """

    exponent: float = 2.0
    repetition: float = 0.8
    prior: float | None = PRIOR
    most_hits: int = 1500
    passages: int = 500
    later: float = 0.5

    def __post_init__(self) -> None:
        if not (math.isfinite(self.exponent) and self.exponent > 0):
            raise InputError(f"exponent is {self.exponent}", "give a finite number above 0")
        if not 0 <= self.repetition <= 1:
            raise InputError(f"repetition is {self.repetition}", "give a number from 0 to 1")
        if self.prior is not None and not 0 <= self.prior < math.inf:
            raise InputError(f"prior is {self.prior}", "give a finite number of at least 0")
        if not 0 <= self.later < math.inf:
            raise InputError(f"later is {self.later}", "give a finite number of at least 0")
        for name in ("most_hits", "passages"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}", "give 1 or more")


@dataclass(frozen=True)
class FoundClue:
    """A clue in a passage.

    Attributes:
        clue: What was written.
        score: What it adds to the passage's sum.
        places: Where it begins in the passage and covers it, in tokens, ascending.
    """

    clue: Clue
    score: float
    places: tuple[int, ...]


@dataclass(frozen=True)
class ClueCandidate:
    """An item that clues name.

    Attributes:
        row: The item.
        score: Of its best passage: the sum of its clues' scores to the power 1 / a, so that a
            single clue scores its log-odds in nats. Where no clue weighs anything the log-odds
            of the best one, at most 0.
        passage: The best passage; equal ones: the first.
        clues: The clues that cover it, heaviest first; if none weighs anything the best one.
    """

    row: int
    score: float
    passage: int
    clues: tuple[FoundClue, ...]


def clue_weight(
    logprob: float, count: int, tokens: int, exponent: float = 2.0, prior: float = PRIOR
) -> float:
    """w(n): how much likelier the query makes a phrase than the text does.

    Args:
        logprob: log p(n | query), nats.
        count: Occurrences in the text.
        tokens: Length of the text.
        exponent: a.
        prior: Added to both sides of the frequency.

    Examples:
        >>> round(clue_weight(math.log(0.5), 5, 995), 4)  # (log 1 - log(0.01 / 0.99)) ** 2
        21.1151
        >>> clue_weight(math.log(0.001), 5, 995)  # likelier without the query
        0.0
    """
    return float(max(0.0, _gain(logprob, count, tokens, prior)) ** exponent)


def _gain(
    logprob: float, count: int, tokens: int, prior: float, unasked: float = -math.inf
) -> float:
    """The log-odds of a phrase given the query less those in the text."""
    frequency = math.log((count + prior) / (tokens + prior))
    return _log_odds(logprob) - _log_odds(max(frequency, unasked))


def _log_odds(logprob: float) -> float:
    logprob = min(logprob, _CERTAIN)
    return logprob - math.log(-math.expm1(logprob))


def cover_passages(
    view: ClueTexts,
    passage_tokens: Callable[[int], NDArray[Any]],
    clues: Sequence[Clue],
    config: CoverConfig | None = None,
    *,
    words: WordEdges | None = None,
) -> list[ClueCandidate]:
    """The items that a query's clues name.

    An item is worth its best passage: the scores are sums of squared log-odds and no
    log-probabilities, so a logsumexp would be their maximum but for rounding, a sum would favour
    long items, and the overlap of neighbouring passages would count twice.

    Args:
        view: The text that the clues were written over.
        passage_tokens: Gives the tokens of a passage.
        clues: Of one query, distinct.
        config: The defaults if None.
        words: If given, a clue covers only whole words.

    Returns:
        One candidate an item, best first. Of equal scores first those whose heaviest clue stands
        earlier, in the title rather than among further names; then in the order of their rows.
    """
    config = config or CoverConfig()
    size = int(view.counts(view.start(1))[0])
    prior = smoothing(config.prior, size)
    gains = [(_gain(c.logprob, c.count, size, prior, c.unasked), c) for c in clues]
    keys = sorted(
        (pair for pair in gains if pair[0] > -math.inf),
        key=lambda pair: (-pair[0], -len(pair[1].tokens), pair[1].tokens),
    )
    if not keys:
        return []
    nominated, items = _nominated(view, keys, config, words)
    best: dict[int, ClueCandidate] = {}
    texts = [np.asarray(passage_tokens(p), dtype=np.int64) for p in nominated.tolist()]
    places = occurrences(texts, [clue.tokens for _, clue in keys])
    columns = zip(nominated.tolist(), items.tolist(), texts, places, strict=True)
    for passage, item, text, found in columns:
        whole = found if words is None else _whole(keys, found, words.joined(text))
        score, covering = _cover(keys, whole, config)
        if not covering:
            continue
        candidate = ClueCandidate(item, score, passage, covering)
        known = best.get(item)
        if known is None or (-candidate.score, passage) < (-known.score, known.passage):
            best[item] = candidate
    return sorted(best.values(), key=lambda c: (-c.score, c.clues[0].places[0], c.row))


def _nominated(
    view: ClueTexts,
    keys: Sequence[tuple[float, Clue]],
    config: CoverConfig,
    words: WordEdges | None,
) -> tuple[Ints, Ints]:
    """The passages that are scored in full, by id, and their items.

    They are ranked by the plain sum of their clues' weights, which no cover by these clues
    exceeds; those of equal sums by their best clue.
    """
    naming = [(gain, clue) for gain, clue in keys if clue.count <= config.most_hits]
    passages, items, gains = [np.empty(0, np.int64)], [np.empty(0, np.int64)], [np.empty(0)]
    for gain, found, of in _lookups(view, naming, config.most_hits, words):
        passages.append(np.asarray(found, dtype=np.int64))
        items.append(np.asarray(of, dtype=np.int64))
        gains.append(np.full(len(found), gain))
    ids, first, inverse = np.unique(
        np.concatenate(passages), return_index=True, return_inverse=True
    )
    gain_of = np.concatenate(gains)
    totals = np.bincount(inverse, np.maximum(gain_of, 0) ** config.exponent, len(ids))
    highest = np.full(len(ids), -np.inf)
    np.maximum.at(highest, inverse, gain_of)
    best = np.sort(np.lexsort((ids, -highest, -totals))[: config.passages])
    return ids[best], np.concatenate(items)[first[best]]


def _lookups(
    view: ClueTexts, keys: Sequence[tuple[float, Clue]], limit: int, words: WordEdges | None
) -> list[tuple[float, Ints, Ints]]:
    """Log-odds, passages and items of each key; all keys of a length are looked up together."""
    found = []
    ranges = view.start(len(keys))
    alive = np.arange(len(keys))
    length = 0
    while len(alive):
        counts = view.counts(ranges).tolist()
        for local, key in enumerate(alive.tolist()):
            gain, clue = keys[key]
            if len(clue.tokens) != length:
                continue
            if words is None or counts[local] <= limit:
                found.append((gain, *view.passages_of(ranges, local, limit)))
            else:
                found.append((gain, *_passages_of_words(view, ranges, local, limit, words)))
        local_rows = np.array(
            [i for i, key in enumerate(alive.tolist()) if len(keys[key][1].tokens) > length],
            dtype=np.int64,
        )
        alive = alive[local_rows]
        if len(alive):
            following = np.array([keys[key][1].tokens[length] for key in alive.tolist()])
            ranges = view.extend(ranges, local_rows, following)
        length += 1
    return found


def _passages_of_words(
    view: ClueTexts, ranges: Any, row: int, limit: int, words: WordEdges
) -> tuple[Ints, Ints]:
    """As `passages_of`, of a phrase that begins other words more often than `limit`.

    Those passages are left out where its last word goes on, or the rare word would drown in them.
    One that it ends, and where it stands elsewhere within a word too, may be missed.
    """
    one = taken(ranges, np.array([row]))
    _, tokens, counts = view.next_tokens(one, None, 0)
    on = words.joined(tokens)

    def behind(chosen: Ints, most: int | None) -> Ints:
        further = view.extend(one, np.zeros(len(chosen), dtype=np.int64), chosen)
        each = [np.stack(view.passages_of(further, i, most)) for i in range(len(chosen))]
        return np.concatenate([np.zeros((2, 0), dtype=np.int64), *each], axis=1)

    found = behind(tokens[~on], limit)
    if int(view.counts(one)[0]) > int(counts.sum()):
        everywhere = np.stack(view.passages_of(one, 0, None))
        within = behind(tokens[on], None)[0]
        ending = everywhere[:, ~np.isin(everywhere[0], within)]
        found = np.concatenate([found, ending], axis=1)
    passages, first = np.unique(found[0], return_index=True)
    return passages[:limit], found[1][first][:limit]


def _whole(
    keys: Sequence[tuple[float, Clue]],
    found: Sequence[tuple[int, list[int]]],
    joined: NDArray[np.bool_],
) -> list[tuple[int, list[int]]]:
    """The places whose last word does not go on behind them.

    Args:
        keys: Log-odds and clues.
        found: Keys that occur, with the places where they begin.
        joined: Whether each token of the passage goes on with the word before it.
    """
    ends = np.append(~joined, True)
    whole = []
    for key, places in found:
        size = len(keys[key][1].tokens)
        if left := [place for place in places if ends[place + size]]:
            whole.append((key, left))
    return whole


def _cover(
    keys: Sequence[tuple[float, Clue]],
    found: Sequence[tuple[int, Sequence[int]]],
    config: CoverConfig,
) -> tuple[float, tuple[FoundClue, ...]]:
    """The greedy cover of one passage: its score and the clues that make it.

    Args:
        keys: Log-odds and clues, best first.
        found: Keys that occur, ascending, with the places where they begin, ascending.
        config: How clues add up.
    """
    taken = 0  # a bit a token of the passage
    seen: set[int] = set()
    covering: list[FoundClue] = []
    for key, places in found:
        gain, clue = keys[key]
        if gain <= 0 and covering:
            break
        if clue.seen and any(one.clue.seen for one in covering):
            continue
        span = (1 << len(clue.tokens)) - 1
        own = []
        for place in places:
            if not taken & (span << place):
                taken |= span << place
                own.append(place)
        if gain <= 0:
            return gain, (FoundClue(clue, 0.0, tuple(own)),)
        if own:
            distinct = set(clue.tokens)
            fresh = len(distinct - seen) / len(distinct)
            seen |= distinct
            share = 1 - config.repetition + config.repetition * fresh
            if clue.seen and own[0] > 0:
                gain = max(0.0, gain - config.later)
            covering.append(FoundClue(clue, share * gain**config.exponent, tuple(own)))
    total = math.fsum(one.score for one in covering)
    return total ** (1 / config.exponent), tuple(covering)
