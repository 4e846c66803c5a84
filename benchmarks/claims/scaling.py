"""What a token of a clue index costs, at two sizes a decade apart: the base of docs/scaling.md."""

from __future__ import annotations

import mmap
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.claims.clues import BEAMS, WANTED, Passages, build_index, corpus, warm_up
from benchmarks.harness import Benchmark, Measurement, Options, quiet_collector, timed
from benchmarks.processes import forget, usage
from genmm_retriever.constraints.clues import ClueIndex

_STEPS = 10


def scaling(options: Options) -> Measurement:
    """Bytes, seconds and page faults a token, and what a step of a search takes."""
    text = corpus(options)
    vocabulary = 49_153
    warm_up(vocabulary)
    sizes = (20_000, 200_000) if options.quick else (5_000_000, 50_000_000)
    details = {}
    for size in sizes:
        passages = text.passages(size)
        folder = options.cache / "scaling"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        details[str(size)] = _one(passages, vocabulary, folder, options)
        shutil.rmtree(folder)
    large = details[str(sizes[-1])]
    return Measurement(
        large["disk_bytes_a_token"],
        details=details
        | {"sizes": list(sizes), "beams": BEAMS, "steps_a_search": _STEPS, "text": text.about},
        notes=[
            "cold: the files dropped from the page cache before each search and nothing read"
            " ahead, so a major fault is a page; searches continue random sequences of the text,"
            " ranked by the frequency of tokens with noise"
        ],
    )


def _one(passages: Passages, vocabulary: int, folder: Path, options: Options) -> dict[str, Any]:
    count = len(passages[0])
    with usage() as building:
        index, seconds = timed(lambda: build_index(passages, vocabulary))
    arrays = index.to_arrays()
    size = 0
    names = sorted(arrays)
    for number, name in enumerate(names):
        np.save(folder / f"{number}.npy", arrays[name])
        size += arrays[name].nbytes
    del index, arrays
    logits = _logits(passages[0], vocabulary, options.seed)
    starts = _starts(passages, options.pick(40, 4), options.seed)
    forget(folder)
    with usage() as opening:
        view, open_seconds = timed(lambda: _open(folder, names).view())
    with quiet_collector():
        _searches(view, passages, starts, logits)
        with usage() as warm:
            warm_steps = _searches(view, passages, starts, logits)
    del view
    beam_steps = len(starts) * _STEPS * BEAMS
    cold = _cold(folder, names, passages, starts[: options.pick(8, 2)], logits)
    return {
        "tokens": count,
        "passages": len(passages[2]),
        "disk_bytes_a_token": size / count,
        "build_peak_bytes_a_token": (building.peak + sum(a.nbytes for a in passages)) / count,
        "build_microseconds_a_token": 1e6 * seconds / count,
        "open_seconds": open_seconds,
        "open_major_faults": opening.major_faults,
        "open_resident_bytes": max(0, opening.peak),
        "warm_microseconds_a_beam_step": 1e6 * statistics.median(warm_steps) / BEAMS,
        "warm_major_faults_a_beam_step": warm.major_faults / beam_steps,
        **cold,
    }


def _cold(
    folder: Path,
    names: list[str],
    passages: Passages,
    starts: list[NDArray[np.int64]],
    logits: NDArray[np.float32],
) -> dict[str, float]:
    """What a first search takes: the index anew for each, its files out of the page cache."""
    major = minor = 0
    seconds: list[float] = []
    for begin in starts:
        forget(folder)
        view = _open(folder, names, alone=True).view()
        with usage() as used, quiet_collector():
            seconds += _searches(view, passages, [begin], logits)
        major, minor = major + used.major_faults, minor + used.minor_faults
        del view
    beam_steps = len(starts) * _STEPS * BEAMS
    return {
        "cold_microseconds_a_beam_step": 1e6 * sum(seconds) / beam_steps,
        "cold_major_faults_a_beam_step": major / beam_steps,
        "cold_minor_faults_a_beam_step": minor / beam_steps,
    }


def _open(folder: Path, names: list[str], *, alone: bool = False) -> ClueIndex:
    """The index as maps of its files.

    Args:
        folder: Where they are.
        names: Of the arrays, in the order of the files.
        alone: Whether the system is told to read a page alone and none ahead.
    """
    arrays = {}
    for number, name in enumerate(names):
        array = np.load(folder / f"{number}.npy", mmap_mode="r")
        if alone and isinstance(array.base, mmap.mmap) and hasattr(mmap, "MADV_RANDOM"):
            array.base.madvise(mmap.MADV_RANDOM)
        arrays[name] = array
    return ClueIndex.from_arrays(arrays)


def _logits(tokens: NDArray[np.uint32], vocabulary: int, seed: int) -> NDArray[np.float32]:
    """Log-frequencies with noise, [BEAMS, V]: a model that knows words and no sentences."""
    often = np.log1p(np.bincount(tokens[:1_000_000], minlength=vocabulary)[:vocabulary])
    noise = np.random.default_rng(seed).gumbel(size=(BEAMS, vocabulary))
    return (often + noise).astype(np.float32)


def _starts(passages: Passages, count: int, seed: int) -> list[NDArray[np.int64]]:
    """Where the beams of each search begin in the text."""
    offsets = passages[1]
    draw = np.random.default_rng(seed)
    fit = np.flatnonzero(np.diff(offsets) > _STEPS)
    return [offsets[draw.choice(fit, BEAMS)] for _ in range(count)]


def _searches(
    view: Any, passages: Passages, starts: list[NDArray[np.int64]], logits: NDArray[np.float32]
) -> list[float]:
    """Seconds of each step of all beams: extend by the text's token, ask what may follow."""
    rows, seconds = np.arange(BEAMS), []
    for begin in starts:
        ranges = view.start(BEAMS)
        for place in range(_STEPS):
            tokens = passages[0][begin + place].astype(np.int64)
            started = time.perf_counter()
            ranges = view.extend(ranges, rows, tokens)
            view.next_tokens(ranges, logits, WANTED)
            seconds.append(time.perf_counter() - started)
    return seconds


BENCHMARKS = (
    Benchmark(
        "clue_scaling",
        "costs of a clue index at 5M and 50M tokens, for the plan of docs/scaling.md",
        "bytes a token on disk",
        None,
        scaling,
    ),
)
