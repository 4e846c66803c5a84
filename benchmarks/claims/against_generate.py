"""What transformers takes for the same ten identifiers: `generate` over a dict trie."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from benchmarks.claims.common import BEAMS, WANTED, made_up, make_trie, model_of, searcher
from benchmarks.claims.qwen import END, VOCABULARY, random_qwen
from benchmarks.corpora.identifiers import Identifiers, Lexicon, synthetic
from benchmarks.corpora.models import QUERIES, picture_prompts, prompts
from benchmarks.harness import (
    Bar,
    Benchmark,
    Condition,
    Measurement,
    Options,
    attempt,
    interleaved,
)
from benchmarks.peers.generate import constrained_generate
from benchmarks.peers.tries import DictTrie, MarisaTrie, PrefixTrie
from benchmarks.watch import watching
from genmm_retriever.decoding import Hypothesis
from genmm_retriever.models.base import Prompt

DICT = "transformers generate, dict trie"
UNPACKED = "ours, layers as transformers has them"
SLACK = 0.05
"""Nats that rounding in another batch shape may cost an identifier's score."""
_NOTE = (
    "gain: nats by which our ten score better than theirs on average; tokens: fed to the model,"
    " padding included"
)


def generated(mllm: Any, prompt: Prompt, trie: PrefixTrie, longest: int) -> list[Any]:
    """The best identifiers by `generate`, under the settings of our search."""
    return constrained_generate(mllm, prompt, trie, beams=BEAMS, wanted=WANTED, longest=longest)


def generate_speed(options: Options) -> Measurement:
    """One prompt to its ten best identifiers, by our search and by `generate`."""
    mllm = model_of(options)
    notes: list[str] = []
    identifiers = made_up(mllm, options.pick(1_000_000, 5_000), options.seed)
    tries: dict[str, PrefixTrie] = {DICT: DictTrie(identifiers)}
    marisa = attempt(notes, "marisa-trie", lambda: MarisaTrie(identifiers))
    if marisa is not None:
        tries["transformers generate, marisa-trie"] = marisa
    many = options.pick(4, 1)
    asked = {"text": prompts(many), "picture": picture_prompts(mllm, many)}
    notes += [
        f"text and picture queries in equal parts; {_NOTE}",
        "generate runs the model as transformers loads it; ours scores the identifiers left under"
        " its beams at once when they are few",
        "generate runs the prompt once a beam and takes a pass a token, with few tokens in each:"
        " where prompts are a dozen or two of tokens, as the builtin model's are, that is all"
        " there is to save; see generate_speed_pictures for prompts as long as larger models have",
    ]
    return compared(mllm, asked, identifiers, tries, options, notes, repeats=options.pick(3, 1))


def generate_speed_pictures(options: Options) -> Measurement:
    """The same for a model whose pictures are as many tokens as large models read.

    Its vision tower is small, since `generate` runs it once a beam and we once: what is compared
    is decoding. Weights are drawn at random: times are those of a trained model of its size.
    """
    mllm = random_qwen("tiny" if options.quick else "0.6B", "cpu")
    lexicon = Lexicon.numbered(VOCABULARY, END)
    identifiers = synthetic(options.pick(1_000_000, 5_000), lexicon, seed=options.seed)
    asked = {
        "picture and text": [mllm.picture_prompt(one) for one in QUERIES[: options.pick(3, 1)]]
    }
    notes = [f"{mllm.name}, a picture of {mllm.picture_tokens} tokens before the words; {_NOTE}"]
    tries = {DICT: DictTrie(identifiers)}
    return compared(mllm, asked, identifiers, tries, options, notes, repeats=1)


