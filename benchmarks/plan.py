"""docs/scaling.md: a clue index of two billion tokens, planned from what was measured."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

_TOKENS = 2_000_000_000
_SHARD = 500_000_000
_PASSAGE = 110
_NVME = 100e-6
"""Seconds of a random read of a page from an NVMe disk; an assumption, not a measurement."""

_ROWS = (
    ("on disk, bytes a token", "disk_bytes_a_token"),
    ("build, microseconds a token", "build_microseconds_a_token"),
    ("build, peak bytes a token", "build_peak_bytes_a_token"),
    ("open, seconds", "open_seconds"),
    ("a beam's step, warm, microseconds", "warm_microseconds_a_beam_step"),
    ("a beam's step, cold, microseconds", "cold_microseconds_a_beam_step"),
    ("pages read from disk, cold, a beam's step", "cold_major_faults_a_beam_step"),
    ("page faults in memory, cold, a beam's step", "cold_minor_faults_a_beam_step"),
    ("pages read from disk, warm, a beam's step", "warm_major_faults_a_beam_step"),
)


@dataclass(frozen=True)
class Costs:
    """What a planned index takes; derived from two measured sizes.

    Attributes:
        shards: Shards of at most 500M tokens.
        disk_gb: Gigabytes on disk.
        build_hours: On the machine that was measured.
        build_gb: Peak of memory while one shard is built.
        warm_microseconds: Of a beam's step over all shards.
        cold_faults: Pages read from disk a beam's step, over all shards, if they grow by the
            same number with a decade.
        cold_faults_at_most: The same if they grow by the same factor.
    """

    shards: int
    disk_gb: float
    build_hours: float
    build_gb: float
    warm_microseconds: float
    cold_faults: float
    cold_faults_at_most: float


def extrapolated(small: dict[str, Any], large: dict[str, Any], tokens: int) -> Costs:
    """Costs of `tokens` tokens, from results at two sizes.

    A cost of building that grew by a factor from the small to the large size is taken to grow by
    the same factor with each further decade; a cost of searching, which follows the logarithm
    of the size, by the same difference. Pages of a cold search are given both ways: in a small
    index beams share them. Nothing is taken to shrink.
    """
    shards = math.ceil(tokens / _SHARD)
    shard = min(tokens, _SHARD)
    steps = math.log(large["tokens"] / small["tokens"])
    further = max(0.0, math.log(shard / large["tokens"]) / steps)

    def grown(key: str) -> float:
        factor = max(1.0, large[key] / small[key]) if small[key] else 1.0
        return float(large[key] * factor**further)

    def risen(key: str) -> float:
        return float(large[key] + further * max(0.0, large[key] - small[key]))

    return Costs(
        shards=shards,
        disk_gb=large["disk_bytes_a_token"] * tokens / 1e9,
        build_hours=grown("build_microseconds_a_token") * tokens / 3.6e9,
        build_gb=large["build_peak_bytes_a_token"] * shard / 1e9,
        warm_microseconds=shards * risen("warm_microseconds_a_beam_step"),
        cold_faults=shards * risen("cold_major_faults_a_beam_step"),
        cold_faults_at_most=shards * grown("cold_major_faults_a_beam_step"),
    )


def plan(result: dict[str, Any]) -> str:
    """The whole document, from the result of `clue_scaling`."""
    details = result["details"]
    sizes = [str(size) for size in details["sizes"]]
    small, large = details[sizes[0]], details[sizes[1]]
    costs = extrapolated(small, large, _TOKENS)
    beams, steps = details["beams"], details["steps_a_search"]
    a_search = beams * steps
    machine, text = result["machine"], details.get("text", {})
    quick = (
        " **This was a quick run over small sizes: not for planning.**" if result["quick"] else ""
    )
    rows = [f"| {what} | {_digits(small[key])} | {_digits(large[key])} |" for what, key in _ROWS]
    pages = [faults * a_search for faults in (costs.cold_faults, costs.cold_faults_at_most)]
    reading = [number * _NVME for number in pages]
    lines = [
        "# How far a clue index scales",
        "",
        "Made by `python -m benchmarks --scaling RESULT.json` from a result of",
        "`python -m benchmarks clue_scaling`; not edited by hand." + quick,
        "",
        "## Measured",
        "",
        f"On {machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB, with"
        f" {beams} beams of {steps} steps.",
        f"Text: source and documentation of installed packages ({text.get('files', '?')} files).",
        "",
        f"| | {small['tokens']:,} tokens | {large['tokens']:,} tokens |",
        "|---|---|---|",
        *rows,
        "",
        "A step appends a token to a beam (two binary searches a shard) and asks for the next",
        "tokens with their counts. Cold is a first search: the index's files were dropped from",
        "the page cache, and each page that is touched is read alone, by one page fault.",
        "",
        f"## Planned: {_TOKENS:,} tokens",
        "",
        f"About {_TOKENS // _PASSAGE / 1e6:.0f} million passages of {_PASSAGE} tokens. Shards hold"
        f" at most {_SHARD:,} tokens, so there are {costs.shards}.",
        "",
        "| | planned | how |",
        "|---|---|---|",
        f"| disk | {_digits(costs.disk_gb)} GB | bytes a token x tokens |",
        f"| build | {_digits(costs.build_hours)} hours on this machine | microseconds a token x"
        " tokens, grown once more by what a decade cost; shards are independent and can be built"
        " on several machines |",
        f"| memory to build | {_digits(costs.build_gb)} GB | peak bytes a token x one shard |",
        f"| a beam's step, warm | {_digits(costs.warm_microseconds)} microseconds | all"
        f" {costs.shards} shards, each a decade above the measured size, by the logarithm |",
        f"| a search's steps, warm | {_digits(costs.warm_microseconds * a_search / 1000)}"
        f" milliseconds | {beams} beams x {steps} steps, one thread |",
        f"| pages read by a first, cold search | {_digits(pages[0])} to {_digits(pages[1])} |"
        " growing by the same number, or by the same factor, with a decade |",
        f"| their time | {_digits(reading[0])} to {_digits(reading[1])} s | at"
        f" {1e6 * _NVME:.0f} microseconds a random read, one after the other (an assumption:"
        " NVMe) |",
        "",
        "The index is mapped, not loaded: memory holds the pages that searches touch. Adding",
        "passages makes a small shard beside the large ones, deleting leaves a mark; a merge",
        "rebuilds small shards alone and costs what their own tokens cost above.",
    ]
    return "\n".join(lines)


def _digits(value: float) -> str:
    rounded = float(f"{value:.3g}")
    return f"{rounded:,.0f}" if abs(rounded) >= 1000 else f"{rounded:g}"
