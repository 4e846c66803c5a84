"""What `genmm train` says of a training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from genmm_retriever.serving.commands_train import _told
from genmm_retriever.training import TrainingReport
from genmm_retriever.training.exam import Figures

REPORT = TrainingReport(
    published=True,
    items=30,
    pairs=233,
    held_out=30,
    steps=18,
    best_step=12,
    seconds=258.0,
    before=Figures(2.7, {"1": 20.0, "5": 60.0, "10": 80.0}),
    after=Figures(2.6, {"1": 23.3, "5": 60.0, "10": 80.0}),
    adapter="x",
    held_human=6,
)


def test_recalls_are_told_with_what_they_are_of_and_how_far_they_may_be_trusted() -> None:
    told = _told(Path("a.genmm"), REPORT)

    assert "30 held-out queries (24 written by the model, 6 by people)" in told
    assert "one of which is 3.3 points" in told
    assert "a.genmm answers with the trained model now" in told.splitlines()
    alone = _told(Path("a.genmm"), replace(REPORT, held_out=1, held_human=1, steps=1))
    assert "1 held-out query (1 by people), one of which is 100.0 points" in alone
    assert "233 pairs an epoch, 1 step, the best after 12; 258 s" in alone


@pytest.mark.parametrize("recall", [20.0, 10.0])
def test_what_is_published_by_force_alone_is_told(recall: float) -> None:
    after = Figures(2.6, {"1": recall, "5": 60.0, "10": 80.0})

    forced = _told(Path("a.genmm"), replace(REPORT, after=after))
    kept = _told(Path("a.genmm"), replace(REPORT, after=after, published=False))

    assert "recall did not rise, but --force publishes all the same: a.genmm answers" in forced
    assert "nothing was published" in kept
