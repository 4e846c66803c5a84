"""All benchmarks by name, in the order in which they are worth running."""

from __future__ import annotations

from benchmarks.claims import (
    abstention,
    adapters,
    against_generate,
    clues,
    composed,
    dual,
    gpu,
    knowledge,
    packed,
    planted,
    resolving,
    scaling,
    search,
    service_load,
    stage,
    tries,
    wording,
)
from benchmarks.harness import Benchmark

BENCHMARKS: dict[str, Benchmark] = {
    one.name: one
    for one in (
        *search.BENCHMARKS,
        *against_generate.BENCHMARKS,
        *packed.BENCHMARKS,
        *tries.BENCHMARKS,
        *clues.BENCHMARKS,
        *knowledge.BENCHMARKS,
        *scaling.BENCHMARKS,
        *gpu.BENCHMARKS,
        *dual.BENCHMARKS,
        *stage.BENCHMARKS,
        *service_load.BENCHMARKS,
        *adapters.BENCHMARKS,
        *resolving.BENCHMARKS,
        *wording.BENCHMARKS,
        *composed.BENCHMARKS,
        *abstention.BENCHMARKS,
        *planted.BENCHMARKS,
    )
}
