"""What every verifier does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from genmm_retriever.verification.calibration import Calibration
from genmm_retriever.verification.features import (
    CandidateView,
    Parts,
    QueryView,
    generation_scores,
)


class Verifier(Protocol):
    """Says how likely each of a few candidates is what a query looks for."""

    calibration: Calibration

    def verify(
        self, query: QueryView, candidates: Sequence[CandidateView], *, at_least: int = 0
    ) -> tuple[np.ndarray, Parts]:
        """Probabilities that each candidate answers the query.

        Args:
            query: With text, a picture or both.
            candidates: n of them; their first-stage scores say which come first.
            at_least: The hits wanted.

        Returns:
            Probabilities [n], and the parts that they come from. A candidate that was not
            looked at never outranks one that was.
        """
        ...


def verify_all(
    verifier: Verifier,
    queries: Sequence[QueryView],
    candidates: Sequence[Sequence[CandidateView]],
    *,
    at_least: int = 0,
) -> list[tuple[np.ndarray, Parts]]:
    """As `Verifier.verify` for several queries, together where the verifier can.

    Args:
        verifier: Any.
        queries: Q of them.
        candidates: Those of each.
        at_least: The hits wanted of each.
    """
    together: Any = getattr(verifier, "verify_all", None)
    if together is not None:
        found: list[tuple[np.ndarray, Parts]] = together(queries, candidates, at_least=at_least)
        return found
    return [
        verifier.verify(query, some, at_least=at_least)
        for query, some in zip(queries, candidates, strict=True)
    ]


def first_stage_order(candidates: Sequence[CandidateView]) -> np.ndarray:
    """Places by first-stage score, best first, [n]; equals as given, those without one last."""
    scores = generation_scores(candidates, missing=-np.inf)
    order: np.ndarray = np.argsort(-scores, kind="stable")
    return order


_LEAST = 1e-300
"""Probability of a candidate that was looked at, at least: room for the others below it."""


def with_room_below(probability: np.ndarray, looked: np.ndarray) -> tuple[np.ndarray, float]:
    """Probabilities [n], and the most that one of those not looked at may have.

    Args:
        probability: Of n candidates.
        looked: Which were looked at, [n], bool; at least one.
    """
    raised: np.ndarray = probability.copy()
    raised[looked] = np.maximum(raised[looked], _LEAST)
    return raised, float(raised[looked].min() * 0.999)


def fill_below(
    probability: np.ndarray, looked: np.ndarray, candidates: Sequence[CandidateView]
) -> np.ndarray:
    """Probabilities [n] where those not looked at follow below, in the first stage's order.

    Args:
        probability: Of those looked at, [m], of the others anything.
        looked: Which were looked at, [n], bool.
        candidates: n of them.
    """
    if not looked.any() or looked.all():
        return probability
    filled, ceiling = with_room_below(probability, looked)
    rest = generation_scores(candidates, missing=-np.inf)[~looked]
    best = rest.max()
    filled[~looked] = ceiling * (np.exp(rest - best) if np.isfinite(best) else 0.0)
    return filled
