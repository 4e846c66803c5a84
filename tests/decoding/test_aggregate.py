"""Merging hypotheses into items."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genmm_retriever.decoding import Hypothesis, aggregate

rows = st.sets(st.integers(0, 5), min_size=1, max_size=3).map(lambda s: tuple(sorted(s)))


@given(st.lists(st.tuples(rows, st.floats(-80, 80)), max_size=12))
def test_scores_are_the_logsumexp_of_an_items_hypotheses(given_: list) -> None:
    hypotheses = [Hypothesis((i, 0), rows, -1.0, 0.0, s) for i, (rows, s) in enumerate(given_)]
    found = aggregate(hypotheses)
    assert {c.row for c in found} == {row for rows, _ in given_ for row in rows}
    for candidate in found:
        own = [h for h in hypotheses if candidate.row in h.items]
        expected = np.logaddexp.reduce([h.score for h in own])
        assert candidate.score == pytest.approx(expected, abs=1e-9)
        assert list(candidate.hypotheses) == sorted(own, key=lambda h: (-h.score, h.tokens))
    keys = [(-c.score, c.row) for c in found]
    assert keys == sorted(keys)


def test_impossible_hypotheses_stay_last() -> None:
    hopeless = Hypothesis((1, 0), (3,), float("-inf"), 0.0, float("-inf"))
    found = aggregate([hopeless, Hypothesis((2, 0), (4,), -9.0, 0.0, -9.0)])
    assert [c.row for c in found] == [4, 3]
    assert found[1].score == float("-inf")


def test_at_a_temperature_scores_are_sums_of_several_logprobs():
    twice = [
        Hypothesis((1, 0), (7,), -1.0, 0.0, -4.0),
        Hypothesis((2, 0), (7,), -1.0, 0.0, -6.0),
        Hypothesis((3, 0), (8,), -1.0, 0.0, -4.0),
    ]
    first, second = aggregate(twice, temperature=2.0)
    assert (first.row, second.row) == (7, 8)
    assert first.score == pytest.approx(2 * math.log(math.exp(-2) + math.exp(-3)))
    assert second.score == pytest.approx(-4.0)
