"""Words into identifiers: structured ones for use, others for comparison."""

from genmm_retriever.identifiers.base import Identifiers
from genmm_retriever.identifiers.caption import CaptionIdentifiers
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

SCHEMES: dict[
    str, type[StructuredIdentifiers] | type[NumericIdentifiers] | type[CaptionIdentifiers]
] = {one.kind: one for one in (StructuredIdentifiers, NumericIdentifiers, CaptionIdentifiers)}
"""The kinds of identifiers by the name that an index remembers."""

__all__ = [
    "SCHEMES",
    "CaptionIdentifiers",
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
