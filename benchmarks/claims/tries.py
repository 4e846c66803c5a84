"""The token trie alone: its memory, its build, its look-ups."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.claims.common import BEAMS, made_up, make_trie, of_wordnet
from benchmarks.corpora import models
from benchmarks.corpora.identifiers import Identifiers, Lexicon, synthetic
from benchmarks.harness import (
    Bar,
    Benchmark,
    Condition,
    Measurement,
    Options,
    attempt,
    interleaved,
    spread,
    timed,
)
from benchmarks.peers.tries import DictTrie, MarisaTrie


def _identifiers(options: Options, count: int) -> Identifiers:
    """In the model's tokens; in quick runs numbered ones, which need no model."""
    if options.quick:
        return synthetic(count, Lexicon.numbered(49_152, 2), seed=options.seed)
    return made_up(models.load(options.model), count, options.seed)


def memory(options: Options) -> Measurement:
    """Bytes that the search keeps on the device, for each identifier."""
    notes: list[str] = []
    count = options.pick(1_000_000, 20_000)
    identifiers = _identifiers(options, count)
    trie = make_trie(identifiers)
    details: dict[str, Any] = {
        "identifiers": len(trie),
        "tokens_an_identifier": identifiers.mean_length,
        "device_bytes": trie.device_nbytes,
        "all_bytes_an_identifier": trie.nbytes / len(trie),
        "branching_nodes_an_identifier": trie.nodes / len(trie),
    }
    peers: dict[str, float | None] = {"dict of dicts": DictTrie(identifiers).nbytes / len(trie)}
    marisa = attempt(notes, "marisa-trie", lambda: MarisaTrie(identifiers))
    peers["marisa-trie"] = None if marisa is None else marisa.nbytes / len(trie)
    if not options.quick:
        entries = of_wordnet(models.load(options.model), options, notes)
        if entries is not None:
            other = make_trie(entries)
            details["wordnet"] = {
                "identifiers": len(other),
                "tokens_an_identifier": entries.mean_length,
                "device_bytes_an_identifier": other.device_nbytes / len(other),
            }
    return Measurement(trie.device_nbytes / len(trie), peers, details=details, notes=notes)


def build(options: Options) -> Measurement:
    """Identifiers a second, from token ids to a trie that can be asked."""
    notes: list[str] = []
    identifiers = _identifiers(options, options.pick(1_000_000, 20_000))
    make_trie(identifiers.first(1000))
    times = interleaved(
        {"ours": lambda: make_trie(identifiers)}, repeats=options.pick(5, 1), warm=0
    )
    peers: dict[str, float | None] = {}
    named: dict[str, Callable[[Identifiers], Any]] = {
        "dict of dicts": DictTrie,
        "marisa-trie": MarisaTrie,
    }
    for name, make in named.items():
        done = attempt(notes, name, partial(_seconds, make, identifiers))
        peers[name] = None if done is None else len(identifiers) / done
    details: dict[str, Any] = {
        "identifiers": len(identifiers),
        "tokens_an_identifier": identifiers.mean_length,
        "seconds": spread(times["ours"]),
    }
    if not options.quick:
        details["ten_million_a_second"] = _ten_million(options)
    return Measurement(
        len(identifiers) / statistics.median(times["ours"]), peers, details=details, notes=notes
    )


def _seconds(make: Callable[[Identifiers], Any], identifiers: Identifiers) -> float:
    return timed(lambda: make(identifiers))[1]


def _ten_million(options: Options) -> float:
    identifiers = _identifiers(options, 10_000_000)
    return len(identifiers) / timed(lambda: make_trie(identifiers))[1]


def look_up(options: Options) -> Measurement:
    """Microseconds a beam for the tokens that may come next, at the depths that a search sees."""
    notes: list[str] = []
    identifiers = _identifiers(options, options.pick(1_000_000, 20_000))
    trie = make_trie(identifiers)
    peers: dict[str, Any] = {"dict of dicts": DictTrie(identifiers)}
    marisa = attempt(notes, "marisa-trie", lambda: MarisaTrie(identifiers))
    if marisa is not None:
        peers["marisa-trie"] = marisa
    draw = np.random.default_rng(options.seed)
    rounds = options.pick(40, 4)
    depths = range(1, 7)
    seconds: dict[str, list[float]] = {name: [] for name in ("ours", *peers)}
    by_depth: dict[int, list[float]] = {depth: [] for depth in depths}
    agree = True
    for _ in range(rounds):
        chosen = draw.integers(0, len(identifiers), BEAMS)
        written = [
            identifiers.tokens[a:b].tolist()
            for a, b in zip(
                identifiers.offsets[chosen], identifiers.offsets[chosen + 1], strict=True
            )
        ]
        state = trie.start(BEAMS)
        rows = torch.arange(BEAMS)
        for depth in depths:
            state = trie.advance(state, rows, torch.tensor([row[depth - 1] for row in written]))
            started = time.perf_counter()
            legal = trie.legal(state)
            seconds["ours"].append((time.perf_counter() - started) / BEAMS)
            by_depth[depth].append(seconds["ours"][-1])
            own = _sets(legal.offsets.numpy(), legal.tokens.numpy())
            for name, peer in peers.items():
                started = time.perf_counter()
                given = [peer.get(row[:depth]) for row in written]
                seconds[name].append((time.perf_counter() - started) / BEAMS)
                agree &= [set(one) for one in given] == own
    micro = {name: 1e6 * statistics.median(spent) for name, spent in seconds.items()}
    mean = {name: 1e6 * statistics.mean(spent) for name, spent in seconds.items()}
    return Measurement(
        micro["ours"],
        {name: value for name, value in micro.items() if name != "ours"},
        also=[Condition("all name the same tokens", agree)],
        details={
            "identifiers": len(identifiers),
            "beams": BEAMS,
            "mean_microseconds": mean,
            "by_depth": {d: 1e6 * statistics.median(spent) for d, spent in by_depth.items()},
        },
        notes=notes,
    )


def _sets(offsets: NDArray[np.int64], tokens: NDArray[np.int64]) -> list[set[int]]:
    return [set(tokens[a:b].tolist()) for a, b in pairwise(offsets)]


BENCHMARKS = (
    Benchmark(
        "trie_memory",
        "device bytes of the trie for each text identifier, 1M identifiers",
        "bytes an identifier",
        Bar("<=", 20),
        memory,
    ),
    Benchmark(
        "trie_build",
        "build of the trie from token ids, 1M identifiers",
        "identifiers a second",
        Bar(">=", 500_000),
        build,
    ),
    Benchmark(
        "trie_lookup",
        "legal next tokens of a beam, 1M identifiers, 20 beams at once",
        "microseconds a beam",
        None,
        look_up,
    ),
)
