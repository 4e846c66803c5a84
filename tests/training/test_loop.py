"""When a training is examined, when it ends, and what of it is kept."""

from __future__ import annotations

import errno

import pytest

from genmm_retriever.corpus.store import IndexReader
from genmm_retriever.errors import StorageError
from genmm_retriever.training import Figures, train_index
from genmm_retriever.training.builtin import checkpoint
from genmm_retriever.training.exam import Exam
from genmm_retriever.training.loop import PATIENCE, Schedule, progress_of

OPTIONS = {"learning_rate": 1e-2, "progress": False, "force": True}


@pytest.fixture
def graded(monkeypatch):
    """Examinations whose recalls are given; the last one is given again and again."""

    def grade(*recalls):
        left = list(recalls)

        def sit(self, model, search=True):
            recall = left.pop(0) if len(left) > 1 else left[0]
            return Figures(2.0, dict.fromkeys(("1", "5", "10"), recall))

        monkeypatch.setattr(Exam, "sit", sit)

    return grade


def test_the_rate_warms_up_and_falls_to_a_tenth():
    schedule = Schedule(100, 1e-3, 10)
    factors = [schedule.factor(step, step / 100) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[:10] == sorted(factors[:10])
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert schedule.factor(100, 1.0) == pytest.approx(0.1)


def test_it_stops_when_examinations_get_no_better_and_keeps_the_best(build, make_index, graded):
    model = build("llama")
    path = make_index(model)
    graded(10.0, 30.0, 20.0)  # as it was; after 10 of 30 steps; ever after
    report = train_index(path, model=model, steps=60, **OPTIONS)
    assert report.best_step == 20
    assert report.steps == min(60, 20 * (1 + PATIENCE))
    with IndexReader.open(path) as reader:
        assert reader.json("training")["steps"] == 20


def test_a_limit_in_time_ends_it(build, make_index, graded):
    model = build("llama")
    path = make_index(model)
    graded(10.0, 20.0)
    report = train_index(path, model=model, minutes=1e-6, **OPTIONS)
    assert (report.steps, report.best_step, report.published) == (1, 1, True)


def test_a_full_disk_is_named_and_costs_nothing_that_was_kept(
    build, make_index, graded, monkeypatch
):
    model = build("llama")
    path = make_index(model)
    graded(10.0, 20.0)
    save = checkpoint.save

    def full(*arguments):
        if progress_of(path / "training" / "state") is None:
            return save(*arguments)
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "save", full)
        with pytest.raises(StorageError, match=r"training/state.*No space"):
            train_index(path, model=model, steps=6, **OPTIONS)
    assert progress_of(path / "training" / "state").step == 2
    assert train_index(path, model=model, steps=6, **OPTIONS).steps == 6
