"""LlamaIndex retriever that finds pictures and texts by the identifiers an MLLM generates."""

from __future__ import annotations

from llama_index.retrievers.genmm.base import GenerativeMMRetriever

__all__ = ["GenerativeMMRetriever"]
