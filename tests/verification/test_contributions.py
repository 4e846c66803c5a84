"""A verifier's log-odds, term by term."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genmm_retriever.verification.calibration import Calibration, sigmoid
from genmm_retriever.verification.contributions import contributions
from genmm_retriever.verification.features import Parts

some = st.floats(-5, 5)
part = st.none() | some
weights = st.fixed_dictionaries(
    {
        f"{prefix}{name}": some
        for prefix in ("", "cheap_", "words_")
        for name in ("likelihood", "contrastive", "objects", "generation", "bias")
        if f"{prefix}{name}" != "cheap_likelihood"
    }
    | {"text_likelihood": some, "choice_scale": some, "yesno_scale": some, "yesno_bias": some}
)


def columns(values):
    return np.array([math.nan if value is None else value for value in values])


@given(
    weights,
    st.lists(st.tuples(part, part, part, part, part), min_size=1, max_size=5),
)
def test_terms_add_up_to_what_the_calibration_says(given_weights, rows):
    calibration = Calibration(**given_weights)
    likelihood, words, contrastive, objects, generation = map(columns, zip(*rows, strict=True))
    parts = Parts(likelihood, contrastive, objects, generation, words)
    expected = np.where(np.isnan(likelihood), calibration.unseen(parts), calibration.full(parts))
    for place in range(len(rows)):
        terms = contributions(calibration, parts, place)
        assert sum(term.adds for term in terms) == pytest.approx(expected[place], abs=1e-9)
        assert terms[-1].name == "bias"
        known = {term.name: term.value for term in terms[:-1]}
        assert parts.of(place).items() <= known.items()


@given(weights, st.floats(0.001, 0.999))
def test_judgements_count_alone(given_weights, probability):
    calibration = Calibration(**given_weights)
    for name, judge in (("choice", calibration.choice), ("yes", calibration.yesno)):
        none = np.full(2, math.nan)
        judged = {name: np.array([probability, math.nan])}
        parts = Parts(none, none, none, np.array([-1.0, -2.0]), judged=judged)
        terms = contributions(calibration, parts, 0)
        log_odds = math.log(probability / (1 - probability))
        assert [term.name for term in terms] == [name, "bias"]
        total = sum(term.adds for term in terms)
        assert total == pytest.approx(float(judge(np.array(log_odds))), abs=1e-9)
        assert sigmoid(np.array(total)) == pytest.approx(sigmoid(judge(np.array(log_odds))))
        # The other one was not looked at.
        assert contributions(calibration, parts, 1) == []


def test_what_is_certain_stays_finite():
    none = np.full(1, math.nan)
    parts = Parts(none, none, none, none, judged={"yes": np.ones(1)})
    assert math.isfinite(sum(term.adds for term in contributions(Calibration(), parts, 0)))
