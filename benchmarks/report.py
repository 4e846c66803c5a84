"""Tables and texts made from results, never by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Result = dict[str, Any]


def read_results(paths: Sequence[Path]) -> list[Result]:
    """The results of all files, each a result or a list of them; a later one replaces."""
    found: dict[str, Result] = {}
    for path in paths:
        given = json.loads(path.read_text(encoding="utf-8"))
        for result in given if isinstance(given, list) else [given]:
            found[result["name"]] = result
    return list(found.values())


def table(results: Sequence[Result]) -> str:
    """docs/benchmarks.md."""
    lines = [
        "# Benchmarks",
        "",
        "Made by `python -m benchmarks --table` from the JSON files of the runs; not edited by",
        "hand. Peers were measured in the same run, in turns with what is claimed. `python -m",
        "benchmarks --list` names the scripts.",
        "",
        "| what | measured | bar | | peers |",
        "|---|---|---|---|---|",
        *(_row(result) for result in results),
        "",
        "## Runs",
        "",
        *(line for result in results for line in _run(result)),
    ]
    return "\n".join(lines).rstrip()


def _row(result: Result) -> str:
    what = f"**{result['name']}**: {result['claim']}"
    bar = result["bar"] or "-"
    if result.get("skipped"):
        return f"| {what} | not measured: {result['skipped']} | {bar} | | |"
    verdict = {True: "met", False: "**missed**", None: ""}[result["ok"]]
    if result.get("quick"):
        verdict += " (quick run)"
    peers = "; ".join(
        f"{name} {'left out' if value is None else figure(value)}"
        for name, value in result["peers"].items()
    )
    value = f"{figure(result['value'])} {result['unit']}"
    return f"| {what} | {value} | {bar} | {verdict.strip()} | {peers or '-'} |"


def figure(value: float) -> str:
    """Three digits, thousands apart.

    Examples:
        >>> figure(1234567.0), figure(12.345), figure(0.01234)
        ('1,230,000', '12.3', '0.0123')
    """
    rounded = float(f"{value:.3g}")
    if abs(rounded) >= 1000:
        return f"{rounded:,.0f}"
    return f"{rounded:g}"


def _run(result: Result) -> list[str]:
    machine, versions = result["machine"], result["versions"]
    hardware = ", ".join(
        str(part)
        for part in (
            machine["processor"],
            f"{machine['cores']} cores",
            f"{machine['memory_gib']} GiB",
            machine["gpu"],
        )
        if part
    )
    lines = [f"### {result['name']}", "", f"    {result['command']}", ""]
    for text, met in result.get("also", {}).items():
        lines.append(f"- {text}: {'yes' if met else '**no**'}")
    for note in result.get("notes", ()):
        lines.append(f"- {note}")
    for key, value in result.get("details", {}).items():
        lines.append(f"- {key.replace('_', ' ')}: {_shown(value)}")
    lines.append(f"- {result['seconds']} s on {hardware}")
    lines.append("- " + ", ".join(f"{name} {version}" for name, version in versions.items()))
    return [*lines, ""]


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_shown(one)}" for key, one in value.items())
    if isinstance(value, list):
        return "; ".join(_shown(one) for one in value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else figure(value)


def scaling_numbers(results: Sequence[Result]) -> str:
    """docs/scaling.md, from the result of `clue_scaling`.

    Raises:
        SystemExit: If that result is not among them.
    """
    from benchmarks.plan import plan

    chosen = [one for one in results if one["name"] == "clue_scaling" and not one.get("skipped")]
    if not chosen:
        raise SystemExit("no result of clue_scaling is given; run it first")
    return plan(chosen[0])
