"""Which tokens may come next: the identifiers of an index as a constraint on decoding."""

from genmm_retriever.constraints.base import Completions, Constraint, ConstraintState, LegalTokens
from genmm_retriever.constraints.trie import TokenTrie, TrieState

__all__ = [
    "Completions",
    "Constraint",
    "ConstraintState",
    "LegalTokens",
    "TokenTrie",
    "TrieState",
]
