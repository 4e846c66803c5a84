from __future__ import annotations

import pytest
from benchmarks.plan import extrapolated, plan
from benchmarks.report import scaling_numbers


def measured(tokens, micro, faults, build):
    return {
        "tokens": tokens,
        "disk_bytes_a_token": 16.0,
        "build_microseconds_a_token": build,
        "build_peak_bytes_a_token": 20.0,
        "open_seconds": 0.01,
        "warm_microseconds_a_beam_step": micro,
        "cold_microseconds_a_beam_step": 10 * micro,
        "cold_major_faults_a_beam_step": faults,
        "cold_minor_faults_a_beam_step": 2 * faults,
        "warm_major_faults_a_beam_step": 0.0,
    }


SMALL, LARGE = measured(5_000_000, 6.0, 1.0, 0.3), measured(50_000_000, 8.0, 1.5, 0.36)


def test_costs_follow_from_two_sizes():
    costs = extrapolated(SMALL, LARGE, 2_000_000_000)
    assert costs.shards == 4
    assert costs.disk_gb == pytest.approx(32.0)
    # One more decade to a shard of 500M: a fifth more a token, two microseconds more a step.
    assert costs.build_hours == pytest.approx(0.36 * 1.2 * 2_000_000_000 / 3.6e9)
    assert costs.build_gb == pytest.approx(10.0)
    assert costs.warm_microseconds == pytest.approx(4 * 10.0)
    assert costs.cold_faults == pytest.approx(4 * 2.0)
    assert costs.cold_faults_at_most == pytest.approx(4 * 1.5 * 1.5)


def test_nothing_is_taken_to_shrink_and_measured_sizes_are_themselves():
    costs = extrapolated(LARGE | {"tokens": 5_000_000}, SMALL | {"tokens": 50_000_000}, 50_000_000)
    assert costs.shards == 1
    assert costs.warm_microseconds == pytest.approx(6.0)
    assert costs.build_hours == pytest.approx(0.3 * 50_000_000 / 3.6e9)


def test_the_document_is_made_from_the_result():
    result = {
        "name": "clue_scaling",
        "quick": False,
        "machine": {"processor": "a processor", "cores": 2, "memory_gib": 8},
        "details": {
            "sizes": [5_000_000, 50_000_000],
            "5000000": SMALL,
            "50000000": LARGE,
            "beams": 15,
            "steps_a_search": 10,
            "text": {"files": 321},
        },
    }
    text = plan(result)
    assert "| a beam's step, warm, microseconds | 6 | 8 |" in text
    assert "| disk | 32 GB |" in text
    assert "321 files" in text
    assert "quick run" not in text
    assert "quick run" in plan(result | {"quick": True})
    assert scaling_numbers([{"name": "other"}, result]) == text
    with pytest.raises(SystemExit, match="clue_scaling"):
        scaling_numbers([{"name": "other"}])
