"""Before the search: queries rewritten, reasoned about and composed; after it, answered.

Every adapter is off unless it is used, works alone, and accounts for its tokens and seconds in
`Evidence.steps`.
"""

from genmm_retriever.querying.adapters import QueryAdapter
from genmm_retriever.querying.answering import Answer, Answerer
from genmm_retriever.querying.choosing import ADAPTERS, adapted, check_adapters
from genmm_retriever.querying.composing import ComposedQueryAdapter
from genmm_retriever.querying.computing import Searcher
from genmm_retriever.querying.consistency import ConsistentRetriever
from genmm_retriever.querying.expanding import QueryExpander
from genmm_retriever.querying.fusing import fuse
from genmm_retriever.querying.reasoning import ReasoningRetriever
from genmm_retriever.querying.resolving import ReferenceResolver
from genmm_retriever.querying.rewriting import QueryRewriter
from genmm_retriever.querying.searching import AdaptedRetriever

__all__ = [
    "ADAPTERS",
    "AdaptedRetriever",
    "Answer",
    "Answerer",
    "ComposedQueryAdapter",
    "ConsistentRetriever",
    "QueryAdapter",
    "QueryExpander",
    "QueryRewriter",
    "ReasoningRetriever",
    "ReferenceResolver",
    "Searcher",
    "adapted",
    "check_adapters",
    "fuse",
]
