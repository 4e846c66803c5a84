"""`train_index` with triplets."""

from __future__ import annotations

import json

import pytest

from genmm_retriever.corpus.store import IndexReader
from genmm_retriever.errors import InputError, SourceError
from genmm_retriever.training import loop, train, train_index
from genmm_retriever.training.exam import Figures
from genmm_retriever.training.triplets.book import KnownTriplet
from genmm_retriever.training.triplets.pairs import composed_pairs

SHORT = {"steps": 6, "learning_rate": 1e-2, "progress": False, "force": True}


class Killed(BaseException):
    """What a test ends a training with."""


@pytest.fixture(autouse=True)
def few_examinations(monkeypatch):
    """Two examinations a training."""
    monkeypatch.setattr(train, "_EXAMINATIONS", 2)


@pytest.fixture
def triplets(tmp_path):
    """Twelve triplets of the eight pictures, and one about none of them."""
    path = tmp_path / "triplets.jsonl"
    pairs = [(a, b) for a in range(4) for b in range(4, 7)]
    lines = [
        {"reference": f"p{a}", "target": f"p{b}", "text": f"go to {b} from {a}", "reverse": back}
        for a, b in pairs
        for back in [None if a == 3 else f"back to {a} from {b}"]
    ]
    lines.append({"reference": "p0", "target": "gone", "text": "somewhere else"})
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def test_composed_queries_are_learnt_and_examined_apart(seeing, photos, triplets):
    path = photos()
    options = {"steps": 40, "learning_rate": 1e-2, "progress": False}
    report = train_index(path, model=seeing, triplets=triplets, **options)
    before, after = report.before.composed, report.after.composed
    assert after.loss < 0.7 * before.loss
    assert after.mean_recall >= before.mean_recall
    assert report.after.loss < report.before.loss
    assert report.passed_over == 1
    assert report.composed + report.held_composed == 21
    assert report.held_composed in (1, 2)
    assert report.published
    told = report.to_json()
    assert told["after"]["composed"]["loss"] == after.loss
    with IndexReader.open(path) as reader:
        kept = reader.json("training")
        assert kept["held_composed"] == report.held_composed
        assert Figures.from_json(kept["after"]) == report.after
    # What is known already may be refreshed with triplets alone.
    again = train_index(path, model=seeing, triplets=[triplets], refresh=True, **SHORT)
    assert again.composed == report.composed
    assert again.pairs > report.composed


def test_a_training_that_was_ended_goes_on_to_the_same_end(seeing, photos, triplets):
    whole, broken = photos("whole"), photos("broken")
    expected = train_index(whole, model=seeing, triplets=triplets, **SHORT)

    def stop(step):
        if step == 4:
            raise Killed

    with pytest.raises(Killed):
        train_index(broken, model=seeing, triplets=triplets, interrupt=stop, **SHORT)
    assert loop.progress_of(broken / "training" / "state").step == 4
    report = train_index(broken, model=seeing, triplets=triplets, **SHORT)
    assert report.best_step == expected.best_step
    assert report.after.composed.loss == pytest.approx(expected.after.composed.loss, abs=1e-3)
    assert report.after.loss == pytest.approx(expected.after.loss, abs=1e-3)
    assert report.after.recall == expected.after.recall
    assert report.after.composed.recall == expected.after.composed.recall


def test_files_without_use_are_named(seeing, photos, triplets, tmp_path):
    path = photos()
    other = tmp_path / "other.jsonl"
    other.write_text('{"reference": "x", "target": "y", "text": "in snow"}')
    with pytest.raises(InputError, match=r"other\.jsonl.*no triplet"):
        train_index(path, model=seeing, triplets=other, **SHORT)
    other.write_text('{"reference": "text", "target": "p1", "text": "in snow"}')
    with pytest.raises(InputError, match="without pictures"):
        train_index(path, model=seeing, triplets=[other], **SHORT)
    with pytest.raises(SourceError, match=r"none\.jsonl"):
        train_index(path, model=seeing, triplets=tmp_path / "none.jsonl", **SHORT)


def test_held_out_pairs_are_never_learnt_either_way():
    known = [KnownTriplet(a, b, f"to {b}", f"to {a}") for a in range(8) for b in range(8, 16)]
    learnt, held = composed_pairs(known, seed=1)
    assert len(held) == 12
    both = {frozenset((pair.looked, *pair.rows)) for pair in held}
    assert not both & {frozenset((pair.looked, *pair.rows)) for pair in learnt}
    assert not {pair.text for pair in held} & {pair.text for pair in learnt}
    assert composed_pairs(known, seed=1) == (learnt, held)
    assert composed_pairs([], seed=0) == ([], [])


def test_both_kinds_of_queries_count_alike():
    composed = Figures(4.0, {"1": 10.0, "5": 30.0})
    figures = Figures(2.0, {"1": 50.0, "5": 70.0}, composed)
    assert (figures.mean_recall, figures.mean_loss) == (40.0, 3.0)
    assert Figures.from_json(figures.to_json()) == figures
    assert (
        str(figures) == "loss 2.000, R@1 50.0, R@5 70.0; composed: loss 4.000, R@1 10.0, R@5 30.0"
    )
