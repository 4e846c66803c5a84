"""The search end to end: what it adds to the model, and what others take for the same."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from benchmarks.claims.against_generate import DICT, SLACK, generated
from benchmarks.claims.common import (
    BEAMS,
    WANTED,
    made_up,
    make_trie,
    model_of,
    of_wordnet,
    searcher,
)
from benchmarks.corpora.models import prompts
from benchmarks.harness import (
    Bar,
    Benchmark,
    Condition,
    Measurement,
    Options,
    interleaved,
    quiet_collector,
    spread,
)
from benchmarks.peers.brute import score_all
from benchmarks.peers.tries import DictTrie
from benchmarks.watch import Watch, watching
from genmm_retriever.models.base import Prompt


def step_share(options: Options) -> Measurement:
    """What is done outside the model's methods, after the prompt's own pass.

    That is all of constraint and selection: legal continuations, their scores out of the
    normalised logits, which of them stay, and what becomes of them. Beside it everything but
    torch modules is told: it adds what decoding without a constraint needs, too, the normaliser
    over the vocabulary and the laying out of the rows of a pass.
    """
    mllm = model_of(options)
    identifiers = made_up(mllm, options.pick(1_000_000, 20_000), options.seed)
    search = searcher(mllm, make_trie(identifiers))
    asked = prompts(options.pick(10, 2))
    for prompt in asked[:2]:
        search(prompt)
    shares, outside, passes, steps = [], [], [], []
    with quiet_collector():
        for _ in range(options.pick(3, 1)):
            for prompt in asked:
                with watching(mllm) as watch:
                    started = time.perf_counter()
                    search(prompt)
                    whole = time.perf_counter() - started
                rest, modules, methods = watch.after_prompt(whole)
                shares.append(100 * (1 - modules / rest))
                outside.append(100 * (1 - methods / rest))
                passes.append(watch.passes)
                steps.append(1e3 * rest / max(1, watch.passes - 1))
    return Measurement(
        statistics.median(outside),
        details={
            "identifiers": len(identifiers),
            "beams": BEAMS,
            "share_percent": spread(outside),
            "share_outside_torch_modules_percent": spread(shares),
            "milliseconds_a_pass": statistics.median(steps),
            "passes": statistics.mean(passes),
        },
        notes=[
            "the share holds all time after the prompt's pass outside the model's methods; outside"
            " torch modules there are also the normaliser over the vocabulary and the laying out"
            " of rows, which decoding without a constraint needs, too",
        ],
    )


def corpus_growth(options: Options) -> Measurement:
    """The same queries over a large and a small corpus."""
    mllm = model_of(options)
    large = made_up(mllm, options.pick(1_000_000, 20_000), options.seed)
    small = large.first(1_000)
    searches = {len(one): searcher(mllm, make_trie(one)) for one in (small, large)}
    tries = {len(one): DictTrie(one) for one in (small, large)}
    longest = int(np.diff(large.offsets).max())
    asked = prompts(options.pick(10, 1))
    ours = dict.fromkeys(searches, 0.0)
    theirs = dict.fromkeys(searches, 0.0)
    for place, prompt in enumerate(asked):
        ways: dict[str, Any] = {
            f"ours {size}": partial(search, prompt) for size, search in searches.items()
        }
        if place < options.pick(3, 1):
            ways |= {
                f"theirs {size}": partial(generated, mllm, prompt, trie, longest)
                for size, trie in tries.items()
            }
        times = interleaved(ways, repeats=options.pick(5, 1), warm=options.pick(1, 0))
        for size in searches:
            ours[size] += statistics.median(times[f"ours {size}"])
            theirs[size] += statistics.median(times.get(f"theirs {size}", [0.0]))
    return Measurement(
        ours[len(large)] / ours[len(small)],
        peers={DICT: theirs[len(large)] / theirs[len(small)]},
        details={
            "identifiers": [len(small), len(large)],
            "seconds_a_query": {size: spent / len(asked) for size, spent in ours.items()},
        },
    )


def forward_passes(options: Options) -> Measurement:
    """Passes of the model for one query whose identifiers all have 16 tokens."""
    mllm = model_of(options)
    notes: list[str] = []
    identifiers = made_up(mllm, options.pick(1_000_000, 20_000), options.seed).of_length(16)
    asked = prompts(options.pick(10, 2))
    search = searcher(mllm, make_trie(identifiers))
    counts = [_watched(mllm, partial(search, prompt)).passes for prompt in asked]
    trie = DictTrie(identifiers)
    theirs = _watched(mllm, lambda: generated(mllm, asked[0], trie, 16)).passes
    details: dict[str, Any] = {
        "identifiers": len(identifiers),
        "beams": BEAMS,
        "most": max(counts),
        "each": counts,
    }
    entries = of_wordnet(mllm, options, notes)
    if entries is not None:
        search = searcher(mllm, make_trie(entries))
        found = [_watched(mllm, partial(search, prompt)).passes for prompt in asked]
        details["wordnet"] = {"mean": statistics.mean(found), "tokens": entries.mean_length}
    return Measurement(
        statistics.mean(counts),
        peers={"transformers generate": float(theirs)},
        details=details,
        notes=[*notes, "the prompt's own pass is counted"],
    )


def _watched(mllm: Any, work: Callable[[], Any]) -> Watch:
    with watching(mllm) as watch:
        work()
    return watch


def brute_force(options: Options) -> Measurement:
    """Against scoring every identifier in full, the prompt run once."""
    mllm = model_of(options)
    notes: list[str] = []
    entries = of_wordnet(mllm, options, notes)
    whole = made_up(mllm, 50_000, options.seed) if entries is None else entries
    draw = np.random.default_rng(options.seed)
    kept = np.sort(draw.permutation(len(whole))[: options.pick(2_000, 100)])
    identifiers = whole.rows(kept)
    search = searcher(mllm, make_trie(identifiers))
    ratios, best, shared = [], [], []
    for prompt in prompts(options.pick(2, 1)):
        found: dict[str, Any] = {}

        def beam(prompt: Prompt = prompt, found: dict[str, Any] = found) -> None:
            found["beam"] = search(prompt)

        def brute(prompt: Prompt = prompt, found: dict[str, Any] = found) -> None:
            found["brute"] = score_all(mllm, prompt, identifiers)

        beam()
        times = interleaved({"beam": beam, "brute": brute}, repeats=1, warm=0)
        ratios.append(times["brute"][0] / times["beam"][0])
        order = np.argsort(-found["brute"], kind="stable")[:WANTED]
        top = [hypothesis.items[0] for hypothesis in found["beam"]]
        best.append(bool(found["brute"][order[0]] - found["brute"][top[0]] <= SLACK))
        shared.append(len(set(order.tolist()) & set(top)))
    return Measurement(
        statistics.median(ratios),
        also=[Condition("the beam's best is the best of all", all(best))],
        details={
            "identifiers": len(identifiers),
            "of": whole.name,
            "shared_of_best_ten": shared,
        },
        notes=[*notes, "the ratio grows with the number of identifiers"],
    )


BENCHMARKS = (
    Benchmark(
        "step_share",
        "what constraint and selection add to a decoding step, 1M identifiers, 20 beams",
        "% of a step",
        Bar("<=", 3),
        step_share,
    ),
    Benchmark(
        "corpus_growth",
        "time of a whole decode at 1M identifiers over that at 1k, 20 beams",
        "ratio",
        Bar("<=", 1.5),
        corpus_growth,
    ),
    Benchmark(
        "forward_passes",
        "forward passes for a 16-token identifier, 20 beams",
        "passes",
        Bar("<=", 6),
        forward_passes,
    ),
    Benchmark(
        "brute_force",
        "beam search against scoring every identifier in full",
        "times as fast",
        None,
        brute_force,
    ),
)
