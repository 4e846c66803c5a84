"""LlamaIndex retriever that finds pictures and texts by the identifiers an MLLM generates."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from llama_index.retrievers.genmm.base import GenerativeMMRetriever
from llama_index.retrievers.genmm.queries import GenmmQueryBundle
from llama_index.retrievers.genmm.rerank import GenmmRerank
from llama_index.retrievers.genmm.tools import image_search_tool

if TYPE_CHECKING:
    from llama_index.retrievers.genmm.engine import GroundedQueryEngine, GroundedSynthesizer
    from llama_index.retrievers.genmm.transforms import GenmmQueryTransform

_LATE = {
    "GenmmQueryTransform": "llama_index.retrievers.genmm.transforms",
    "GroundedQueryEngine": "llama_index.retrievers.genmm.engine",
    "GroundedSynthesizer": "llama_index.retrievers.genmm.engine",
}

__all__ = [
    "GenerativeMMRetriever",
    "GenmmQueryBundle",
    "GenmmQueryTransform",
    "GenmmRerank",
    "GroundedQueryEngine",
    "GroundedSynthesizer",
    "image_search_tool",
]


def __getattr__(name: str) -> Any:
    # Late, so that importing this package stays light: query adapters need torch.
    if name in _LATE:
        return getattr(import_module(_LATE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
