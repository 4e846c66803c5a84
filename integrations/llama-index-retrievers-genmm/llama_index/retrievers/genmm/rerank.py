"""The verifier as a node postprocessor: orders the nodes of any retriever."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import llama_index.core.instrumentation as instrument
from llama_index.core.bridge.pydantic import ConfigDict, Field, PrivateAttr
from llama_index.core.callbacks import CBEventType, EventPayload
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import (
    BaseNode,
    MetadataMode,
    NodeWithScore,
    QueryBundle,
)

from genmm_retriever.errors import QueryError
from genmm_retriever.reranking_adapters import RerankerCore, places_of, reranker_core
from genmm_retriever.schema import Hit, Item, Query
from llama_index.retrievers.genmm.nodes import image_of
from llama_index.retrievers.genmm.queries import to_query

dispatcher = instrument.get_dispatcher(__name__)  # type: ignore[attr-defined]  # re-exported


class GenmmRerank(BaseNodePostprocessor):
    """Orders nodes by how well a multimodal language model finds that they fit the query.

    Nodes of any retriever, with text, a picture or both. Their score becomes the model's
    probability. Nodes without either, and broken pictures unless `strict`, come last with a
    score of 0.

    Args:
        model: Name of the model.
        top_n: Nodes to keep; None for all.
        verify: `"likelihood"`, `"choice"` or `"yesno"`; see `GenerativeMMReranker`.
        budget: Nodes that the language model looks at; None for all, `"auto"` for what is usual.
        budget_ms: Milliseconds that this may take, whichever limit comes first.
        strict: Refuse broken pictures.
        device: Such as `"cpu"` or `"cuda:0"`; by default a GPU if there is one.
        keep_retrieval_score: Keep the earlier score in the metadata as `retrieval_score`.
        reranker: A `GenerativeMMReranker`, to share its model. It has `model`, `verify`,
            `budget`, `budget_ms`, `strict` and `device` of its own, which cannot be given here.

    Raises:
        InputError: If an option is out of range, or belongs to the reranker that is given.

    Examples:
        >>> rerank = GenmmRerank(top_n=3)
        >>> rerank.postprocess_nodes(nodes, query_str="a cup of coffee")  # doctest: +SKIP
    """

    model_config = ConfigDict(extra="forbid")

    model: str = "builtin"
    top_n: int | None = Field(default=None, ge=1)
    verify: Literal["likelihood", "choice", "yesno"] = "likelihood"
    budget: int | Literal["auto"] | None = "auto"
    budget_ms: float | None = None
    strict: bool = True
    device: str | None = None
    keep_retrieval_score: bool = False
    _reranker: RerankerCore = PrivateAttr()

    def __init__(self, *, reranker: RerankerCore | None = None, **options: Any) -> None:
        super().__init__(**options)
        self._reranker = reranker_core(
            reranker,
            self.model,
            said=self.model_fields_set,
            verify=self.verify,
            budget=self.budget,
            budget_ms=self.budget_ms,
            strict=self.strict,
            device=self.device,
        )

    @classmethod
    def class_name(cls) -> str:
        """Its name in LlamaIndex's registries."""
        return "GenmmRerank"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        query = _query(query_bundle)
        if not nodes:
            return []
        with self._traced(query_bundle, nodes) as told:
            hits = self._reranker.rerank(query, _candidates(nodes))
            told.extend(self._ordered(nodes, hits))
        return told

    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        query = _query(query_bundle)
        if not nodes:
            return []
        with self._traced(query_bundle, nodes) as told:
            hits = await self._reranker.arerank(query, _candidates(nodes))
            told.extend(self._ordered(nodes, hits))
        return told

    @contextmanager
    def _traced(
        self, query: QueryBundle | None, nodes: list[NodeWithScore]
    ) -> Iterator[list[NodeWithScore]]:
        """Tells LlamaIndex's events and callbacks what goes in, and what was put in the list."""
        assert query is not None
        top_n = len(nodes) if self.top_n is None else self.top_n
        dispatcher.event(
            ReRankStartEvent(query=query, nodes=nodes, top_n=top_n, model_name=self.model)
        )
        payload: dict[str, Any] = {
            EventPayload.NODES: nodes,
            EventPayload.MODEL_NAME: self.model,
            EventPayload.QUERY_STR: query.query_str,
            EventPayload.TOP_K: top_n,
        }
        with self.callback_manager.event(CBEventType.RERANKING, payload=payload) as event:
            ordered: list[NodeWithScore] = []
            yield ordered
            event.on_end(payload={EventPayload.NODES: ordered})
        dispatcher.event(ReRankEndEvent(nodes=ordered))

    def _ordered(self, nodes: list[NodeWithScore], hits: list[Hit]) -> list[NodeWithScore]:
        return [
            NodeWithScore(node=self._kept(nodes[place]), score=score)
            for place, score in places_of(hits, len(nodes))[: self.top_n]
        ]

    def _kept(self, found: NodeWithScore) -> BaseNode:
        if not self.keep_retrieval_score:
            return found.node
        metadata = {**found.node.metadata, "retrieval_score": found.score}
        return found.node.model_copy(update={"metadata": metadata})


def _query(bundle: QueryBundle | None) -> Query:
    if bundle is None:
        raise QueryError("there is no query to order the nodes by", "give query_str or a bundle")
    return to_query(bundle, None, {})


def _candidates(nodes: list[NodeWithScore]) -> list[Item | tuple[Item, float]]:
    """Nodes that show something, by their places, with their scores."""
    candidates: list[Item | tuple[Item, float]] = []
    for place, found in enumerate(nodes):
        text, image = found.node.get_content(MetadataMode.NONE), image_of(found.node)
        if image is None and not text.strip():
            continue
        item = Item(id=str(place), text=text or None, image=image)
        candidates.append(item if found.score is None else (item, found.score))
    return candidates
