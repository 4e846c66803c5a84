"""From parts to one probability."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genmm_retriever.verification import Calibration, Parts
from genmm_retriever.verification.calibration import sigmoid

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


def test_json_and_back():
    weights = Calibration(likelihood=1.25, bias=-0.5)
    assert Calibration.of(SimpleNamespace(calibration=weights.to_json())) == weights


@given(st.lists(st.floats(allow_nan=False, allow_infinity=True), min_size=1))
def test_sigmoid_is_a_probability_and_never_overflows(values):
    with np.errstate(all="raise", under="ignore"):
        found = sigmoid(np.array(values))
    assert ((found >= 0) & (found <= 1)).all()
    assert (np.diff(found[np.argsort(values, kind="stable")]) >= 0).all()


def test_sigmoid_golden_values():
    np.testing.assert_allclose(sigmoid(np.array([-2.0, 0.0, 2.0])), [0.119202922, 0.5, 0.880797078])
    assert sigmoid(np.array([800.0, -800.0])) == pytest.approx([1.0, 0.0])
