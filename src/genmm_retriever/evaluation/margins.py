"""How far above its prediction a candidate may come: margins for ruling candidates out.

A split conformal bound (Papadopoulos et al., 2002), query by query, as folds take turns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from genmm_retriever.verification.calibration import REACH_DEPTH, REACH_FIRST

FOLDS = 5


def fit_reach(
    unseen: Sequence[np.ndarray], full: Sequence[np.ndarray], *, level: float = 0.95
) -> tuple[float, float]:
    """Slope and margin of `Calibration.reach`.

    Args:
        unseen: By query, log-odds of its candidates without the likelihood, [candidates].
        full: By query, their log-odds by all parts, [candidates].
        level: Share of queries of which none of the best `REACH_DEPTH` is to be ruled out.

    Returns:
        The slope, and the margin; infinite if there are too few queries for the level.

    Examples:
        >>> exact = [np.linspace(3.0, -3.0, 20)] * 40
        >>> slope, margin = fit_reach(exact, [2 * one + 1 for one in exact])
        >>> round(slope, 6), abs(round(margin, 6))
        (2.0, 0.0)
        >>> fit_reach(exact[:5], exact[:5])[1]
        inf
    """
    worst = []
    for fold in range(min(FOLDS, len(unseen))):
        others = [i for i in range(len(unseen)) if i % FOLDS != fold]
        slope = _slope([unseen[i] for i in others], [full[i] for i in others])
        worst += [_excess(unseen[i], full[i], slope) for i in range(fold, len(unseen), FOLDS)]
    rank = math.ceil((len(worst) + 1) * level)
    margin = sorted(worst)[rank - 1] if rank <= len(worst) else math.inf
    return _slope(unseen, full), max(0.0, margin)


def _slope(unseen: Sequence[np.ndarray], full: Sequence[np.ndarray]) -> float:
    """Least squares within queries: what differs between queries is the level's."""
    x = np.concatenate([one - one.mean() for one in unseen] or [np.zeros(1)])
    y = np.concatenate([one - one.mean() for one in full] or [np.zeros(1)])
    spread = float(x @ x)
    return max(0.0, float(x @ y) / spread) if spread > 0 else 0.0


def _excess(unseen: np.ndarray, full: np.ndarray, slope: float) -> float:
    """How far the best ones, unless looked at first, lie above their prediction, at most."""
    order = np.argsort(-unseen, kind="stable")
    above = full[order] - slope * unseen[order]
    best = np.argsort(-full[order], kind="stable")[:REACH_DEPTH]
    later = best[best >= REACH_FIRST]
    return float((above[later] - above[:REACH_FIRST].mean()).max(initial=-math.inf))
