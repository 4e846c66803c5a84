"""The clue index: next tokens with counts, its build, its memory."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.corpora import models
from benchmarks.corpora.identifiers import wordnet_entries
from benchmarks.corpora.text import TextCorpus, package_text
from benchmarks.harness import (
    Bar,
    Benchmark,
    Condition,
    Measurement,
    Options,
    Skipped,
    attempt,
    interleaved,
    quiet_collector,
    spread,
    timed,
)
from benchmarks.peers.brute import next_counts
from benchmarks.peers.suffix_arrays import InfiniGram, Tokengrams, with_separators
from benchmarks.processes import usage
from genmm_retriever.constraints.clues import ClueIndex, ClueView

BEAMS = 15
LONGEST = 6
WANTED = 2 * BEAMS
CORPUS_TOKENS = 50_000_000
Passages = tuple[NDArray[np.uint32], NDArray[np.int64], NDArray[np.int64]]


def corpus(options: Options) -> TextCorpus:
    """Package text in the model's tokens; in quick runs its first million."""
    if options.quick:
        return _invented(400_000, options.seed)
    mllm = models.load(options.model)
    return package_text(
        options.cache,
        Path(options.model).name,
        lambda texts: models.encode_texts(mllm.tokenizer, texts),
        CORPUS_TOKENS,
    )


