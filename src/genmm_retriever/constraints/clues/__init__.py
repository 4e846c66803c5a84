"""The clue index: which n-grams of the corpus may be written, and where they stand."""

from genmm_retriever.constraints.clues.index import ClueIndex
from genmm_retriever.constraints.clues.view import ClueRanges, ClueView

__all__ = ["ClueIndex", "ClueRanges", "ClueView"]
