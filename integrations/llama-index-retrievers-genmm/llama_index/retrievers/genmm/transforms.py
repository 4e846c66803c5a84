"""The core's query adapters as LlamaIndex query transforms."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from llama_index.core.indices.query.query_transform.base import BaseQueryTransform
from llama_index.core.prompts.mixin import PromptDictType
from llama_index.core.schema import QueryBundle, QueryType

from genmm_retriever.errors import InputError
from genmm_retriever.querying import QueryAdapter, Searcher
from genmm_retriever.querying.computing import holding
from llama_index.retrievers.genmm.queries import GenmmQueryBundle, to_query

__all__ = ["GenmmQueryBundle", "GenmmQueryTransform"]


class GenmmQueryTransform(BaseQueryTransform):
    """Runs query adapters before any retriever: for `TransformQueryEngine`, or called alone.

    What comes out is a `GenmmQueryBundle`: picture, filters, ids and kind of what went in stay.
    Retrievers that embed are given the new words, for embeddings and their strings that came in
    with other words are dropped.

    LlamaIndex's `TransformQueryEngine` runs transforms in the event loop even from `aquery`, so
    a service should `await arun(...)` and pass the bundle on, or put the adapters into the core
    by `genmm_retriever.querying.AdaptedRetriever`, which never blocks.

    Args:
        adapters: Of `genmm_retriever.querying`, run in this order.
        core: The core retriever whose model they share; it is held while that writes. None if
            they have a model of their own.

    Raises:
        InputError: If there is no adapter.

    Examples:
        >>> from genmm_retriever.querying import QueryRewriter
        >>> transform = GenmmQueryTransform([QueryRewriter(model)])  # doctest: +SKIP
        >>> transform.run("Hello! I am looking for ...").query_str  # doctest: +SKIP
        'two dogs in the snow'
    """

    def __init__(self, adapters: Sequence[QueryAdapter], core: Searcher | None = None) -> None:
        if not adapters:
            raise InputError("no query adapter was given", "give one of genmm_retriever.querying")
        super().__init__()
        self.adapters = tuple(adapters)
        self.core = core

    async def arun(
        self, query_bundle_or_str: QueryType, metadata: dict[str, Any] | None = None
    ) -> QueryBundle:
        """As `run`, in a worker thread: the event loop is never blocked."""
        return await asyncio.to_thread(self.run, query_bundle_or_str, metadata)

    def _get_prompts(self) -> PromptDictType:
        return {}

    def _update_prompts(self, prompts: PromptDictType) -> None:
        """The adapters' prompts are the core's."""

    def _run(self, query_bundle: QueryBundle, metadata: dict[str, Any]) -> GenmmQueryBundle:
        query = to_query(query_bundle, None, {})
        for adapter in self.adapters:
            # Only a model that computes here: nobody waits for a remote engine with it held.
            with nullcontext() if self.core is None else holding(self.core, adapter.model):
                query = adapter.adapt(query)
        bundle = GenmmQueryBundle.from_query(query)
        if bundle.query_str == query_bundle.query_str:
            bundle.custom_embedding_strs = query_bundle.custom_embedding_strs
            bundle.embedding = query_bundle.embedding
        return bundle
