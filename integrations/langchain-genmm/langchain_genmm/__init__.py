"""LangChain retriever that finds pictures and texts by the identifiers an MLLM generates."""

from __future__ import annotations

from langchain_genmm.compressors import GenmmCompressor
from langchain_genmm.documents import documents_to_content_blocks, hit_to_document
from langchain_genmm.retrievers import GenerativeMMRetriever
from langchain_genmm.tools import create_image_search_tool

__all__ = [
    "GenerativeMMRetriever",
    "GenmmCompressor",
    "create_image_search_tool",
    "documents_to_content_blocks",
    "hit_to_document",
]
