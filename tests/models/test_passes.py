"""Rows cut into passes: all of them once, within the limit, at the least cost."""

from __future__ import annotations

from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genmm_retriever.models.passes import passes

lengths = st.lists(st.integers(1, 12), max_size=9)


def spent(cut, fed, cost):
    return sum(max(fed[row] for row in rows) * len(rows) + cost for rows in cut)


def best(fed, cost):
    """The least cost over all ways to cut the lengths, tried one by one."""
    groups = [(length, len(list(g))) for length, g in groupby(sorted(fed, reverse=True))]
    costs = []
    for cuts in range(2 ** max(0, len(groups) - 1)):
        total = longest = 0
        for i, (length, count) in enumerate(groups):
            if i == 0 or cuts >> (i - 1) & 1:
                longest = length
                total += cost
            total += longest * count
        costs.append(total)
    return min(costs) if fed else 0


@given(lengths, st.integers(0, 30))
def test_as_cheap_as_the_best_of_all_cuts(fed, cost):
    cut = passes(fed, most=10**6, cost=cost)
    assert sorted(row for rows in cut for row in rows) == list(range(len(fed)))
    assert spent(cut, fed, cost) == best(fed, cost)


@given(lengths, st.integers(0, 30), st.integers(1, 40), st.integers(0, 20))
def test_no_pass_is_above_the_limit_unless_one_row_is(fed, cost, most, before):
    cut = passes(fed, most=most, cost=cost, before=[before] * len(fed))
    assert sorted(row for rows in cut for row in rows) == list(range(len(fed)))
    for rows in cut:
        assert len(rows) == 1 or max(fed[row] + before for row in rows) * len(rows) <= most


@pytest.mark.parametrize(("cost", "number"), [(0, 3), (10_000, 1)])
def test_cost_decides_the_number_of_passes(cost, number):
    assert len(passes([1, 5, 9, 9, 5, 1], most=10**6, cost=cost)) == number