def _invented(count: int, seed: int) -> TextCorpus:
    """A text of Zipfian words with repeated phrases, which needs no model."""
    draw = np.random.default_rng(seed)
    phrases = np.minimum(draw.zipf(1.2, (4_000, 12)), 40_000)
    tokens = phrases[np.minimum(draw.zipf(1.3, count // 12 + 1) - 1, 3_999)].ravel()[:count]
    offsets = np.append(np.arange(0, count, 1_000), count).astype(np.int64)
    return TextCorpus(tokens.astype(np.uint32), offsets, {"text": "invented", "tokens": count})


def build_index(passages: Passages, vocabulary: int) -> ClueIndex:
    """Our index of them."""
    return ClueIndex.build(*passages, vocab_size=vocabulary)


def warm_up(vocabulary: int) -> None:
    """Compile everything that is compiled on first use."""
    draw = np.random.default_rng(0)
    tokens = draw.integers(0, 50, 2_000).astype(np.uint32)
    offsets = np.arange(0, 2_001, 100, dtype=np.int64)
    view = build_index((tokens, offsets, np.arange(20)), vocabulary).view()
    ranges = view.extend(view.start(1), [0], [int(tokens[0])])
    view.next_tokens(ranges, np.zeros((1, vocabulary), np.float32), 4)
    view.next_tokens(ranges)
    view.document_frequency(ranges)


def contexts(passages: Passages, rounds: int, seed: int) -> list[tuple[int, list[list[int]]]]:
    """Beams as a search sees them: sequences of the text, all of a round equally long."""
    tokens, offsets, _ = passages
    draw = np.random.default_rng(seed)
    long_enough = np.flatnonzero(np.diff(offsets) > LONGEST)
    found = []
    for turn in range(rounds):
        length = 1 + turn % LONGEST
        chosen = draw.choice(long_enough, BEAMS)
        room = offsets[chosen + 1] - offsets[chosen] - length
        starts = offsets[chosen] + (draw.random(BEAMS) * room).astype(np.int64)
        found.append((length, [tokens[at : at + length].tolist() for at in starts]))
    return found


def logits_of(options: Options, vocabulary: int, texts: list[list[int]]) -> NDArray[np.float32]:
    """The model's opinion on what follows, [n, V]; random in quick runs."""
    if options.quick:
        draw = np.random.default_rng(len(texts[0]))
        return draw.normal(size=(len(texts), vocabulary)).astype(np.float32)
    mllm = models.load(options.model)
    with torch.no_grad():
        given = mllm.model(input_ids=torch.tensor(texts)).logits[:, -1]
    return np.ascontiguousarray(given.float().numpy())


def next_tokens(options: Options) -> Measurement:
    """Append a token to each beam and ask what may follow, on one thread."""
    os.environ["RAYON_NUM_THREADS"] = "1"
    notes: list[str] = []
    text = corpus(options)
    passages = text.passages(options.pick(10_000_000, 300_000))
    vocabulary = 49_152 if options.quick else models.load(options.model).vocab_size
    warm_up(vocabulary)
    view = build_index(passages, vocabulary).view()
    peers = _peers(options, passages, notes)
    rounds = contexts(passages, options.pick(120, 6), options.seed)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        seconds, widths = _timed_rounds(options, view, vocabulary, peers, rounds)
        glosses = _glosses(options, vocabulary, notes)
    finally:
        torch.set_num_threads(threads)
    micro = {name: 1e6 * statistics.median(spent) for name, spent in seconds.items()}
    others = {name: micro[name] for name in peers}
    return Measurement(
        micro["ours"],
        others,
        also=[
            *(
                Condition(
                    f"all next tokens at least 20 times as fast as by {name}",
                    value >= 20 * micro["ours, all tokens"],
                )
                for name, value in others.items()
            ),
            *_agreement(view, passages, peers, rounds),
        ],
        details={
            "tokens": len(passages[0]),
            "beams": BEAMS,
            "wanted": WANTED,
            "microseconds": {name: spread([1e6 * s for s in t]) for name, t in seconds.items()},
            "by_length": _by_length(rounds, seconds["ours"]),
            "share_of_ranges_above_4096": float(np.mean(np.array(widths) > 4096)),
            "wordnet_glosses": glosses,
            "text": text.about,
        },
        notes=[
            *notes,
            "ours, as a search asks: the 30 likeliest tokens by the model's logits that follow in"
            " the text, with counts, one token appended to 15 beams; peers: counts of all next"
            " tokens, the sequence looked up anew, infini-gram sampling ranges wider than 1,000;"
            " ours asked like the peers: "
            f"{micro['ours, all tokens']:.3g} microseconds a beam",
        ],
    )


def _timed_rounds(
    options: Options,
    view: ClueView,
    vocabulary: int,
    peers: dict[str, Any],
    rounds: list[tuple[int, list[list[int]]]],
) -> tuple[dict[str, list[float]], list[int]]:
    """Seconds a beam of each way, and how wide the ranges were."""
    seconds: dict[str, list[float]] = {name: [] for name in ("ours", "ours, all tokens", *peers)}
    widths: list[int] = []
    rows = np.arange(BEAMS)
    with quiet_collector():
        for length, beams in rounds:
            logits = logits_of(options, vocabulary, beams)
            ranges = view.start(BEAMS)
            for place in range(length - 1):
                ranges = view.extend(ranges, rows, [beam[place] for beam in beams])
            last = [beam[-1] for beam in beams]
            for name, wanted in (("ours", logits), ("ours, all tokens", None)):
                started = time.perf_counter()
                longer = view.extend(ranges, rows, last)
                view.next_tokens(longer, wanted, WANTED)
                seconds[name].append((time.perf_counter() - started) / BEAMS)
            widths += view.counts(longer).tolist()
            for name, peer in peers.items():
                for beam in beams:
                    started = time.perf_counter()
                    peer.ask(beam)
                    seconds[name].append(time.perf_counter() - started)
    return seconds, widths


def _glosses(options: Options, vocabulary: int, notes: list[str]) -> dict[str, Any] | None:
    """The same over the WordNet glosses, ours alone; None where they were not given."""
    if options.quick:
        return None
    if options.wordnet is None or not options.wordnet.is_file():
        notes.append("WordNet was left out: give --wordnet knowledge/passages.jsonl")
        return None
    texts = [entry["text"] for entry in wordnet_entries(options.wordnet)]
    ids = models.encode_texts(models.load(options.model).tokenizer, texts)
    tokens = np.concatenate([np.array(one, np.uint32) for one in ids])
    offsets = np.concatenate([[0], np.cumsum([len(one) for one in ids])]).astype(np.int64)
    passages = tokens, offsets, np.arange(len(ids))
    view = build_index(passages, vocabulary).view()
    seconds, _ = _timed_rounds(options, view, vocabulary, {}, contexts(passages, 60, options.seed))
    micro = {name: 1e6 * statistics.median(spent) for name, spent in seconds.items()}
    return {"tokens": len(tokens), "passages": len(ids), "microseconds": micro}


def _by_length(rounds: list[tuple[int, list[list[int]]]], seconds: list[float]) -> dict[int, float]:
    found: dict[int, list[float]] = {}
    for (length, _), spent in zip(rounds, seconds, strict=True):
        found.setdefault(length, []).append(1e6 * spent)
    return {length: statistics.median(spent) for length, spent in sorted(found.items())}


def _peers(options: Options, passages: Passages, notes: list[str]) -> dict[str, Any]:
    try:
        stream = with_separators(passages[0], passages[1])
    except Skipped as reason:
        notes.append(f"tokengrams and infini-gram were left out: {reason}")
        return {}
    folder = options.cache / "peers"
    made = {
        "tokengrams": attempt(notes, "tokengrams", lambda: Tokengrams(stream, folder / "tg")),
        "infini-gram": attempt(notes, "infini-gram", lambda: InfiniGram(stream, folder / "ig")),
    }
    return {name: peer for name, peer in made.items() if peer is not None}


def _agreement(
    view: Any,
    passages: Passages,
    peers: dict[str, Any],
    rounds: list[tuple[int, list[list[int]]]],
) -> list[Condition]:
    """Whether all count the same, on some sequences of every length."""
    checked = [beams[0] for _, beams in rounds[: 4 * LONGEST]]
    ours = []
    for sequence in checked:
        _, tokens, counts = view.next_tokens(view.find(sequence))
        ours.append(dict(zip(tokens.tolist(), counts.tolist(), strict=True)))
    plain = [next_counts(passages[0], passages[1], sequence) for sequence in checked[:LONGEST]]
    found = [Condition("the counts are those of a plain scan", plain == ours[:LONGEST])]
    for name, peer in peers.items():
        theirs = [peer.counts(sequence) for sequence in checked]
        same = all(a is None or a == b for a, b in zip(theirs, ours, strict=True))
        found.append(Condition(f"the counts are those of {name} where it gives exact ones", same))
    return found


def build_speed(options: Options) -> Measurement:
    """Tokens a second, from token ids to an index that can be asked."""
    notes: list[str] = []
    passages = corpus(options).passages(options.pick(CORPUS_TOKENS, 300_000))
    count = len(passages[0])
    vocabulary = 49_153
    warm_up(vocabulary)
    times = interleaved(
        {"ours": lambda: build_index(passages, vocabulary)}, repeats=options.pick(2, 1), warm=0
    )
    stream = with_separators(passages[0], passages[1])
    folder = options.cache / "peers"
    peers: dict[str, float | None] = {}
    named: dict[str, Callable[[], Any]] = {
        "tokengrams": lambda: Tokengrams(stream, folder / "tg-build"),
        "infini-gram": lambda: InfiniGram(stream, folder / "ig-build"),
    }
    for name, make in named.items():
        done = attempt(notes, name, partial(_seconds, make))
        peers[name] = None if done is None else count / done
    return Measurement(
        count / statistics.median(times["ours"]),
        peers,
        details={
            "tokens": count,
            "passages": len(passages[2]),
            "seconds": spread(times["ours"]),
        },
        notes=[*notes, "compilation, once an installation, is not counted; peers write to disk"],
    )


def _seconds(make: Callable[[], Any]) -> float:
    return timed(make)[1]


def build_memory(options: Options) -> Measurement:
    """Peak of resident memory during the build, the given token ids included."""
    passages = corpus(options).passages(options.pick(CORPUS_TOKENS, 300_000))
    count = len(passages[0])
    warm_up(49_153)
    with usage() as used:
        index = build_index(passages, 49_153)
    given = sum(array.nbytes for array in passages)
    return Measurement(
        (used.peak + given) / count,
        details={
            "tokens": count,
            "without_the_given_arrays": used.peak / count,
            "index_bytes_a_token": index.nbytes / count,
        },
        notes=["small quick runs are ruled by what does not grow with the text"]
        if options.quick
        else [],
    )


BENCHMARKS = (
    Benchmark(
        "clue_next",
        "next tokens with counts in a text of 10M tokens, one thread, 15 beams",
        "microseconds a beam",
        Bar("<=", 20),
        next_tokens,
    ),
    Benchmark(
        "clue_build",
        "build of the clue index over a text of 50M tokens",
        "tokens a second",
        Bar(">=", 2_000_000),
        build_speed,
    ),
    Benchmark(
        "clue_memory",
        "peak of memory while the clue index over 50M tokens is built",
        "bytes a token",
        Bar("<=", 24),
        build_memory,
    ),
)
