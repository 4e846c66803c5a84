"""docs/results.md, made of rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.results.settings import Question, Setting
from genmm_retriever.errors import InputError

Row = dict[str, Any]
_FIGURES = ("recall@1", "recall@5", "recall@10", "candidates@50", "candidates@100")
_ELSEWHERE = {
    "What a user would pick instead": ("dual_encoder",),
    "Would an unfrozen last stage of the vision backbone help?": ("vision_stage",),
}
"""Titles of what `python -m benchmarks` measured, by the names of its benchmarks."""
_DEFAULTS = {"clusters": "min(128, n/8)", "beams": "default", "model": "trained"}


def read_rows(folder: Path) -> dict[str, Row]:
    """Rows by their keys."""
    rows = (json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json")))
    return {row["key"]: row for row in rows}


def document(
    questions: Sequence[Question], rows: dict[str, Row], peers: Sequence[dict[str, Any]] = ()
) -> str:
    """The whole document.

    Args:
        questions: Its chapters.
        rows: From `read_rows`; what is absent is shown as not measured.
        peers: Results of `python -m benchmarks NAME --json FILE`, of `dual_encoder` and
            `vision_stage`.

    Raises:
        InputError: If a peer is of another benchmark.
    """
    known = [name for names in _ELSEWHERE.values() for name in names]
    for peer in peers:
        if peer["name"] not in known:
            raise InputError(
                f"{peer['name']} is no part of this document", f"one of {', '.join(known)}"
            )
    lines = [
        "# Results",
        "",
        "Made by `python -m benchmarks.results table` from the JSON files of the runs; not edited",
        "by hand. Recalls are in percent; in brackets a 95% bootstrap interval. `cand@k` is the",
        "recall of the first stage's k best candidates, before verification; it is no ceiling,",
        "since the verifier compares vectors of up to 600 of them. Recalls do not depend on what",
        "else a machine does, seconds do: its load average is given.",
        "",
        *_asked(rows),
    ]
    for question in questions:
        measured = any(setting.key in rows for setting in question.settings)
        table = _table(question, rows) if measured else ["Not measured yet."]
        lines += [f"## {question.title}", "", *table, ""]
        lines += _ages(question, rows)
    for title, names in _ELSEWHERE.items():
        if some := [peer for peer in peers if peer["name"] in names]:
            lines += [f"## {title}", "", *_peers(some), ""]
    return "\n".join(lines).rstrip()


def _asked(rows: dict[str, Row]) -> list[str]:
    """What all rows have in common, one line for each way in which they were asked."""
    loads: dict[str, list[float]] = {}
    for row in rows.values():
        loads.setdefault(_way(row), []).append(row["machine"]["load_average"])
    said = [
        f"{way}, load average {min(some):.1f} to {max(some):.1f}"
        for way, some in sorted(loads.items())
    ]
    return [*said, ""] if said else []


def _way(row: Row) -> str:
    return (
        f"- {row['asked']['queries_file']}: {row['figures']['queries']} queries, "
        f"{row['settings']['direction']}, {row['items']:,} items, seed {row['asked']['seed']}, "
        f"{row['asked']['model_name']} on {row['machine']['processor']}, "
        f"{row['machine']['cores']} cores, threads: {row['machine']['threads']}"
        + (f", {row['machine']['gpu']}" * bool(row["machine"]["gpu"]))
    )


def _table(question: Question, rows: dict[str, Row]) -> list[str]:
    heads = [name.replace("_", " ") for name in question.varied]
    heads += ["R@1", "R@5", "R@10", "cand@50", "cand@100", "s a query"]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for setting in question.settings:
        shown = [_named(setting, name) for name in question.varied]
        row = rows.get(setting.key)
        if row is None:
            cells = ["not measured", *[""] * 5]
        else:
            figures = row["figures"]
            cells = [_figure(figures, name) for name in _FIGURES]
            cells.append(f"{figures['seconds_per_query']['mean']:.2f}")
        lines.append(f"| {' | '.join([*shown, *cells])} |")
    return lines


def _named(setting: Setting, name: str) -> str:
    value = setting.to_json()[name]
    if value is None:
        return _DEFAULTS[name]
    return f"{value:.0%}" if name == "added" else str(value)


def _figure(figures: dict[str, Any], name: str) -> str:
    shown = f"{figures[name]:.1f}"
    if name == "recall@1" and name in figures["ci95"]:
        low, high = figures["ci95"][name]
        shown += f" [{low:.1f}, {high:.1f}]"
    return shown


def _ages(question: Question, rows: dict[str, Row]) -> list[str]:
    """Old and new items apart, where some came later."""
    lines = []
    for setting in question.settings:
        row = rows.get(setting.key)
        for age, figures in (row or {}).get("by_age", {}).items():
            shown = [_named(setting, name) for name in question.varied]
            cells = [f"{figures[f'recall@{k}']:.1f}" for k in (1, 5, 10)]
            lines.append(f"| {' | '.join([*shown, age, str(int(figures['queries'])), *cells])} |")
    if not lines:
        return []
    heads = [*question.varied, "items", "queries", "R@1", "R@5", "R@10"]
    return ["Old and new items apart:", "", f"| {' | '.join(heads)} |", "|" + "---|" * len(heads),
            *lines, ""]  # fmt: skip


def _peers(peers: Sequence[dict[str, Any]]) -> list[str]:
    lines = ["| what | direction | R@1 | R@5 | R@10 |", "|---|---|---|---|---|"]
    for peer in peers:
        if peer.get("skipped"):
            lines.append(f"| {peer['name']} | not measured: {peer['skipped']} | | | |")
            continue
        found = {peer["claim"]: peer["details"]["recalls"], **peer["details"].get("others", {})}
        for name, recalls in found.items():
            for way in ("text->image", "image->text"):
                cells = " | ".join(f"{recalls[f'{way} R@{k}']:.1f}" for k in (1, 5, 10))
                lines.append(f"| {name} | {way} | {cells} |")
    return lines
