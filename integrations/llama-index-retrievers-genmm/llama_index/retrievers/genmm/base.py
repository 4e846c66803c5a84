"""The LlamaIndex retriever: a thin adapter over `genmm_retriever.GenerativeMMRetriever`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import llama_index.core.instrumentation as instrument
from llama_index.core.base.base_multi_modal_retriever import MultiModalRetriever
from llama_index.core.callbacks.base import CallbackManager
from llama_index.core.constants import DEFAULT_SIMILARITY_TOP_K
from llama_index.core.instrumentation.events.retrieval import (
    RetrievalEndEvent,
    RetrievalStartEvent,
)
from llama_index.core.schema import IndexNode, NodeWithScore, QueryBundle, QueryType
from llama_index.core.vector_stores.types import MetadataFilters
from typing_extensions import Self

from genmm_retriever.checks import MAX_K
from genmm_retriever.errors import InputError, QueryError, StorageError
from genmm_retriever.schema import Hit, Item, Kind, Query
from llama_index.retrievers.genmm.filters import to_conditions
from llama_index.retrievers.genmm.nodes import NodeType, hit_to_node
from llama_index.retrievers.genmm.persistence import load, save
from llama_index.retrievers.genmm.queries import GenmmQueryBundle, to_query, words_alone

Verify = Literal["likelihood", "choice", "yesno", "off"]
Filters = MetadataFilters | Mapping[str, Any]

dispatcher = instrument.get_dispatcher(__name__)  # type: ignore[attr-defined]  # re-exported


@runtime_checkable
class RetrieverCore(Protocol):
    """What the adapter needs of the core class; other retrievers may stand in."""

    def retrieve(self, query: str | Query, **options: Any) -> list[Hit]:
        """Hits, best first."""
        ...

    def retrieve_batch(self, queries: Sequence[str | Query], **options: Any) -> list[list[Hit]]:
        """Hits of each query."""
        ...

    async def aretrieve(self, query: str | Query, **options: Any) -> list[Hit]:
        """As `retrieve`, without blocking the event loop."""
        ...

    def close(self) -> None:
        """Let go of files and memory."""
        ...


class GenerativeMMRetriever(MultiModalRetriever):
    """Finds pictures and texts by the identifiers that a multimodal language model generates.

    Open an index with `from_index`, or build one with `from_images`. A `QueryBundle` with an
    `image_path` asks with a picture, and with a `query_str` beside it with a picture and an
    instruction (a composed query). A `GenmmQueryBundle` asks a whole query of the core.

    Args:
        core: The retriever that does the work, or one with query adapters in front of it, such
            as `genmm_retriever.querying.AdaptedRetriever`.
        similarity_top_k: How many nodes a query gives; exactly as many whenever so many
            items match.
        filters: Metadata conditions for every query, applied before decoding.
        kind: `retrieve` looks only for `"image"` or only for `"text"` items; None for both.
        verify: `"likelihood"`, `"choice"`, `"yesno"` or `"off"`; None leaves it to the core.
        node_type: How a picture is given, see `hit_to_node`.
        callback_manager: As in every LlamaIndex retriever.
        object_map: As in every LlamaIndex retriever.
        objects: As in every LlamaIndex retriever.
        verbose: As in every LlamaIndex retriever.

    Raises:
        InputError: If `similarity_top_k` is out of range, or a filter or `node_type` is unknown.

    Examples:
        >>> retriever = GenerativeMMRetriever.from_images("photos")  # doctest: +SKIP
        >>> retriever.retrieve("a cup of coffee")[0].metadata["source"]  # doctest: +SKIP
        'photos/coffee.png'
    """

    def __init__(
        self,
        core: RetrieverCore,
        similarity_top_k: int = DEFAULT_SIMILARITY_TOP_K,
        filters: Filters | None = None,
        kind: Kind | None = None,
        verify: Verify | None = None,
        node_type: NodeType = "multimodal",
        callback_manager: CallbackManager | None = None,
        object_map: dict[str, Any] | None = None,
        objects: list[IndexNode] | None = None,
        verbose: bool = False,
    ) -> None:
        if not isinstance(core, RetrieverCore):
            raise InputError(
                f"core is a {type(core).__name__}, not a retriever",
                "open an index with GenerativeMMRetriever.from_index(path)",
            )
        if node_type not in get_args(NodeType):
            raise InputError(f"node_type is {node_type!r}", "use 'multimodal' or 'image'")
        self.core = core
        self.similarity_top_k = similarity_top_k
        self.filters = to_conditions(filters)
        self.kind = kind
        self.verify = verify
        self.node_type: NodeType = node_type
        super().__init__(
            callback_manager=callback_manager,
            object_map=object_map,
            objects=objects,
            verbose=verbose,
        )

    @property
    def similarity_top_k(self) -> int:
        """How many nodes a query gives."""
        return self._similarity_top_k

    @similarity_top_k.setter
    def similarity_top_k(self, value: int) -> None:
        if not isinstance(value, int) or not 1 <= value <= MAX_K:
            raise InputError(
                f"similarity_top_k is {value!r}", f"give a whole number from 1 to {MAX_K}"
            )
        self._similarity_top_k = value

    @classmethod
    def from_index(
        cls,
        path: str | PathLike[str],
        *,
        similarity_top_k: int = DEFAULT_SIMILARITY_TOP_K,
        filters: Filters | None = None,
        kind: Kind | None = None,
        verify: Verify | None = None,
        node_type: NodeType = "multimodal",
        callback_manager: CallbackManager | None = None,
        verbose: bool = False,
        **options: Any,
    ) -> Self:
        """Open an index.

        Args:
            path: Folder of the index.
            similarity_top_k: As in the constructor, like all that follow.
            filters: See there.
            kind: See there.
            verify: See there.
            node_type: See there.
            callback_manager: See there.
            verbose: See there.
            **options: For the core's `from_index`: `model`, `num_beams`, `candidates`, `device`.

        Returns:
            A retriever over the index; the model is loaded by the first query.

        Raises:
            IndexNotFoundError: If there is no finished index at `path`.
            InputError: If `k` is given instead of `similarity_top_k`.
        """
        _refuse_k(options)
        return cls(
            _core_class().from_index(path, **options),
            similarity_top_k=similarity_top_k,
            filters=filters,
            kind=kind,
            verify=verify,
            node_type=node_type,
            callback_manager=callback_manager,
            verbose=verbose,
        )

    @classmethod
    def from_images(
        cls,
        source: str | PathLike[str] | Sequence[str | PathLike[str] | Item],
        *,
        path: str | PathLike[str] | None = None,
        similarity_top_k: int = DEFAULT_SIMILARITY_TOP_K,
        filters: Filters | None = None,
        kind: Kind | None = None,
        verify: Verify | None = None,
        node_type: NodeType = "multimodal",
        callback_manager: CallbackManager | None = None,
        verbose: bool = False,
        **options: Any,
    ) -> Self:
        """Build an index and open it.

        Args:
            source: Folders, image files, JSONL files, or items.
            path: Where to keep the index, for `from_index` later; None keeps it in a
                temporary folder until `close`.
            similarity_top_k: As in the constructor, like all that follow.
            filters: See there.
            kind: See there.
            verify: See there.
            node_type: See there.
            callback_manager: See there.
            verbose: See there.
            **options: For the core's `from_images`: `model`, `identifiers`, `progress`, ...

        Returns:
            A retriever over the new index.

        Raises:
            EmptyCorpusError: If the source has nothing to index.
            InputError: If `k` is given instead of `similarity_top_k`.
        """
        _refuse_k(options)
        return cls(
            _core_class().from_images(source, path=path, **options),
            similarity_top_k=similarity_top_k,
            filters=filters,
            kind=kind,
            verify=verify,
            node_type=node_type,
            callback_manager=callback_manager,
            verbose=verbose,
        )

    @classmethod
    def from_defaults(
        cls,
        source: str | PathLike[str] | Sequence[str | PathLike[str] | Item] | None = None,
        *,
        path: str | PathLike[str] | None = None,
        **options: Any,
    ) -> Self:
        """`from_images` if there is a source, else `from_index`.

        Args:
            source: What to index, or None to open the index at `path`.
            path: Folder of the index.
            **options: For `from_images` or `from_index`.

        Returns:
            A retriever.

        Raises:
            InputError: If neither is given.
        """
        if source is not None:
            return cls.from_images(source, path=path, **options)
        if path is None:
            raise InputError("there is nothing to search", "give a source or the path of an index")
        return cls.from_index(path, **options)

    def persist(self, path: str | PathLike[str]) -> None:
        """Write a folder that `from_persist_dir` opens: a copy of the index and the settings.

        Query adapters in front of the core cannot be written, and a retriever that came back
        without them would find something else, so they have to be taken off before and put in
        front again afterwards: `retriever.core = adapted(retriever.core, ["rewrite"])`.

        Args:
            path: A new or empty folder, one written by `persist` before, or that of the
                index itself (only the settings are then written).

        Raises:
            StorageError: If the folder holds something else or cannot be written, or if there
                are query adapters in front of the core.
        """
        index = getattr(self.core, "path", None)
        if index is None and getattr(self.core, "retriever", None) is not None:
            raise StorageError(
                f"the query adapters of {type(self.core).__name__} cannot be persisted",
                "take them off before by `retriever.core = retriever.core.retriever`, and put them"
                " in front again after from_persist_dir",
            )
        settings = {
            "similarity_top_k": self.similarity_top_k,
            "filters": self.filters,
            "kind": self.kind,
            "verify": self.verify,
            "node_type": self.node_type,
            "verbose": self._verbose,
        }
        save(fspath(path), index, settings)

    @classmethod
    def from_persist_dir(cls, path: str | PathLike[str], **options: Any) -> Self:
        """Open what `persist` wrote.

        Args:
            path: The folder.
            **options: For `from_index`; they take precedence over the settings.

        Returns:
            A retriever with the settings it was persisted with.

        Raises:
            IndexNotFoundError: If `persist` has written nothing at `path`.
        """
        index, settings = load(fspath(path))
        return cls.from_index(index, **{**settings, **options})

    def close(self) -> None:
        """Close the core, and with it remove a temporary index."""
        self.core.close()

    def retrieve_batch(self, queries: Sequence[QueryType]) -> list[list[NodeWithScore]]:
        """The nodes of several queries, which the core answers in one decode.

        Args:
            queries: As for `retrieve`.

        Returns:
            A list of nodes for each query.

        Raises:
            QueryError: If a query is empty, or there is a single one instead of a list.
        """
        asked = _bundles(queries)
        for bundle in asked:
            dispatcher.event(RetrievalStartEvent(str_or_query_bundle=bundle))
        found = self.core.retrieve_batch(
            [to_query(bundle, self.kind, self.filters) for bundle in asked],
            k=self.similarity_top_k,
            verify=self.verify,
        )
        nodes = [self._nodes(hits) for hits in found]
        for bundle, own in zip(asked, nodes, strict=True):
            dispatcher.event(RetrievalEndEvent(str_or_query_bundle=bundle, nodes=own))
        return nodes

    async def aretrieve_batch(self, queries: Sequence[QueryType]) -> list[list[NodeWithScore]]:
        """As `retrieve_batch`; the core answers those together that wait at the same time."""
        return list(await asyncio.gather(*(self.aretrieve(bundle) for bundle in _bundles(queries))))

    # What LlamaIndex calls. Those with a query of any form emit the retrieval events, except
    # for `retrieve` and `aretrieve` of the base class, which do so themselves.

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return self._find(to_query(query_bundle, self.kind, self.filters))

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return await self._afind(to_query(query_bundle, self.kind, self.filters))

    def text_retrieve(self, str_or_query_bundle: QueryType) -> list[NodeWithScore]:
        """Text items for a query in words."""
        return self._traced(str_or_query_bundle, self._text(str_or_query_bundle, "text"))

    async def atext_retrieve(self, str_or_query_bundle: QueryType) -> list[NodeWithScore]:
        """As `text_retrieve`."""
        return await self._atraced(str_or_query_bundle, self._text(str_or_query_bundle, "text"))

    def text_to_image_retrieve(self, str_or_query_bundle: QueryType) -> list[NodeWithScore]:
        """Pictures for a query in words."""
        return self._traced(str_or_query_bundle, self._text(str_or_query_bundle, "image"))

    async def atext_to_image_retrieve(self, str_or_query_bundle: QueryType) -> list[NodeWithScore]:
        """As `text_to_image_retrieve`."""
        return await self._atraced(str_or_query_bundle, self._text(str_or_query_bundle, "image"))

    def image_to_image_retrieve(self, str_or_query_bundle: QueryType) -> list[NodeWithScore]:
        """Pictures for a picture (a str is its path), or a picture and an instruction."""
        return self._traced(str_or_query_bundle, self._image(str_or_query_bundle))

    async def aimage_to_image_retrieve(self, str_or_query_bundle: QueryType) -> list[NodeWithScore]:
        """As `image_to_image_retrieve`."""
        return await self._atraced(str_or_query_bundle, self._image(str_or_query_bundle))

    def _text_to_image_retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return self._find(self._text(query_bundle, "image"))

    async def _atext_to_image_retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return await self._afind(self._text(query_bundle, "image"))

    def _image_to_image_retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return self._find(self._image(query_bundle))

    async def _aimage_to_image_retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return await self._afind(self._image(query_bundle))

    def _text(self, query: QueryType, kind: Kind) -> Query:
        return words_alone(_bundle(query), kind, self.filters)

    def _image(self, query: QueryType) -> Query:
        bundle = QueryBundle("", image_path=query) if isinstance(query, str) else query
        made = bundle.query if isinstance(bundle, GenmmQueryBundle) else None
        if not (bundle.image_path if made is None else made.image):
            raise QueryError("the query has no picture", "give a path, or set image_path")
        asked = to_query(bundle, "image", self.filters)
        return asked if made is None else asked.model_copy(update={"kind": "image"})

    def _traced(self, asked: QueryType, query: Query) -> list[NodeWithScore]:
        dispatcher.event(RetrievalStartEvent(str_or_query_bundle=asked))
        nodes = self._find(query)
        dispatcher.event(RetrievalEndEvent(str_or_query_bundle=asked, nodes=nodes))
        return nodes

    async def _atraced(self, asked: QueryType, query: Query) -> list[NodeWithScore]:
        dispatcher.event(RetrievalStartEvent(str_or_query_bundle=asked))
        nodes = await self._afind(query)
        dispatcher.event(RetrievalEndEvent(str_or_query_bundle=asked, nodes=nodes))
        return nodes

    def _find(self, query: Query) -> list[NodeWithScore]:
        return self._nodes(self.core.retrieve(query, k=self.similarity_top_k, verify=self.verify))

    async def _afind(self, query: Query) -> list[NodeWithScore]:
        hits = await self.core.aretrieve(query, k=self.similarity_top_k, verify=self.verify)
        # Naming a picture's type may look into its file, which must not block the loop.
        return await asyncio.to_thread(self._nodes, hits)

    def _nodes(self, hits: list[Hit]) -> list[NodeWithScore]:
        return [hit_to_node(hit, self.node_type) for hit in hits]


def _bundle(query: QueryType) -> QueryBundle:
    return QueryBundle(query) if isinstance(query, str) else query


def _bundles(queries: Sequence[QueryType]) -> list[QueryBundle]:
    if isinstance(queries, (str, QueryBundle)):
        raise QueryError("the queries are a single one", "give a list of queries")
    return [_bundle(query) for query in queries]


def _refuse_k(options: Mapping[str, Any]) -> None:
    """The core takes it, but every call of this class says its own."""
    if "k" in options:
        raise InputError("k is not asked here", f"say similarity_top_k={options['k']!r}")


def _core_class() -> Any:
    # Late, so that importing this package stays light.
    from genmm_retriever.retriever import GenerativeMMRetriever as Core

    return Core
