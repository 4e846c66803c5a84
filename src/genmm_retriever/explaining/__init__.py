"""How an answer came about: what was written, as a tree, and what the verifier made of it."""

from genmm_retriever.explaining.explanation import (
    Alternative,
    AskedQuery,
    Contribution,
    ExplainedHit,
    Explanation,
    NamedIdentifier,
    WrittenNode,
)
from genmm_retriever.explaining.text import as_text
from genmm_retriever.explaining.written import best_beginnings, explain_written

__all__ = [
    "Alternative",
    "AskedQuery",
    "Contribution",
    "ExplainedHit",
    "Explanation",
    "NamedIdentifier",
    "WrittenNode",
    "as_text",
    "best_beginnings",
    "explain_written",
]
