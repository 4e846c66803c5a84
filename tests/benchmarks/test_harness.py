from __future__ import annotations

import doctest
import gc
import json

import pytest
from benchmarks.harness import (
    Bar,
    Benchmark,
    Condition,
    Measurement,
    Options,
    Skipped,
    attempt,
    interleaved,
    result_of,
    spread,
    timed,
)

from benchmarks import harness, report

KEYS = {"name", "value", "unit", "bar", "ok", "peers", "command", "machine", "versions"}


def outcome(measure, bar=None):
    return result_of(Benchmark("it", "a claim", "s", bar, measure), Options(), "the command")


def test_a_result_has_the_promised_keys_and_is_json():
    result = outcome(lambda options: Measurement(2.0, {"peer": 3.0, "absent": None}), Bar("<=", 2))
    assert set(result) >= KEYS
    assert json.loads(json.dumps(result)) == result
    assert (result["value"], result["ok"], result["bar"]) == (2.0, True, "<= 2")
    assert result["peers"] == {"peer": 3.0, "absent": None}
    assert result["versions"]["genmm-retriever"]


@pytest.mark.parametrize(
    ("value", "bar", "conditions", "ok"),
    [
        (5.0, Bar(">=", 5), [], True),
        (4.9, Bar(">=", 5), [], False),
        (float("nan"), Bar("<=", 5), [], False),
        (6.0, Bar(">=", 5), [Condition("also", False)], False),
        (6.0, None, [], None),
        (6.0, None, [Condition("also", True)], True),
    ],
)
def test_a_bar_is_met_with_all_conditions(value, bar, conditions, ok):
    assert outcome(lambda options: Measurement(value, also=conditions), bar)["ok"] is ok


def test_what_cannot_run_is_skipped_with_its_reason():
    def measure(options):
        raise Skipped("there is no such device")

    result = outcome(measure, Bar("<=", 1))
    assert (result["value"], result["ok"]) == (None, None)
    assert result["skipped"] == "there is no such device"
    assert set(result) >= KEYS


def test_a_peer_that_is_not_installed_leaves_a_note():
    def build():
        import a_module_that_is_not_there

        return a_module_that_is_not_there

    notes = []
    assert attempt(notes, "peer", build) is None
    assert "peer was left out" in notes[0]
    assert "a_module_that_is_not_there" in notes[0]
    assert attempt(notes, "peer", lambda: 7) == 7
    assert len(notes) == 1


def test_ways_are_timed_in_turns_without_collections_and_warmed_before():
    calls, enabled = [], []

    def way(name):
        calls.append(name)
        enabled.append(gc.isenabled())

    seconds = interleaved({"a": lambda: way("a"), "b": lambda: way("b")}, repeats=2, warm=1)
    assert calls == ["a", "b", "a", "b", "a", "b"]
    assert enabled == [True, True, False, False, False, False]
    assert gc.isenabled()
    assert {name: len(times) for name, times in seconds.items()} == {"a": 2, "b": 2}
    assert timed(lambda: 3)[0] == 3


def test_the_collector_comes_back_after_an_error():
    with pytest.raises(ZeroDivisionError):
        timed(lambda: 1 / 0)
    assert gc.isenabled()


def test_spread():
    found = spread([3.0, 1.0, 2.0])
    assert (found["median"], found["least"], found["p95"], found["runs"]) == (2.0, 1.0, 3.0, 3)


def test_the_table_tells_bars_skips_and_quick_runs(tmp_path):
    def skip(options):
        raise Skipped("no card")

    met = outcome(lambda options: Measurement(1.0, {"old": 12.0}), Bar("<=", 2))
    missed = outcome(lambda options: Measurement(3.0), Bar("<=", 2)) | {"name": "other"}
    skipped = outcome(skip, Bar("<=", 2)) | {"name": "third"}
    quick = outcome(lambda options: Measurement(1.5), Bar("<=", 2)) | {
        "name": "fourth",
        "quick": True,
    }
    one, many = tmp_path / "one.json", tmp_path / "many.json"
    one.write_text(json.dumps(met))
    many.write_text(json.dumps([missed, skipped, quick]))
    rows = [line for line in report.table(report.read_results([one, many])).splitlines()]
    found = {line.split("**")[1]: line for line in rows if line.startswith("| **")}
    assert "| met | old 12 |" in found["it"]
    assert "**missed**" in found["other"]
    assert "not measured: no card" in found["third"]
    assert "met (quick run)" in found["fourth"]


def test_a_later_result_replaces_an_earlier_one(tmp_path):
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    for path, value in zip(paths, (1.0, 2.0), strict=True):
        path.write_text(json.dumps(outcome(lambda options, v=value: Measurement(v))))
    assert [one["value"] for one in report.read_results(paths)] == [2.0]


@pytest.mark.parametrize("module", [harness, report])
def test_examples(module):
    found = doctest.testmod(module)
    assert found.attempted > 0
    assert found.failed == 0
