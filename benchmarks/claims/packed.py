"""Packed layers against the model's own: one forward pass over a prompt in its cache."""

from __future__ import annotations

import statistics
from functools import partial
from typing import Any

import torch

from benchmarks.claims.common import model_of
from benchmarks.corpora.models import prompts
from benchmarks.harness import Bar, Benchmark, Measurement, Options, Skipped, interleaved
from genmm_retriever.models.base import DecodingState

SIZES = (1, 20, 100, 200)
"""Tokens of a pass: one beam, twenty of them, and whole tails."""
PACKED, OWN = "packed", "the layers of transformers"


def packed_layers(options: Options) -> Measurement:
    """Seconds of passes of several sizes, by packed layers and by the model's own."""
    mllm = model_of(options)
    with torch.no_grad():
        if mllm.engine.forward.packed.current() is mllm.model.base_model:
            raise Skipped("layers of this model are not packed on this processor")
    state = mllm.prefill(prompts(1))
    rows = [_timed(mllm, state, size, options.pick(15, 2)) for size in SIZES[: options.pick(4, 2)]]
    ratios = {str(row["tokens"]): row[OWN] / row[PACKED] for row in rows}
    return Measurement(
        min(ratios.values()),
        peers={OWN: 1.0},
        details={"times_as_fast_by_tokens_of_a_pass": ratios, "seconds": rows},
    )


def _timed(mllm: Any, state: DecodingState, size: int, repeats: int) -> dict[str, Any]:
    """Median seconds of a pass of so many tokens, by both."""
    packed = mllm.engine.forward.packed
    tails = [[token] for token in range(100, 100 + size)]
    rows = torch.zeros(size, dtype=torch.int64)

    def run(enabled: bool) -> None:
        packed.enabled = enabled
        try:
            # Ends: no logits are kept, all tokens but the first of each tail are scored.
            mllm.score_from(state, rows, [[*tail, 7] for tail in tails])
        finally:
            packed.enabled = True

    ways = {PACKED: partial(run, True), OWN: partial(run, False)}
    times = interleaved(ways, repeats=repeats, warm=1)
    return {"tokens": size} | {name: statistics.median(spent) for name, spent in times.items()}


BENCHMARKS = (
    Benchmark(
        "packed_layers",
        "a forward pass of the builtin model by packed layers, the least of 1 to 200 tokens",
        "times as fast",
        Bar(">=", 1.2),
        packed_layers,
    ),
)
