"""The picture of differences."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest
from benchmarks.chart import chart, rows_of

SVG = "{http://www.w3.org/2000/svg}"


def result(name="expand <x>", **differences):
    return {"name": name, "details": {"queries": 7, "differences": differences}}


def ends(value):
    return {f"recall@{k}": [value, value - 2.0, value + 2.0] for k in (1, 5, 10)}


@pytest.mark.parametrize("reach", [10.0, 33.0, 50.0, 81.0, 89.0, 98.0])
def test_nought_has_its_line(reach):
    drawn = ET.fromstring(chart([result(**{"a minus b": ends(reach)})]))
    assert [line for line in drawn.iter(f"{SVG}line") if line.get("stroke") == "#444"]


def test_every_difference_has_its_row_and_stands_where_it_belongs():
    given = [result(), result(**{"a & b minus c": ends(10.0), "d minus c": ends(-10.0)})]
    assert [row.pair for row in rows_of(given)] == ["a & b minus c", "d minus c"]
    drawn = ET.fromstring(chart(given))
    words = "".join(drawn.itertext())
    assert "expand <x> (7 queries)" in words
    assert "a & b minus c" in words
    circles = [
        float(one.get("cx")) for one in drawn.iter(f"{SVG}circle") if float(one.get("cy")) > 60
    ]
    assert len(circles) == 6
    # Gains stand as far right of nought as losses stand left of it.
    zero = next(
        float(one.get("x1")) for one in drawn.iter(f"{SVG}line") if one.get("stroke") == "#444"
    )
    assert {round(x - zero, 1) for x in circles[:3]} == {-round(circles[3] - zero, 1)}
    assert circles[0] > zero


def test_without_differences_there_is_no_picture():
    with pytest.raises(SystemExit, match="differences"):
        chart([result(), {"name": "trie_build", "details": {}}])
