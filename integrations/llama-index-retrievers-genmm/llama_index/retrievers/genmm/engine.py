"""Grounded answers as a LlamaIndex response synthesizer and query engine."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import llama_index.core.instrumentation as instrument
from llama_index.core.base.response.schema import Response
from llama_index.core.callbacks.base import CallbackManager
from llama_index.core.callbacks.schema import CBEventType, EventPayload
from llama_index.core.instrumentation.events.synthesis import (
    SynthesizeEndEvent,
    SynthesizeStartEvent,
)
from llama_index.core.llms.mock import MockLLM
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.prompts.mixin import PromptDictType
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.response_synthesizers import BaseSynthesizer
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle, QueryType

from genmm_retriever.errors import InputError
from genmm_retriever.querying import Answer, Answerer
from genmm_retriever.schema import Evidence, Hit, Item, Kind, Query
from llama_index.retrievers.genmm.base import Filters, GenerativeMMRetriever, Verify
from llama_index.retrievers.genmm.nodes import NodeType, image_of
from llama_index.retrievers.genmm.queries import to_query

dispatcher = instrument.get_dispatcher(__name__)  # type: ignore[attr-defined]  # re-exported


class GroundedSynthesizer(BaseSynthesizer):
    """Answers from the nodes that any retriever found, with their pictures, or not at all.

    The answerer's model reads the first `answerer.k` nodes with text, a picture or both.
    `response.source_nodes` are those that the answer rests on, or if there is none those that
    were looked at, and `response.metadata` has `found`, `confidence` (the verifier's probability
    of the best node), `reason`, `quoted`, `tokens` and `seconds` of answering. What is not found
    gives a response that says so and why. Nothing is streamed: what an answer rests on is known
    at its end.

    Args:
        answerer: The core's; see `genmm_retriever.querying.Answerer`. One without a retriever
            answers from whatever nodes it is given.
        verified_scores: Whether the nodes' scores are a verifier's probabilities, as those of
            `GenmmRerank` are, to be held against the answerer's threshold. If not, only the
            `verification` in the metadata of `GenerativeMMRetriever`'s nodes is.
        callback_manager: As in every LlamaIndex synthesizer.

    Examples:
        >>> synthesizer = GroundedSynthesizer(Answerer(retriever.core))  # doctest: +SKIP
        >>> engine = RetrieverQueryEngine(retriever, synthesizer)  # doctest: +SKIP
        >>> engine.query("What does the dog catch?").metadata["found"]  # doctest: +SKIP
        True
    """

    def __init__(
        self,
        answerer: Answerer,
        *,
        verified_scores: bool = False,
        callback_manager: CallbackManager | None = None,
    ) -> None:
        # LlamaIndex would make its default language model otherwise, which is never asked.
        super().__init__(llm=MockLLM(), callback_manager=callback_manager)
        self.answerer, self.verified_scores = answerer, verified_scores

    def synthesize(
        self,
        query: QueryType,
        nodes: list[NodeWithScore],
        additional_source_nodes: Sequence[NodeWithScore] | None = None,
        **response_kwargs: Any,
    ) -> Response:
        """The answer to a query from nodes.

        Args:
            query: Words, or a bundle whose picture is looked at too.
            nodes: Best first.
            additional_source_nodes: Put behind the sources, as every synthesizer does.
            **response_kwargs: Not used.

        Raises:
            QueryError: If the query is empty.
            ModelError: If a remote engine cannot be reached.
        """
        bundle = QueryBundle(query) if isinstance(query, str) else query
        with self._traced(bundle) as told:
            told.append(self._response(bundle, nodes, additional_source_nodes or ()))
        return told[0]

    async def asynthesize(
        self,
        query: QueryType,
        nodes: list[NodeWithScore],
        additional_source_nodes: Sequence[NodeWithScore] | None = None,
        **response_kwargs: Any,
    ) -> Response:
        """As `synthesize`, in a worker thread: the event loop is never blocked."""
        bundle = QueryBundle(query) if isinstance(query, str) else query
        with self._traced(bundle) as told:
            more = additional_source_nodes or ()
            told.append(await asyncio.to_thread(self._response, bundle, nodes, more))
        return told[0]

    def get_response(
        self, query_str: str, text_chunks: Sequence[str], **response_kwargs: Any
    ) -> str:
        """The answer to a question from texts, in words alone."""
        hits = [
            Hit(item=Item(id=str(place), text=text), score=0.0, rank=place + 1)
            for place, text in enumerate(text_chunks)
            if text.strip()
        ]
        query = to_query(QueryBundle(query_str), None, {})
        return _said(self.answerer.answer_from(query, hits))

    async def aget_response(
        self, query_str: str, text_chunks: Sequence[str], **response_kwargs: Any
    ) -> str:
        """As `get_response`, in a worker thread."""
        return await asyncio.to_thread(self.get_response, query_str, text_chunks)

    def _get_prompts(self) -> PromptDictType:
        return {}

    def _update_prompts(self, prompts: PromptDictType) -> None:
        """The answerer's prompts are the core's."""

    @contextmanager
    def _traced(self, bundle: QueryBundle) -> Iterator[list[Response]]:
        """Tells LlamaIndex's events and callbacks the query, and what was put in the list."""
        dispatcher.event(SynthesizeStartEvent(query=bundle))
        payload = {EventPayload.QUERY_STR: bundle.query_str}
        with self.callback_manager.event(CBEventType.SYNTHESIZE, payload=payload) as event:
            told: list[Response] = []
            yield told
            event.on_end(payload={EventPayload.RESPONSE: told[0]})
        dispatcher.event(SynthesizeEndEvent(query=bundle, response=told[0]))

    def _response(
        self, bundle: QueryBundle, nodes: list[NodeWithScore], more: Sequence[NodeWithScore]
    ) -> Response:
        query: Query = to_query(bundle, None, {})
        answer = self.answerer.answer_from(query, self._hits(nodes))
        return Response(
            response=_said(answer),
            source_nodes=[*(nodes[int(hit.item.id)] for hit in answer.sources), *more],
            metadata=answer.model_dump(exclude={"text", "sources"}),
        )

    def _hits(self, nodes: list[NodeWithScore]) -> list[Hit]:
        """Nodes that show something, named by their places."""
        hits: list[Hit] = []
        for place, found in enumerate(nodes):
            text, image = found.node.get_content(MetadataMode.NONE), image_of(found.node)
            if image is None and not text.strip():
                continue
            title = found.node.metadata.get("title")
            item = Item(
                id=str(place),
                text=text or None,
                image=image,
                title=title if isinstance(title, str) else None,
            )
            evidence = Evidence(verification=self._verification(found))
            rank = len(hits) + 1
            hits.append(Hit(item=item, score=found.score or 0.0, rank=rank, evidence=evidence))
        return hits

    def _verification(self, found: NodeWithScore) -> float | None:
        kept = found.score if self.verified_scores else found.node.metadata.get("verification")
        if isinstance(kept, bool) or not isinstance(kept, (int, float)):
            return None
        return float(kept) if math.isfinite(kept) else None