def compared(
    mllm: Any,
    asked: Mapping[str, Sequence[Prompt]],
    identifiers: Identifiers,
    tries: Mapping[str, PrefixTrie],
    options: Options,
    notes: Sequence[str],
    *,
    repeats: int,
) -> Measurement:
    """All ways in turns, for all prompts, which are given by their kind."""
    search = searcher(mllm, make_trie(identifiers))
    longest = int(np.diff(identifiers.offsets).max())
    rows = [
        _one_query(mllm, kind, prompt, search, tries, longest, repeats, options.pick(1, 0))
        for kind, some in asked.items()
        for prompt in some
    ]
    total = _seconds_of(rows, (UNPACKED, *tries))
    return Measurement(
        total[DICT] / total["ours"],
        peers={name: total[DICT] / total[name] for name in (*tries, UNPACKED)},
        also=[
            Condition(
                "our ten score as well as theirs on average, by one scorer",
                statistics.mean(row["gain"] for row in rows) >= -SLACK,
            )
        ],
        details={
            "identifiers": len(identifiers),
            "beams": BEAMS,
            "queries": len(rows),
            "times_as_fast_by_kind": {
                kind: _seconds_of(chosen, tries)[DICT] / _seconds_of(chosen, tries)["ours"]
                for kind in asked
                if (chosen := [row for row in rows if row["kind"] == kind])
            },
            "seconds_a_query": {name: spent / len(rows) for name, spent in total.items()},
            "fed_a_query": {
                name: {
                    what: statistics.mean(row["fed"][name][what] for row in rows)
                    for what in ("passes", "tokens")
                }
                for name in ("ours", DICT)
            },
            "best_is_as_good": sum(row["best_gain"] >= -SLACK for row in rows),
            "each": rows,
        },
        notes=list(notes),
    )


def _seconds_of(rows: list[dict[str, Any]], tries: Iterable[str]) -> dict[str, float]:
    return {name: sum(row["seconds"][name] for row in rows) for name in ("ours", *tries)}


def _one_query(
    mllm: Any,
    kind: str,
    prompt: Prompt,
    search: Callable[[Prompt], list[Hypothesis]],
    tries: Mapping[str, PrefixTrie],
    longest: int,
    repeats: int,
    warm: int,
) -> dict[str, Any]:
    """Times of all ways for one query, and how good what they find is."""
    ways: dict[str, Callable[[], Any]] = {
        "ours": partial(search, prompt),
        UNPACKED: partial(_unpacked, mllm, search, prompt),
    }
    for name, trie in tries.items():
        ways[name] = partial(generated, mllm, prompt, trie, longest)
    times = interleaved(ways, repeats=repeats, warm=warm)
    fed, found = {}, {}
    for name in ("ours", DICT):
        with watching(mllm) as watch:
            given = ways[name]()
        fed[name] = {"passes": watch.passes, "tokens": watch.tokens}
        found[name] = [one.tokens if name == "ours" else one[0] for one in given]
    own, other = (_scores(mllm, prompt, found[name]) for name in ("ours", DICT))
    gains = [a - b for a, b in zip(own, other, strict=False)]
    return {
        "kind": kind,
        "seconds": {name: statistics.median(spent) for name, spent in times.items()},
        "fed": fed,
        "gain": statistics.mean(gains),
        "best_gain": gains[0],
        "same_of_ten": len(set(found["ours"]) & set(found[DICT])),
    }


def _unpacked(mllm: Any, search: Callable[[Prompt], Any], prompt: Prompt) -> Any:
    """What `search` finds by the model's own layers; see `genmm_retriever.models.packed`."""
    packed = mllm.engine.forward.packed
    before, packed.enabled = packed.enabled, False
    try:
        return search(prompt)
    finally:
        packed.enabled = before


def _scores(mllm: Any, prompt: Prompt, found: list[tuple[int, ...]]) -> list[float]:
    """Log-probabilities under one scorer, best first: whole identifiers in one packed pass."""
    scored = mllm.score([prompt] * len(found), [list(tokens) for tokens in found])
    return sorted((float(one.sum()) for one in scored), reverse=True)


BENCHMARKS = (
    Benchmark(
        "generate_speed",
        "ten best of 1M identifiers against transformers' generate over a dict trie, 20 beams",
        "times as fast",
        Bar(">=", 5),
        generate_speed,
    ),
    Benchmark(
        "generate_speed_pictures",
        "the same where the query's picture is 256 tokens, Qwen3-VL of 0.6B with random weights",
        "times as fast",
        Bar(">=", 5),
        generate_speed_pictures,
    ),
)
