"""LangChain retriever that finds pictures and texts by the identifiers an MLLM generates."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from langchain_genmm.compressors import GenmmCompressor
from langchain_genmm.documents import documents_to_content_blocks, hit_to_document
from langchain_genmm.retrievers import GenerativeMMRetriever
from langchain_genmm.tools import create_image_search_tool

if TYPE_CHECKING:
    from langchain_genmm.adapters import GenmmAnswerer, GenmmQueryAdapter

_LATE = dict.fromkeys(("GenmmAnswerer", "GenmmQueryAdapter"), "langchain_genmm.adapters")

__all__ = [
    "GenerativeMMRetriever",
    "GenmmAnswerer",
    "GenmmCompressor",
    "GenmmQueryAdapter",
    "create_image_search_tool",
    "documents_to_content_blocks",
    "hit_to_document",
]


def __getattr__(name: str) -> Any:
    # Late, so that importing this package stays light: query adapters need torch.
    if name in _LATE:
        return getattr(import_module(_LATE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
