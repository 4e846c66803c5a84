"""Fitting the verifier's weights: on judged queries made from weights that are known."""

from __future__ import annotations

import numpy as np
import pytest

from genmm_retriever.errors import InputError

torch = pytest.importorskip("torch")
calibration = pytest.importorskip("genmm_retriever.evaluation.calibration")

Observed = calibration.Observed


def queries(weights, *, count=120, candidates=40, seed=0):
    """Queries whose one right candidate is drawn with odds of exp(weights @ parts)."""
    draw = np.random.default_rng(seed)
    spread = np.array([1.0, 0.15, 0.1, 5.0])
    seen = []
    for _ in range(count):
        parts = draw.normal(size=(candidates, 4)) * spread
        odds = np.exp(parts @ np.array(weights))
        right = draw.choice(candidates, p=odds / odds.sum())
        relevant = np.arange(candidates) == right
        seen.append(Observed(torch.from_numpy(parts), torch.from_numpy(relevant)))
    return seen


def parts_of(one):
    from genmm_retriever.verification import Parts

    return Parts(*one.parts.numpy().T)


def test_what_made_the_judgements_is_found_again():
    found = calibration.fit(queries([2.0, 10.0, 9.0, 0.2]), budget=40, debias=0.7)
    # The scale is that of probabilities; proportions are those of the truth.
    assert found.contrastive / found.likelihood == pytest.approx(5.0, rel=0.35)
    assert found.objects / found.contrastive == pytest.approx(0.9, rel=0.35)
    assert found.generation / found.likelihood == pytest.approx(0.1, rel=0.35)
    assert found.debias == 0.7


def test_scores_are_probabilities():
    from genmm_retriever.verification.calibration import sigmoid

    found = calibration.fit(queries([2.0, 10.0, 9.0, 0.2]), budget=40, debias=0.0)
    fresh = queries([2.0, 10.0, 9.0, 0.2], seed=1)
    probability = np.concatenate([sigmoid(found.full(parts_of(one))) for one in fresh])
    right = np.concatenate([one.relevant.numpy() for one in fresh])
    assert probability.mean() == pytest.approx(right.mean(), rel=0.25)
    sure = probability > 0.3
    assert sure.sum() > 30
    assert right[sure].mean() == pytest.approx(probability[sure].mean(), abs=0.15)


def test_no_part_counts_against_what_it_speaks_for():
    found = calibration.fit(queries([2.0, 10.0, 9.0, -0.3]), budget=40, debias=0.0)
    assert found.generation == 0.0
    assert found.cheap_generation == 0.0
    assert min(found.likelihood, found.contrastive, found.objects) > 0


def test_objects_weigh_something_even_where_they_did_not_help():
    found = calibration.fit(queries([2.0, 10.0, 0.0, 0.1]), budget=40, debias=0.0)
    least = calibration.LEAST_OBJECTS
    assert found.objects >= least * found.contrastive * (1 - 1e-9)
    assert found.cheap_objects >= least * found.cheap_contrastive * (1 - 1e-9)


def test_queries_whose_answer_is_beyond_the_budget_do_not_stop_the_fit():
    seen = queries([2.0, 10.0, 9.0, 0.2], count=60)
    found = calibration.fit(seen, budget=2, debias=0.0)
    assert np.isfinite(list(found.to_json().values())).all()


def test_nothing_to_fit_on():
    with pytest.raises(InputError, match="no query has a right candidate"):
        calibration.fit([], budget=16, debias=0.0)
