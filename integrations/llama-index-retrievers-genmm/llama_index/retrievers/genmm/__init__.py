"""LlamaIndex retriever that finds pictures and texts by the identifiers an MLLM generates."""

from __future__ import annotations

from llama_index.retrievers.genmm.base import GenerativeMMRetriever
from llama_index.retrievers.genmm.rerank import GenmmRerank
from llama_index.retrievers.genmm.tools import image_search_tool

__all__ = ["GenerativeMMRetriever", "GenmmRerank", "image_search_tool"]
