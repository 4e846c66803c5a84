"""All benchmarks by name, in the order in which they are worth running."""

from __future__ import annotations

from benchmarks.claims import (
    clues,
    dual,
    gpu,
    knowledge,
    scaling,
    search,
    service_load,
    tries,
)
from benchmarks.harness import Benchmark

BENCHMARKS: dict[str, Benchmark] = {
    one.name: one
    for one in (
        *search.BENCHMARKS,
        *tries.BENCHMARKS,
        *clues.BENCHMARKS,
        *knowledge.BENCHMARKS,
        *scaling.BENCHMARKS,
        *gpu.BENCHMARKS,
        *dual.BENCHMARKS,
        *service_load.BENCHMARKS,
    )
}
