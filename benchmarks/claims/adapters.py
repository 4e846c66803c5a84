"""What query adapters add: rewriting, expansion, and rounds of reasoning, over Flickr8k's dev."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.claims.asking import (
    QUICK_QUERIES,
    TEN,
    Arm,
    ask,
    dev_photos,
    gained,
    open_photos,
    queries_of,
    shown,
)
from benchmarks.corpora import models
from benchmarks.corpora.photos import Made, Photo
from benchmarks.corpora.underspecified import underspecified_queries
from benchmarks.corpora.verbose import verbose_queries
from benchmarks.harness import Bar, Benchmark, Condition, Measurement, Options
from genmm_retriever.querying import adapted

PLAIN = "plain"
BARE = "bare captions"
REWRITTEN = "rewritten"
EXPANDED = "expand:3"
ROUNDS = ("reason:1", "reason:2", "reason:3")
_NOTES = (
    "the model of the index rewrites, expands and reasons; the builtin one writes captions that"
    " it imagines, and cannot judge what was found",
    "recalls in percent and differences in percentage points, each with its 95% interval",
)


def query_rewriting(options: Options) -> Measurement:
    """Wordy requests as they are, rewritten, and the bare captions inside them as the ceiling."""
    photos = dev_photos(options)
    made = verbose_queries(photos, number=options.pick(150, QUICK_QUERIES), seed=options.seed)
    ways = {PLAIN: (), REWRITTEN: ("rewrite",)}
    arms = _arms(options, photos, made, ways, twins=BARE)
    return _gain(arms, REWRITTEN, PLAIN, peers=[BARE])


def query_expansion(options: Options) -> Measurement:
    """Underspecified queries as they are, and with three expansions."""
    arms = _underspecified(options, {PLAIN: (), EXPANDED: (EXPANDED,)}, 100)
    return _gain(arms, EXPANDED, PLAIN)


def reasoning_rounds(options: Options) -> Measurement:
    """Underspecified queries as they are, and with one to three rounds of reasoning.

    A search may end before its last round, when its first hit stays or is far ahead.
    """
    arms = _underspecified(options, {PLAIN: (), **{name: (name,) for name in ROUNDS}}, 200)
    return _gain(arms, ROUNDS[2], ROUNDS[0], peers=[ROUNDS[1]])


def _underspecified(
    options: Options, ways: Mapping[str, Sequence[str]], number: int
) -> dict[str, Arm]:
    photos = dev_photos(options)
    made = underspecified_queries(
        photos, number=options.pick(number, QUICK_QUERIES), seed=options.seed
    )
    return _arms(options, photos, made, ways)


def _arms(
    options: Options,
    photos: Sequence[Photo],
    made: Made,
    ways: Mapping[str, Sequence[str]],
    *,
    twins: str | None = None,
) -> dict[str, Arm]:
    """A set's queries by each way, which names adapters, and its twins as they are."""
    queries = queries_of(made.records)
    with open_photos(options, models.load(options.model), photos, queries) as retriever:
        arms = {name: ask(adapted(retriever, names), queries) for name, names in ways.items()}
        if twins is not None:
            arms[twins] = ask(retriever, queries_of(made.twins))
    return arms


def _gain(arms: dict[str, Arm], better: str, base: str, peers: Sequence[str] = ()) -> Measurement:
    """R@10 of one arm minus that of another; the claim holds if its interval is above nought."""
    value, low, _ = gained(arms[better], arms[base])[TEN]
    first = next(iter(arms))
    pairs = [(name, first) for name in arms if name != first]
    pairs += [(name, base) for name in arms if base != first and name not in (first, base)]
    return Measurement(
        value,
        peers={name: gained(arms[name], arms[base])[TEN][0] for name in peers},
        also=[Condition("the lower end of the paired 95% interval is above 0", low > 0)],
        details=shown(arms, *pairs),
        notes=_NOTES,
    )


BENCHMARKS = (
    Benchmark(
        "query_rewriting",
        "captions inside wordy requests: R@10 with the rewriter minus R@10 without; the peer is"
        " the same gain of the bare captions, the ceiling",
        "percentage points",
        Bar(">", 0),
        query_rewriting,
    ),
    Benchmark(
        "query_expansion",
        "underspecified queries: R@10 with three expansions minus R@10 without",
        "percentage points",
        Bar(">", 0),
        query_expansion,
    ),
    Benchmark(
        "reasoning_rounds",
        "underspecified queries: R@10 after at most three rounds of reasoning minus R@10 after"
        " one; the peer is the same gain of two rounds",
        "percentage points",
        Bar(">", 0),
        reasoning_rounds,
    ),
)
