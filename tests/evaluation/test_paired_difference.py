from __future__ import annotations

import numpy as np
import pytest

from genmm_retriever.errors import InputError
from genmm_retriever.evaluation.metrics import bootstrap_interval, paired_difference

HARD = np.random.default_rng(3).random(400)


def test_what_makes_queries_hard_does_not_widen_the_interval():
    better = HARD + 0.05 + 0.01 * np.random.default_rng(4).standard_normal(400)
    difference, low, high = paired_difference(better, HARD)
    assert difference == pytest.approx((better - HARD).mean())
    assert 0.045 < low < difference < high < 0.055
    alone = bootstrap_interval(better)
    assert alone[1] - alone[0] > 10 * (high - low)


def test_the_difference_has_a_sign_and_a_seed():
    found = np.repeat([1.0, 0.0], [30, 70])
    other = np.roll(found, 10)
    forward, back = paired_difference(found, other), paired_difference(other, found)
    assert forward[0] == back[0] == 0
    assert forward[1] < 0 < forward[2]
    assert paired_difference(found, other) == forward
    noisy = HARD[::-1]
    assert paired_difference(HARD, noisy, seed=1) != paired_difference(HARD, noisy)


@pytest.mark.parametrize(
    ("values", "others"),
    [(np.ones(3), np.ones(4)), (np.ones(0), np.ones(0)), (np.ones((2, 2)), np.ones((2, 2)))],
)
def test_only_values_of_the_same_queries_are_paired(values, others):
    with pytest.raises(InputError, match="cannot be paired"):
        paired_difference(values, others)