class GroundedQueryEngine(RetrieverQueryEngine):
    """Answers from what the index holds, with the pictures that an answer rests on, or not at all.

    A `RetrieverQueryEngine` of the answerer's retriever and a `GroundedSynthesizer`; see there
    for what a response has.

    Args:
        answerer: The core's; see `genmm_retriever.querying.Answerer`. It reads `answerer.k` nodes.
        filters: Metadata conditions for every question, applied before decoding.
        kind: Look only for `"image"` or only for `"text"` items; None for both.
        verify: `"likelihood"`, `"choice"`, `"yesno"` or `"off"`; None leaves it to the core.
        node_type: How a picture is given, see `hit_to_node`.
        node_postprocessors: As in every retriever's engine.
        callback_manager: As in every LlamaIndex query engine.

    Raises:
        InputError: If the answerer has no retriever, or a threshold and verification is off.

    Examples:
        >>> engine = GroundedQueryEngine(Answerer(retriever.core))  # doctest: +SKIP
        >>> response = engine.query("What does the dog catch?")  # doctest: +SKIP
        >>> response.metadata["found"]  # doctest: +SKIP
        True
    """

    def __init__(
        self,
        answerer: Answerer,
        *,
        filters: Filters | None = None,
        kind: Kind | None = None,
        verify: Verify | None = None,
        node_type: NodeType = "multimodal",
        node_postprocessors: list[BaseNodePostprocessor] | None = None,
        callback_manager: CallbackManager | None = None,
    ) -> None:
        if answerer.retriever is None:
            raise InputError("the answerer has no retriever", "use GroundedSynthesizer instead")
        answerer.check(verify)
        super().__init__(
            GenerativeMMRetriever(
                answerer.retriever,
                similarity_top_k=answerer.k,
                filters=filters,
                kind=kind,
                verify=verify,
                node_type=node_type,
                callback_manager=callback_manager,
            ),
            GroundedSynthesizer(answerer, callback_manager=callback_manager),
            node_postprocessors=node_postprocessors,
            callback_manager=callback_manager,
        )


def _said(answer: Answer) -> str:
    return answer.text if answer.found else f"Not found: {answer.reason}"
