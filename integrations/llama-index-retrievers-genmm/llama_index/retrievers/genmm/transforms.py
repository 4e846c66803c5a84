"""The core's query adapters as LlamaIndex query transforms."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from llama_index.core.indices.query.query_transform.base import BaseQueryTransform
from llama_index.core.prompts.mixin import PromptDictType
from llama_index.core.schema import QueryBundle

from genmm_retriever.errors import InputError
from genmm_retriever.querying import QueryAdapter
from genmm_retriever.schema import Query
from llama_index.retrievers.genmm.queries import to_query


@dataclass
class GenmmQueryBundle(QueryBundle):
    """A query bundle that remembers the whole query that adapters made.

    Args:
        query: The query; `GenerativeMMRetriever` asks it, others see `query_str`.
    """

    query: Query | None = None


class GenmmQueryTransform(BaseQueryTransform):
    """Runs query adapters before any retriever: for `TransformQueryEngine`, or called alone.

    Args:
        adapters: Of `genmm_retriever.querying`, run in this order.
        core: The core retriever whose model they share; it is held while they write. None if
            they have a model of their own.

    Raises:
        InputError: If there is no adapter.

    Examples:
        >>> from genmm_retriever.querying import QueryRewriter
        >>> transform = GenmmQueryTransform([QueryRewriter(model)])  # doctest: +SKIP
        >>> transform.run("Hello! I am looking for ...").query_str  # doctest: +SKIP
        'two dogs in the snow'
    """

    def __init__(self, adapters: Sequence[QueryAdapter], core: Any = None) -> None:
        if not adapters:
            raise InputError("no query adapter was given", "give one of genmm_retriever.querying")
        super().__init__()
        self.adapters = tuple(adapters)
        self.core = core

    def _get_prompts(self) -> PromptDictType:
        return {}

    def _update_prompts(self, prompts: PromptDictType) -> None:
        """The adapters' prompts are the core's."""

    def _run(self, query_bundle: QueryBundle, metadata: dict[str, Any]) -> QueryBundle:
        query = to_query(query_bundle, None, {})
        with self._held():
            for adapter in self.adapters:
                query = adapter.adapt(query)
        words = [part for part in (query.text, query.context) if part]
        return GenmmQueryBundle(
            query_str=", ".join(words),
            image_path=query.image if isinstance(query.image, str) else None,
            custom_embedding_strs=query_bundle.custom_embedding_strs,
            query=query,
        )

    def _held(self) -> AbstractContextManager[Any]:
        held: AbstractContextManager[Any] = (
            nullcontext() if self.core is None else self.core.computing()
        )
        return held
