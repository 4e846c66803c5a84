"""From a verifier's parts to one probability."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from genmm_retriever.verification.features import Parts


@dataclass(frozen=True)
class Calibration:
    """Weights of a logistic model over the parts: `p = sigmoid(bias + sum(weight * part))`.

    The defaults suit a model about which nothing is known: likelihood decides, the first
    stage breaks ties. Trained weights come with the builtin model; `fit` makes them.

    Args:
        likelihood: Weight a nat per token.
        contrastive: Weight of the cosine.
        objects: Weight of the similarity to the objects seen.
        generation: Weight a nat of the first stage's score.
        bias: Log-odds of a candidate whose parts are all zero.
        cheap_contrastive: Weight of the cosine where the likelihood was not computed.
        cheap_objects: Weight of the objects where the likelihood was not computed.
        cheap_generation: Weight of the first stage where the likelihood was not computed.
        cheap_bias: Bias where the likelihood was not computed.
        debias: Weight of the unconditional log-probability in the beam.
    """

    likelihood: float = 3.0
    contrastive: float = 10.0
    objects: float = 5.0
    generation: float = 0.1
    bias: float = -2.0
    cheap_contrastive: float = 10.0
    cheap_objects: float = 5.0
    cheap_generation: float = 0.1
    cheap_bias: float = -4.0
    debias: float = 1.0

    @classmethod
    def of(cls, model: Any) -> Calibration:
        """The calibration that a model brings along, or the defaults."""
        known: Mapping[str, Any] = getattr(model, "calibration", None) or {}
        names = {field.name for field in fields(cls)}
        return cls(**{name: float(value) for name, value in known.items() if name in names})

    def to_json(self) -> dict[str, float]:
        """The weights, for a model's settings."""
        return asdict(self)

    def cheap(self, parts: Parts) -> np.ndarray:
        """Log-odds from the cheap parts alone, [n]."""
        return (
            self.cheap_bias
            + self.cheap_contrastive * _known(parts.contrastive)
            + self.cheap_objects * _known(parts.objects)
            + self.cheap_generation * _generation(parts.generation)
        )

    def full(self, parts: Parts) -> np.ndarray:
        """Log-odds from all parts, [n]; where the likelihood is missing it counts as zero."""
        return (
            self.bias
            + self.likelihood * _known(parts.likelihood)
            + self.contrastive * _known(parts.contrastive)
            + self.objects * _known(parts.objects)
            + self.generation * _generation(parts.generation)
        )


def sigmoid(values: np.ndarray) -> np.ndarray:
    """Log-odds to probabilities, without overflow.

    Examples:
        >>> sigmoid(np.array([0.0, -1000.0])).tolist()
        [0.5, 0.0]
    """
    out: np.ndarray = np.exp(-np.logaddexp(0.0, -values))
    return out


def _known(part: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(part), 0.0, part)


def _generation(part: np.ndarray) -> np.ndarray:
    """Missing scores count as the lowest one known: an item that nothing led to is no better."""
    if np.isnan(part).all():
        return np.zeros_like(part)
    return np.where(np.isnan(part), np.nanmin(part), part)
