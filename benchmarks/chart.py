"""A picture of differences: who gains, by how much, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from benchmarks.report import Result

MEASURES = ("recall@1", "recall@5", "recall@10")
_SEPARATOR = " minus "
_COLOURS = ("#9ecae1", "#4292c6", "#084594")
_LEFT, _WIDTH, _TOP, _ROW, _FOOT = 430, 460, 64, 54, 34
_FONT = "font-family='Helvetica, Arial, sans-serif'"


@dataclass(frozen=True)
class Row:
    """One difference of two arms.

    Attributes:
        claim: The benchmark's name.
        pair: Which arm minus which.
        queries: How many were asked.
        ends: Of each of `MEASURES` the value and its 95% interval, in percentage points.
    """

    claim: str
    pair: str
    queries: int
    ends: tuple[Sequence[float], ...]


def rows_of(results: Sequence[Result]) -> list[Row]:
    """All differences that results tell, in their order; of two that mirror each other the last."""
    found = []
    for result in results:
        details = result.get("details", {})
        told = [*details.get("differences", {})]
        for place, pair in enumerate(told):
            mirrored = _SEPARATOR.join(reversed(pair.split(_SEPARATOR)))
            values = details["differences"][pair]
            if mirrored not in told[place:] and all(name in values for name in MEASURES):
                ends = tuple(values[name] for name in MEASURES)
                found.append(Row(result["name"], pair, details["queries"], ends))
    return found


def chart(results: Sequence[Result]) -> str:
    """An SVG of all differences with their intervals.

    Raises:
        SystemExit: If no result tells a difference.
    """
    rows = rows_of(results)
    if not rows:
        raise SystemExit("none of the results tells differences of arms")
    reach = max(abs(end) for row in rows for ends in row.ends for end in ends)
    reach = 10 * max(1, math.ceil(reach / 10))
    height = _TOP + _ROW * len(rows) + _FOOT
    width = _LEFT + _WIDTH + 30
    lines = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' width='{width}'"
        f" height='{height}' {_FONT} font-size='13'>",
        f"<rect width='{width}' height='{height}' fill='white'/>",
        "<text x='16' y='26' font-size='16' font-weight='bold'>What it changes, in percentage"
        " points of recall, with paired 95% intervals</text>",
        *_legend(),
        *_grid(reach, height - _FOOT),
        *(line for place, row in enumerate(rows) for line in _drawn(row, place, reach)),
        "</svg>",
    ]
    return "\n".join(lines)


def _legend() -> list[str]:
    lines = []
    for place, (name, colour) in enumerate(zip(MEASURES, _COLOURS, strict=True)):
        x = _LEFT + 110 * place
        lines.append(f"<circle cx='{x}' cy='44' r='5' fill='{colour}'/>")
        lines.append(f"<text x='{x + 10}' y='48'>{name.replace('recall', 'R')}</text>")
    return lines


def _grid(reach: int, bottom: int) -> list[str]:
    lines = []
    step = max(10, reach // 40 * 10)
    # Multiples of the step, so that nought is among them.
    for value in range(-(reach // step) * step, reach + 1, step):
        x, colour = _x(value, reach), "#444" if value == 0 else "#ddd"
        lines.append(f"<line x1='{x}' x2='{x}' y1='{_TOP}' y2='{bottom}' stroke='{colour}'/>")
        lines.append(
            f"<text x='{x}' y='{bottom + 18}' text-anchor='middle' fill='#555'>{value:+d}</text>"
        )
    return lines


def _drawn(row: Row, place: int, reach: int) -> list[str]:
    top = _TOP + _ROW * place
    lines = [
        f"<text x='16' y='{top + 22}' font-weight='bold'>{escape(row.claim)}"
        f" <tspan font-weight='normal' fill='#555'>({row.queries} queries)</tspan></text>",
        f"<text x='16' y='{top + 40}' fill='#555'>{escape(row.pair)}</text>",
    ]
    for n, ((value, low, high), colour) in enumerate(zip(row.ends, _COLOURS, strict=True)):
        y = top + 14 + 13 * n
        lines.append(
            f"<line x1='{_x(low, reach)}' x2='{_x(high, reach)}' y1='{y}' y2='{y}'"
            f" stroke='{colour}' stroke-width='3'/>"
        )
        lines.append(f"<circle cx='{_x(value, reach)}' cy='{y}' r='5' fill='{colour}'/>")
    return lines


def _x(value: float, reach: int) -> float:
    """Where a value stands, in pixels."""
    return round(_LEFT + _WIDTH * (value + reach) / (2 * reach), 1)
