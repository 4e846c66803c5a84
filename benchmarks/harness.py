"""What every benchmark shares: options, results, the machine, and fair clocks."""

from __future__ import annotations

import gc
import importlib.metadata
import operator
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_PACKAGES = (
    "genmm-retriever",
    "numpy",
    "torch",
    "transformers",
    "numba",
    "marisa-trie",
    "pydivsufsort",
    "tokengrams",
    "infini-gram",
    "bm25s",
    "fastapi",
    "uvicorn",
)
_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    ">": operator.gt,
}


class Skipped(Exception):
    """Raised by a benchmark or a peer that cannot run here, with the reason."""


@dataclass(frozen=True)
class Options:
    """What a run is told.

    Attributes:
        quick: Small sizes, seconds instead of minutes; for trying out, not for figures.
        cache: Folder for corpora and peers' indexes, outside the source tree.
        wordnet: `passages.jsonl` of the WordNet knowledge base, or None.
        model: The model to decode with.
        seed: Of everything random.
        flickr: Folder with Flickr8k's `train.jsonl` and `dev.jsonl`, or None.
        knowledge: Folder of the knowledge task, or None.
        index: A finished index of Flickr8k's dev photos, or None to build one in the cache.
        clothing: Folder with the `items.jsonl` of the garments, or None.
    """

    quick: bool = False
    cache: Path = Path("~/.cache/genmm-benchmarks")
    wordnet: Path | None = None
    model: str = "builtin"
    seed: int = 0
    flickr: Path | None = None
    knowledge: Path | None = None
    index: Path | None = None
    clothing: Path | None = None

    def pick(self, full: int, quick: int) -> int:
        """A size."""
        return quick if self.quick else full


@dataclass(frozen=True)
class Bar:
    """What a value has to reach.

    Examples:
        >>> bar = Bar("<=", 3)
        >>> str(bar), bar.met(2.5), bar.met(3.1)
        ('<= 3', True, False)
    """

    relation: str
    bound: float

    def met(self, value: float) -> bool:
        """Whether a value reaches it; NaN never does."""
        return _COMPARE[self.relation](value, self.bound)

    def __str__(self) -> str:
        return f"{self.relation} {self.bound:,g}" if self.bound < 1e5 else self._long()

    def _long(self) -> str:
        return f"{self.relation} {self.bound:,.0f}"


@dataclass(frozen=True)
class Condition:
    """A second demand on the same run.

    Attributes:
        text: What was demanded, for people.
        met: Whether it held.
    """

    text: str
    met: bool


@dataclass(frozen=True)
class Measurement:
    """What one benchmark found.

    Attributes:
        value: The figure that the bar is about, in the benchmark's unit.
        peers: The same figure of each peer, or None where it could not run.
        also: Further conditions of the claim.
        details: Anything else worth keeping: sizes, spreads, breakdowns.
        notes: Why peers were left out, and what to mind when reading.
    """

    value: float
    peers: Mapping[str, float | None] = field(default_factory=dict)
    also: Sequence[Condition] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Benchmark:
    """One claim that can be run.

    Attributes:
        name: For the command line.
        claim: One line for people.
        unit: Of the value.
        bar: None where the script informs and claims nothing.
        run: The measurement itself.
    """

    name: str
    claim: str
    unit: str
    bar: Bar | None
    run: Callable[[Options], Measurement]


def result_of(benchmark: Benchmark, options: Options, command: str) -> dict[str, Any]:
    """Run one benchmark and describe the outcome as plain JSON values."""
    started = time.perf_counter()
    result: dict[str, Any] = {
        "name": benchmark.name,
        "claim": benchmark.claim,
        "value": None,
        "unit": benchmark.unit,
        "bar": None if benchmark.bar is None else str(benchmark.bar),
        "ok": None,
        "peers": {},
        "quick": options.quick,
    }
    try:
        found = benchmark.run(options)
    except Skipped as reason:
        result["skipped"] = str(reason)
    else:
        met = [condition.met for condition in found.also]
        if benchmark.bar is not None:
            met.append(benchmark.bar.met(found.value))
        result["value"] = _rounded(found.value)
        result["ok"] = all(met) if met else None
        result["peers"] = {name: _rounded(value) for name, value in found.peers.items()}
        result["also"] = {condition.text: condition.met for condition in found.also}
        result["details"] = _rounded(dict(found.details))
        result["notes"] = list(found.notes)
    result["seconds"] = round(time.perf_counter() - started, 1)
    result["command"] = command
    result["machine"] = machine()
    result["versions"] = versions()
    return result


def _rounded(value: Any) -> Any:
    """Plain JSON values; floats to five digits, which is more than a clock can tell."""
    if isinstance(value, Mapping):
        return {str(key): _rounded(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(one) for one in value]
    if hasattr(value, "item"):
        value = value.item()
    return float(f"{value:.5g}") if isinstance(value, float) else value


def machine() -> dict[str, Any]:
    """Processor, cores, memory, GPU and system."""
    import torch

    found: dict[str, Any] = {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0,
        "threads": torch.get_num_threads(),
        "memory_gib": _memory(),
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }
    return found


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _memory() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError, AttributeError):
        return None


def versions() -> dict[str, str]:
    """Versions of what was measured and of the peers."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    if "genmm-retriever" not in found:
        import genmm_retriever

        found["genmm-retriever"] = genmm_retriever.__version__
    return found


def interleaved(
    ways: Mapping[str, Callable[[], object]], *, repeats: int, warm: int = 1
) -> dict[str, list[float]]:
    """Time several ways of doing the same, in turns, so that a slow moment hits all of them.

    Garbage is collected before each round and not during it; what is alive before is frozen,
    so that a peer's many objects do not slow the others down.

    Returns:
        Seconds of each call, by way.
    """
    for way in ways.values():
        for _ in range(warm):
            way()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    with quiet_collector():
        for _ in range(repeats):
            gc.collect()
            for name, way in ways.items():
                started = time.perf_counter()
                way()
                seconds[name].append(time.perf_counter() - started)
    return seconds


@contextmanager
def quiet_collector() -> Iterator[None]:
    """No cyclic garbage collection inside, and what is alive already is left alone after."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What a call returns, and its seconds."""
    with quiet_collector():
        started = time.perf_counter()
        value = work()
        return value, time.perf_counter() - started


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """Median, least and 95th percentile."""
    ordered = sorted(seconds)
    return {
        "median": statistics.median(ordered),
        "least": ordered[0],
        "p95": ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))],
        "runs": len(ordered),
    }


def attempt(notes: list[str], name: str, build: Callable[[], Any]) -> Any | None:
    """A peer, or None and a note if it is not installed or cannot run here."""
    try:
        return build()
    except (ImportError, Skipped) as reason:
        notes.append(f"{name} was left out: {reason}")
        return None
