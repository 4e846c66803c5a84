"""Fitting the verifier's weights: on judged queries made from weights that are known."""

from __future__ import annotations

import numpy as np
import pytest

from genmm_retriever.errors import InputError

torch = pytest.importorskip("torch")
calibration = pytest.importorskip("genmm_retriever.evaluation.calibration")

Observed, TEXTS = calibration.Observed, calibration.TEXTS


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
    return one.named()


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


def with_words(seen, *, noise=1.0, seed=5):
    """Words that tell the likelihood, up to noise."""
    draw = np.random.default_rng(seed)
    read = []
    for one in seen:
        told = one.parts[:, 0] + noise * torch.from_numpy(draw.normal(size=len(one.parts)))
        read.append(Observed(one.parts, one.relevant, told))
    return read


def test_words_that_tell_the_likelihood_stand_in_for_it():
    seen = with_words(queries([2.0, 10.0, 9.0, 0.2]))
    found = calibration.fit(seen, budget=40, debias=0.0)
    assert found.reads_words
    # Half of the variance of such words is noise; next to the likelihood they say nothing.
    assert found.words_likelihood / found.words_contrastive == pytest.approx(0.1, rel=0.5)
    assert found.text_likelihood < 0.25 * found.likelihood
    assert 0 < found.words_reach_margin < found.reach_margin
    without = calibration.fit(queries([2.0, 10.0, 9.0, 0.2]), budget=40, debias=0.0)
    assert not without.reads_words
    assert not without.can_rule_out(True)


def test_words_unread_in_one_query_have_no_weight():
    seen = with_words(queries([2.0, 10.0, 9.0, 0.2], count=30))
    seen[3] = Observed(seen[3].parts, seen[3].relevant)
    assert not calibration.fit(seen, budget=40, debias=0.0).reads_words


def reciprocal_rank(seen, weights, budget=16):
    return calibration._mrr(seen, weights, budget)


@pytest.mark.parametrize(
    ("truth", "kept"),
    [
        ([2.0, 10.0, 9.0, 0.2], False),
        # The likelihood and the cosine say the opposite of what is right.
        ([-2.0, -10.0, 0.0, 0.3], False),
        # Objects mislead, yet weigh at least a part of the cosine.
        ([0.0, 8.0, -60.0, 0.3], True),
    ],
)
def test_an_adversarial_verifier_is_never_worse_than_the_first_stage(truth, kept):
    seen = queries(truth)
    found = calibration.fit(seen, budget=16, debias=0.0)
    assert reciprocal_rank(seen, found) >= reciprocal_rank(seen, None)
    if kept:
        assert (found.likelihood, found.contrastive, found.cheap_objects) == (0.0, 0.0, 0.0)
        assert reciprocal_rank(seen, found) == reciprocal_rank(seen, None)
        fresh = queries(truth, seed=1)
        for one in fresh:
            parts = one.named()
            order = np.argsort(-parts.generation)
            assert (np.diff(found.full(parts)[order]) <= 0).all()
            assert (np.diff(found.unseen(parts)[order]) <= 0).all()


@pytest.mark.parametrize(("sought", "prefix"), TEXTS.items())
def test_weights_for_texts_are_never_worse_than_the_first_stage(sought, prefix):
    good = queries([2.0, 10.0, 9.0, 0.2])
    found = calibration.fit_texts(good, sought)
    assert {name.removeprefix(prefix) for name in found} == {
        "likelihood", "contrastive", "objects", "generation", "bias",
    }  # fmt: skip
    assert found[prefix + "contrastive"] / found[prefix + "likelihood"] == pytest.approx(
        5, rel=0.35
    )
    truth = [0.0, 8.0, -60.0, 0.3]
    misled = queries(truth)
    kept = calibration.fit_texts(misled, sought)
    assert kept[prefix + "likelihood"] == kept[prefix + "contrastive"] == 0.0
    assert kept[prefix + "generation"] > 0
    weights = calibration.Calibration(**kept).for_texts(sought)
    assert reciprocal_rank(misled, weights) == reciprocal_rank(misled, None)
    with pytest.raises(InputError, match="no query"):
        calibration.fit_texts([], sought)


def test_margins_lose_the_best_of_no_more_queries_than_agreed():
    seen = with_words(queries([2.0, 10.0, 9.0, 0.2], count=200), noise=0.3)
    found = calibration.fit(seen, budget=40, debias=0.0, level=0.9)
    lost, looked = 0, []
    for one in with_words(queries([2.0, 10.0, 9.0, 0.2], count=300, seed=9), noise=0.3, seed=6):
        parts = one.named()
        unseen, full = found.unseen(parts), found.full(parts)
        order = np.argsort(-unseen, kind="stable")
        reach = found.reach(unseen[order], True, full[order[:8]])
        bar = np.sort(full)[-10]
        kept = order[(reach >= bar) | (np.arange(40) < 8)]
        lost += not set(np.flatnonzero(full >= bar)) <= set(kept)
        looked.append(len(kept))
    assert 0 < lost / 300 <= 0.1 + 0.04
    assert np.mean(looked) < 36


def test_too_few_queries_know_no_margin():
    found = calibration.fit(queries([2.0, 10.0, 9.0, 0.2], count=15), budget=40, debias=0.0)
    assert not found.can_rule_out(False)


def test_nothing_to_fit_on():
    with pytest.raises(InputError, match="no query has a right candidate"):
        calibration.fit([], budget=16, debias=0.0)


class Judged:
    """Gives ten hits a query, of which the first is right as often as was drawn."""

    def __init__(self, log_odds, right):
        self.hits = iter(zip(log_odds, right, strict=True))

    def retrieve(self, query, *, verify):
        from genmm_retriever.schema import Evidence, Hit, Item

        part = {"choice": "choice", "yesno": "yes"}[verify]
        scores, right = next(self.hits)
        return [
            Hit(
                item=Item(id="right" if fits else f"wrong {i}", text="x"),
                score=0.5,
                rank=i + 1,
                evidence=Evidence(parts={part: float(1 / (1 + np.exp(-score)))}),
            )
            for i, (score, fits) in enumerate(zip(scores, right, strict=True))
        ]


def judged(scale, bias, *, count=400, seed=0):
    draw = np.random.default_rng(seed)
    log_odds = draw.normal(size=(count, 10)) * 3
    right = draw.random((count, 10)) < 1 / (1 + np.exp(-(scale * log_odds + bias)))
    return Judged(log_odds, right)


@pytest.mark.parametrize("judge", ["choice", "yesno"])
def test_scale_and_bias_of_a_judge_are_found_again(judge):
    from genmm_retriever.evaluation.datasets import EvalQuery
    from genmm_retriever.evaluation.platt import fit_judge
    from genmm_retriever.schema import Query

    asked = [EvalQuery(str(i), Query(text="x"), frozenset({"right"})) for i in range(400)]
    found = fit_judge(judged(0.4, -2.0), asked, judge, progress=False)
    assert found == pytest.approx({f"{judge}_scale": 0.4, f"{judge}_bias": -2.0}, abs=0.12)
    # One that says the opposite of what is right keeps its order, and tells nothing.
    found = fit_judge(judged(-0.4, -2.0), asked, judge, progress=False)
    assert 0 < found[f"{judge}_scale"] <= 1e-3
    with pytest.raises(InputError, match="0 are right"):
        fit_judge(judged(0.0, -99.0), asked, judge, progress=False)
