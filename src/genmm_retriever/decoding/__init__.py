"""The constrained search: what a model may write, identifiers or clues, and the items it names."""

from genmm_retriever.decoding.aggregate import Candidate, aggregate
from genmm_retriever.decoding.clue_types import Clue, ClueConfig
from genmm_retriever.decoding.clues import clue_search
from genmm_retriever.decoding.config import BeamConfig
from genmm_retriever.decoding.covering import ClueCandidate, CoverConfig, cover_passages
from genmm_retriever.decoding.guide import Guide
from genmm_retriever.decoding.hypotheses import Hypothesis, Ranking
from genmm_retriever.decoding.search import constrained_beam_search

__all__ = [
    "BeamConfig",
    "Candidate",
    "Clue",
    "ClueCandidate",
    "ClueConfig",
    "CoverConfig",
    "Guide",
    "Hypothesis",
    "Ranking",
    "aggregate",
    "clue_search",
    "constrained_beam_search",
    "cover_passages",
]
