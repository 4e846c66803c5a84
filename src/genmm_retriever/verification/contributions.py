"""What each part adds to a verifier's log-odds: the calibration, read term by term."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from genmm_retriever.verification.calibration import Calibration, known_generation
from genmm_retriever.verification.features import Parts

_JUDGED = {"choice": "choice", "yes": "yesno"}
"""Parts that are probabilities of their own, and how their weights are called."""


@dataclass(frozen=True)
class Contribution:
    """One term of the log-odds.

    Attributes:
        name: The part; `"bias"` for the term that is the same for every candidate.
        value: The part's value; of `choice` and `yes` its log-odds.
        weight: What one of it is worth in log-odds.
    """

    name: str
    value: float
    weight: float

    @property
    def adds(self) -> float:
        """What it adds to the log-odds."""
        return self.value * self.weight


def contributions(calibration: Calibration, parts: Parts, place: int) -> list[Contribution]:
    """The terms of one candidate's log-odds, bias last; parts that are not known are left out.

    For a candidate that was looked at, the sigmoid of their sum is its probability. Others are
    judged by the weights for what is known of them, and then kept below those looked at; where
    only a judgement counts, as in a choice, nothing is known of them.

    Args:
        calibration: Of the verifier.
        parts: That it gave for n candidates.
        place: The candidate, below n.
    """
    for name, weights in _JUDGED.items():
        if name in parts.judged:
            probability = float(parts.judged[name][place])
            if math.isnan(probability):
                return []
            scale = getattr(calibration, f"{weights}_scale")
            bias = getattr(calibration, f"{weights}_bias")
            terms = [Contribution(name, _log_odds(probability), scale)]
            return [*terms, Contribution("bias", 1.0, bias)]
    values = {
        "likelihood": parts.likelihood[place],
        "text_likelihood": parts.words[place],
        "contrastive": parts.contrastive[place],
        "objects": parts.objects[place],
        "generation": known_generation(parts.generation)[place],
    }
    known = {name: float(value) for name, value in values.items() if not np.isnan(value)}
    prefix = ""
    if "likelihood" not in known:
        prefix = "words_" if "text_likelihood" in known else "cheap_"
    # Without the likelihood, that given the words has the likelihood's name.
    renamed = {"text_likelihood": "likelihood"} if prefix else {}
    terms = [
        Contribution(name, value, getattr(calibration, prefix + renamed.get(name, name)))
        for name, value in known.items()
    ]
    return [*terms, Contribution("bias", 1.0, getattr(calibration, f"{prefix}bias"))]


def _log_odds(probability: float) -> float:
    """Of a probability; of what is certain the most there is."""
    tiny = float(np.finfo(float).tiny)
    return math.log(max(probability, tiny)) - math.log(max(1.0 - probability, tiny))
