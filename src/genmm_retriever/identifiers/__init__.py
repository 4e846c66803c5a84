"""Words into identifiers: structured ones for use, numeric ones for comparison."""

from genmm_retriever.identifiers.base import Identifiers
from genmm_retriever.identifiers.clusters import class_tf_idf, cluster_count
from genmm_retriever.identifiers.keywords import extract_keywords
from genmm_retriever.identifiers.numeric import NumericIdentifiers
from genmm_retriever.identifiers.structured import StructuredIdentifiers
from genmm_retriever.models.sentences import (
    HashingEncoder,
    MiniLMEncoder,
    SentenceEncoder,
    default_encoder,
)

SCHEMES = {"structured": StructuredIdentifiers, "numeric": NumericIdentifiers}
"""The kinds of identifiers by the name that an index remembers."""

__all__ = [
    "SCHEMES",
    "HashingEncoder",
    "Identifiers",
    "MiniLMEncoder",
    "NumericIdentifiers",
    "SentenceEncoder",
    "StructuredIdentifiers",
    "class_tf_idf",
    "cluster_count",
    "default_encoder",
    "extract_keywords",
]
