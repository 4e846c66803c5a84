"""From parts to one probability."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genmm_retriever.verification import Calibration, Parts
from genmm_retriever.verification.calibration import TEXTS, sigmoid

NAN = np.nan


def parts(likelihood, contrastive, objects, generation):
    values = (likelihood, contrastive, objects, generation)
    return Parts(*(np.array(part, dtype=float) for part in values))


def test_log_odds_are_the_weighted_parts():
    weights = Calibration(
        likelihood=2.0,
        contrastive=3.0,
        objects=4.0,
        generation=0.5,
        bias=-1.0,
        cheap_contrastive=5.0,
        cheap_objects=10.0,
        cheap_generation=0.25,
        cheap_bias=-2.0,
    )
    some = parts([0.5, 1.0], [0.1, 0.2], [0.5, 0.25], [-4.0, -2.0])
    np.testing.assert_allclose(weights.full(some), [-1 + 1 + 0.3 + 2 - 2, -1 + 2 + 0.6 + 1 - 1])
    np.testing.assert_allclose(weights.cheap(some), [-2 + 0.5 + 5 - 1, -2 + 1 + 2.5 - 0.5])


def test_missing_parts_count_as_zero_and_missing_generation_as_the_lowest():
    weights = Calibration(likelihood=1.0, contrastive=1.0, objects=1.0, generation=1.0, bias=0.0)
    some = parts([NAN, 1.0, 1.0], [NAN, NAN, 1.0], [NAN, 0.5, NAN], [-1.0, NAN, -3.0])
    np.testing.assert_allclose(weights.full(some), [-1.0, 1.0 + 0.5 - 3.0, 1 + 1 - 3.0])
    none = parts([0.0, 0.0], [NAN, NAN], [NAN, NAN], [NAN, NAN])
    assert weights.full(none).tolist() == [0.0, 0.0]
    assert np.isfinite(weights.cheap(none)).all()


def test_a_model_brings_its_calibration_along():
    assert Calibration.of(object()) == Calibration()
    assert Calibration.of(SimpleNamespace(calibration=None)) == Calibration()
    known = {"likelihood": 7, "debias": 0.25, "of_a_newer_version": 1.0}
    made = Calibration.of(SimpleNamespace(calibration=known))
    # Weights that were fitted without the words give them none.
    assert made == Calibration(likelihood=7.0, debias=0.25, words_likelihood=0.0)
    assert isinstance(made.likelihood, float)


@pytest.mark.parametrize("margin", [2.5, math.inf])
def test_json_and_back(margin):
    weights = Calibration(likelihood=1.25, bias=-0.5, words_reach_margin=margin)
    written = json.dumps(weights.to_json(), allow_nan=False)
    assert Calibration.of(SimpleNamespace(calibration=json.loads(written))) == weights
    assert weights.can_rule_out(True) == math.isfinite(margin)
    assert not weights.can_rule_out(False)


def test_words_count_where_they_were_read():
    weights = Calibration(
        likelihood=1.0,
        text_likelihood=0.5,
        generation=0.0,
        bias=0.0,
        cheap_generation=0.0,
        cheap_bias=-7.0,
        words_likelihood=2.0,
        words_contrastive=4.0,
        words_objects=8.0,
        words_generation=0.25,
        words_bias=1.0,
    )
    some = Parts(
        likelihood=np.array([1.0, NAN, 1.0]),
        contrastive=np.array([0.0, 0.5, 0.0]),
        objects=np.array([0.0, 0.25, 0.0]),
        generation=np.array([-4.0, -4.0, -4.0]),
        text_likelihood=np.array([3.0, 3.0, NAN]),
    )
    np.testing.assert_allclose(weights.full(some), [1 + 1.5, 1.5 + 5 + 1.25, 1.0])
    np.testing.assert_allclose(weights.unseen(some), [1 + 6 - 1, 1 + 6 + 2 + 2 - 1, -7.0])
    without = replace(some, text_likelihood=None)
    np.testing.assert_allclose(weights.unseen(without), weights.cheap(without))
    assert some.of(1) == {"text_likelihood": 3.0, "contrastive": 0.5, "objects": 0.25}


@pytest.mark.parametrize("sought", TEXTS)
def test_texts_have_weights_of_their_own_whether_looked_at_or_not(sought):
    prefix, *others = sorted(TEXTS.values(), key=lambda one: one != TEXTS[sought])
    own = {"likelihood": 2.0, "contrastive": 3.0, "objects": 4.0, "generation": 0.5, "bias": -1.0}
    weights = Calibration(
        **{prefix + name: value for name, value in own.items()},
        **{other + name: 7.0 for name in own for other in others},
        text_likelihood=9.0,
        reach_margin=1.0,
        words_reach_margin=1.0,
        guidance=2.5,
    ).for_texts(sought)
    some = parts([0.5, NAN], [0.1, 0.2], [0.5, 0.25], [4.0, 8.0])
    np.testing.assert_allclose(weights.full(some), [-1 + 1 + 0.3 + 2 + 2, -1 + 0.6 + 1 + 4])
    np.testing.assert_allclose(weights.unseen(some), [-1 + 0.3 + 2 + 2, -1 + 0.6 + 1 + 4])
    assert not weights.can_rule_out(True)
    assert not weights.can_rule_out(False)
    assert weights.guidance == 2.5


def test_reach_is_the_level_of_the_first_and_the_margin():
    weights = Calibration(
        reach_slope=2.0, reach_margin=0.5, words_reach_slope=1.0, words_reach_margin=0.25
    )
    unseen, first = np.array([3.0, 1.0, 0.0]), np.array([7.0, 4.0])
    # On average the first lie 1.5 above twice, and 3.5 above once, what was known before.
    np.testing.assert_allclose(weights.reach(unseen, False, first), [8.0, 4.0, 2.0])
    np.testing.assert_allclose(weights.reach(unseen, True, first), [6.75, 4.75, 3.75])


@given(st.lists(st.floats(allow_nan=False, allow_infinity=True), min_size=1))
def test_sigmoid_is_a_probability_and_never_overflows(values):
    with np.errstate(all="raise", under="ignore"):
        found = sigmoid(np.array(values))
    assert ((found >= 0) & (found <= 1)).all()
    assert (np.diff(found[np.argsort(values, kind="stable")]) >= 0).all()


def test_sigmoid_golden_values():
    np.testing.assert_allclose(sigmoid(np.array([-2.0, 0.0, 2.0])), [0.119202922, 0.5, 0.880797078])
    assert sigmoid(np.array([800.0, -800.0])) == pytest.approx([1.0, 0.0])


def test_judges_have_a_scale_and_a_bias_of_their_own():
    known = {"choice_scale": 0.5, "yesno_bias": -1.0}
    weights = Calibration.of(SimpleNamespace(calibration=known))
    # The weights of the likelihood stay those of a model about which nothing is known.
    assert weights == Calibration(choice_scale=0.5, yesno_bias=-1.0)
    assert weights.choice(np.array([2.0, -4.0])).tolist() == [1.0, -2.0]
    assert weights.yesno(np.array([2.0])).tolist() == [1.0]
    assert Calibration().choice(np.array([3.0])).tolist() == [3.0]
