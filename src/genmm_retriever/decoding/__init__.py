"""The constrained search: hypotheses that spell identifiers, and the items they name."""

from genmm_retriever.decoding.aggregate import Candidate, aggregate
from genmm_retriever.decoding.config import BeamConfig
from genmm_retriever.decoding.hypotheses import Hypothesis, Ranking
from genmm_retriever.decoding.search import constrained_beam_search

__all__ = [
    "BeamConfig",
    "Candidate",
    "Hypothesis",
    "Ranking",
    "aggregate",
    "constrained_beam_search",
]
