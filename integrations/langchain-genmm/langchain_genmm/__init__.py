"""LangChain retriever that finds pictures and texts by the identifiers an MLLM generates."""

from __future__ import annotations

from langchain_genmm.documents import documents_to_content_blocks, hit_to_document
from langchain_genmm.retrievers import GenerativeMMRetriever

__all__ = ["GenerativeMMRetriever", "documents_to_content_blocks", "hit_to_document"]
