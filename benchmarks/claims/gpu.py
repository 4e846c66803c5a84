"""The same steps on a GPU; skipped with a word where there is none."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.claims.common import make_trie
from benchmarks.claims.qwen import END, VOCABULARY, random_qwen
from benchmarks.corpora.identifiers import Identifiers, Lexicon, synthetic
from benchmarks.harness import Bar, Benchmark, Condition, Measurement, Options, Skipped, spread
from benchmarks.peers.static_csr import StaticTrie
from benchmarks.watch import watching
from genmm_retriever.constraints import TokenTrie
from genmm_retriever.decoding import BeamConfig, constrained_beam_search

BEAMS = 140
_STATIC_LEVEL = 3


def _needs_cuda() -> None:
    if not torch.cuda.is_available():
        raise Skipped("there is no CUDA device on this machine")


def select_next(
    trie: TokenTrie, state: Any, logprobs: Tensor, scores: Tensor, beams: int
) -> tuple[Tensor, Tensor, Any]:
    """One step of our search without its model: legal tokens, their scores, the best, onwards.

    Args:
        trie: The constraint.
        state: n rows of one query.
        logprobs: [n, V].
        scores: [n].
        beams: How many to keep.

    Returns:
        Parents and tokens of the best, and their rows.
    """
    legal = trie.legal(state)
    score = scores[legal.rows] + logprobs[legal.rows, legal.tokens]
    where = score.topk(min(beams, len(score))).indices
    parents, tokens = legal.rows[where], legal.tokens[where]
    return parents, tokens, trie.advance(state, parents, tokens)


def _stand(trie: TokenTrie, identifiers: Identifiers, depth: int, device: str) -> Any:
    """Rows of one query that have written the beginnings of some identifiers."""
    draw = np.random.default_rng(0)
    chosen = draw.choice(len(identifiers), BEAMS, replace=False)
    state = trie.start(1, device=device)
    parents = torch.zeros(BEAMS, dtype=torch.int64, device=device)
    for place in range(depth):
        tokens = torch.from_numpy(
            identifiers.tokens[identifiers.offsets[chosen] + place].astype(np.int64)
        )
        state = trie.advance(state, parents, tokens.to(device))
        parents = torch.arange(BEAMS, device=device)
    return state


def step(options: Options) -> Measurement:
    """Mask and selection of one step, at the first depths of the trie."""
    _needs_cuda()
    return measured_step(options.pick(10_000_000, 100_000), options.seed, "cuda")


def measured_step(count: int, seed: int, device: str) -> Measurement:
    """The measurement of `step`, on any device."""
    identifiers = synthetic(count, Lexicon.numbered(VOCABULARY, END), seed=seed)
    trie = make_trie(identifiers)
    draw = torch.Generator(device=device).manual_seed(seed)
    logprobs = torch.randn(BEAMS, VOCABULARY, device=device, generator=draw).log_softmax(-1)
    scores = -torch.rand(BEAMS, device=device, generator=draw)
    ours: list[float] = []
    by_depth = {}
    for depth in range(1, 7):
        state = _stand(trie, identifiers, depth, device)
        times = _microseconds(partial(select_next, trie, state, logprobs, scores, BEAMS), device)
        by_depth[depth] = statistics.median(times)
        ours += times
    fixed = identifiers.cut(8)
    static = StaticTrie.build(fixed, device)
    kernel = partial(
        static.step, logprobs, scores, _static_states(static, _STATIC_LEVEL), _STATIC_LEVEL, BEAMS
    )
    peers = {"STATIC": statistics.median(_microseconds(kernel, device))}
    if device == "cuda":
        peers["STATIC in a CUDA graph"] = _graphed(kernel)
    value = statistics.median(ours)
    return Measurement(
        value,
        peers,
        also=[Condition("faster than STATIC on this card", value < min(peers.values()))],
        details={
            "identifiers": count,
            "beams": BEAMS,
            "vocabulary": VOCABULARY,
            "microseconds": spread(ours),
            "by_depth": by_depth,
            "device_bytes_an_identifier": trie.device_nbytes / len(trie),
            "static_bytes_an_identifier": static.nbytes / len(fixed),
            "static_identifiers": len(fixed),
            "static_widest": static.widest,
        },
        notes=[
            "STATIC is written anew from its paper, over the same identifiers cut to 8 tokens; its"
            " dense second level does not fit beside a vocabulary of 152k, so its sparse kernel"
            " is timed, at the fourth token"
        ],
    )


def _static_states(static: StaticTrie, level: int) -> Tensor:
    draw = np.random.default_rng(0)
    first, end = static.first[level], static.first[level + 1]
    return torch.from_numpy(draw.integers(first, end, BEAMS)).to(static.pairs.device)


def _microseconds(work: Callable[[], Any], device: str, repeats: int = 200) -> list[float]:
    """Wall time of single calls, the device waited for."""

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    for _ in range(20):
        work()
    found = []
    for _ in range(repeats):
        wait()
        started = time.perf_counter()
        work()
        wait()
        found.append(1e6 * (time.perf_counter() - started))
    return found


def _graphed(work: Callable[[], Any]) -> float:
    """Microseconds of a captured call."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return statistics.median(_microseconds(graph.replay, "cuda"))


def decode(options: Options) -> Measurement:
    """Whole searches of a real-size model with random weights and a random picture."""
    _needs_cuda()
    sizes = (1_000, 100_000) if options.quick else (10_000, 1_000_000, 10_000_000)
    widths = (20,) if options.quick else (20, 50, 140)
    mllm = random_qwen("2B" if options.quick else "4B", "cuda")
    identifiers = synthetic(sizes[-1], Lexicon.numbered(VOCABULARY, END), seed=options.seed)
    prompt = mllm.picture_prompt("a black dog runs over the grass")
    rows = []
    for size in sizes:
        trie = make_trie(identifiers.first(size))
        for beams in widths:
            rows.append(_decode_row(mllm, prompt, trie, beams, options.pick(5, 2)))
    share = statistics.median(row["share_percent"] for row in rows)
    return Measurement(
        share,
        details={"model": mllm.name, "picture_tokens": mllm.picture_tokens, "table": rows},
        notes=["random weights: times are those of the real model, results mean nothing"],
    )


def _decode_row(
    mllm: Any, prompt: Any, trie: TokenTrie, beams: int, repeats: int
) -> dict[str, Any]:
    config = BeamConfig(num_beams=beams, debias=0.0, num_hypotheses=10)
    constrained_beam_search(mllm, [prompt], trie, config=config)
    seconds, shares, passes = [], [], 0
    for _ in range(repeats):
        torch.cuda.synchronize()
        started = time.perf_counter()
        constrained_beam_search(mllm, [prompt], trie, config=config)
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
        with watching(mllm) as watch:
            started = time.perf_counter()
            constrained_beam_search(mllm, [prompt], trie, config=config)
            whole = time.perf_counter() - started
        rest, modules, _ = watch.after_prompt(whole)
        shares.append(100 * (1 - modules / rest))
        passes = watch.passes
    return {
        "identifiers": len(trie),
        "beams": beams,
        "passes": passes,
        "milliseconds": 1e3 * statistics.median(seconds),
        "share_percent": statistics.median(shares),
    }


BENCHMARKS = (
    Benchmark(
        "gpu_step",
        "mask and selection of a step on a GPU, 140 beams, V = 152k, 10M identifiers",
        "microseconds a step",
        Bar("<=", 30),
        step,
    ),
    Benchmark(
        "gpu_decode",
        "whole searches on a GPU, Qwen3-VL with random weights: what is not the model",
        "% of the search",
        None,
        decode,
    ),
)
