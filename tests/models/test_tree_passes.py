"""Tails of several trees cut into passes: all once, as cheap as may be, within the limit."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from genmm_retriever.models.tree_passes import tree_passes

tails = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 3), st.booleans()), max_size=14)


def columns(rows):
    return tuple([row[column] for row in rows] for column in range(3))


def padded(chunk, fed, queries):
    """Tokens of a pass, and the most of one of its queries."""
    sizes = {}
    for tail in chunk:
        sizes[queries[tail]] = sizes.get(queries[tail], 0) + fed[tail]
    return max(sizes.values(), default=0) * len(sizes)


def spent(cut, fed, queries, cost):
    return sum(padded(chunk, fed, queries) + cost for chunk in cut)


@given(tails, st.integers(4, 40), st.integers(0, 12))
def test_all_tails_run_once_within_the_limit_and_those_that_go_on_first(given, most, cost):
    fed, queries, ends = columns(given)
    cut = tree_passes(fed, queries, ends, most=most, cost=cost)
    assert sorted(tail for chunk in cut for tail in chunk) == list(range(len(fed)))
    going = [tail for tail, end in enumerate(ends) if not end]
    if going:
        assert cut[0][: len(going)] == going
    least = padded(going, fed, queries)
    for number, chunk in enumerate(cut):
        size = padded(chunk, fed, queries)
        assert size <= max(most, least if number == 0 else 0) or len(chunk) == 1


@example([(0, 1, False), (2, 0, False), (3, 1, True)], 0)
@given(tails, st.integers(0, 12))
def test_never_dearer_than_everything_in_one_pass_or_a_query_a_pass(given, cost):
    fed, queries, ends = columns(given)
    cut = tree_passes(fed, queries, ends, most=10**6, cost=cost)
    going = [tail for tail, end in enumerate(ends) if not end]
    one = [list(range(len(fed)))]
    apart = [going] if going else []
    for query in range(4):
        own = [tail for tail, end in enumerate(ends) if end and queries[tail] == query]
        apart += [own] if own else []
    for other in (one, apart):
        assert spent(cut, fed, queries, cost) <= spent(other, fed, queries, cost) + cost


def test_one_query_runs_in_one_pass_as_far_as_it_fits():
    assert tree_passes([2, 3, 3], [0, 0, 0], [True, False, True], most=8, cost=1) == [[1, 0, 2]]
    assert tree_passes([2, 3, 3], [0, 0, 0], [True, False, True], most=7, cost=1) == [[1], [0, 2]]
    assert tree_passes([], [], [], most=8, cost=1) == []
