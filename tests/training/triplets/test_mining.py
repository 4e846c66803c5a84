"""Pairs: of one group, near, never the same, balanced, seeded."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from genmm_retriever.training.triplets.mining import SAME, mine_pairs


def looks(n, seed, spread=1.0):
    draw = np.random.default_rng(seed)
    vectors = draw.normal(size=(n, 6)) * spread + np.eye(6)[0]
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@given(
    st.lists(st.sets(st.sampled_from("abc"), max_size=2), max_size=25),
    st.integers(1, 3),
    st.integers(0, 5),
)
def test_what_holds_of_all_pairs(names, per_item, seed):
    rows = [10 + 3 * i for i in range(len(names))]
    groups = {row: sorted(some) for row, some in zip(rows, names, strict=True) if some}
    vectors = looks(len(rows), seed) if rows else np.zeros((0, 6), np.float32)
    pairs = mine_pairs(rows, vectors, groups, per_item=per_item, seed=seed)
    assert pairs == mine_pairs(rows, vectors, groups, per_item=per_item, seed=seed)
    both = [frozenset((pair.reference, pair.target)) for pair in pairs]
    assert len(set(both)) == len(both)
    assert all(len(one) == 2 for one in both)
    assert max(Counter(pair.reference for pair in pairs).values(), default=0) <= per_item
    assert max(Counter(pair.target for pair in pairs).values(), default=0) <= 2 * per_item
    for pair in pairs:
        assert pair.group in groups[pair.reference]
        assert pair.group in groups[pair.target]
        assert pair.similarity < SAME
        cosine = vectors[rows.index(pair.reference)] @ vectors[rows.index(pair.target)]
        assert abs(cosine - pair.similarity) < 1e-5


def test_the_same_picture_twice_is_no_pair():
    vectors = looks(4, 0)
    vectors[1] = vectors[0]
    pairs = mine_pairs(range(4), vectors, {row: ["a"] for row in range(4)}, per_item=3)
    assert pairs
    assert not any({pair.reference, pair.target} == {0, 1} for pair in pairs)


def test_partners_are_near():
    vectors = looks(60, 1)
    cosines = vectors @ vectors.T
    pairs = mine_pairs(range(60), vectors, {row: ["a"] for row in range(60)})
    for pair in pairs:
        assert (cosines[pair.reference] > pair.similarity + 1e-6).sum() <= 10


def test_every_beginning_is_balanced_over_groups():
    groups = {row: ["many"] if row < 40 else ["few"] for row in range(50)}
    pairs = mine_pairs(range(50), looks(50, 2), groups)
    assert Counter(pair.group for pair in pairs[:12]) == {"many": 6, "few": 6}
    other = mine_pairs(range(50), looks(50, 2), groups, seed=1)
    assert pairs != other
