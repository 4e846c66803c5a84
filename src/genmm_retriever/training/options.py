"""How a training is asked for, and what is told of it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from genmm_retriever.errors import InputError
from genmm_retriever.training.exam import Figures


@dataclass(frozen=True)
class TrainingReport:
    """What a training did.

    Args:
        published: Whether the index has the new adapter now.
        items: Items of the index.
        pairs: Pairs of a query and its identifiers that were learnt from.
        held_out: Queries that were examined and never learnt from.
        steps: Optimiser steps done.
        best_step: The step whose weights were kept.
        seconds: Of this call.
        before: Figures of the model as it was.
        after: Figures of the trained model, as it would be served.
        adapter: What names the new adapter, or None.
        composed: Composed queries of triplets that were learnt from.
        held_composed: Those that were examined and never learnt from.
        passed_over: Triplets about items that the index lacks, or that are no pictures.
        notes: Notes beside the items that were learnt from.
        held_human: Of the queries held out those that people wrote; the model wrote the others.
    """

    published: bool
    items: int
    pairs: int
    held_out: int
    steps: int
    best_step: int
    seconds: float
    before: Figures
    after: Figures
    adapter: str | None = None
    composed: int = 0
    held_composed: int = 0
    passed_over: int = 0
    notes: int = 0
    held_human: int = 0

    @property
    def rose(self) -> bool:
        """Whether the recall on what was held out is higher than before."""
        return self.after.is_above(self.before)

    def to_json(self) -> dict[str, Any]:
        """As `genmm train --json` prints it."""
        return asdict(self) | {"before": self.before.to_json(), "after": self.after.to_json()}


@dataclass(frozen=True)
class TrainingOptions:
    """How to train; see `train.train_index`.

    Raises:
        InputError: If a value is out of range.
    """

    epochs: float | None = None
    minutes: float | None = None
    steps: int | None = None
    learning_rate: float | None = None
    rank: int = 16
    refresh: bool = False
    replay: float = 1.0
    seed: int = 0
    notes: bool = True

    def __post_init__(self) -> None:
        for name in ("epochs", "minutes", "steps", "learning_rate", "rank"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise InputError(f"{name} is {value!r}", "give a number above 0")
        if not 0 <= self.replay < math.inf:
            raise InputError(f"replay is {self.replay!r}", "give a number of at least 0")
