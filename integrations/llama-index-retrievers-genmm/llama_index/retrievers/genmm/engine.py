"""Grounded answers as a LlamaIndex query engine."""

from __future__ import annotations

import asyncio
from typing import Any

from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.base.response.schema import Response
from llama_index.core.callbacks.base import CallbackManager
from llama_index.core.prompts.mixin import PromptMixinType
from llama_index.core.schema import QueryBundle

from genmm_retriever.querying import Answer, Answerer
from llama_index.retrievers.genmm.nodes import NodeType, hit_to_node
from llama_index.retrievers.genmm.queries import to_query


class GroundedQueryEngine(BaseQueryEngine):
    """Answers from what the index holds, with the pictures that an answer rests on, or not at all.

    `response.source_nodes` are the nodes that the answer rests on, and `response.metadata` has
    `found`, `confidence` (the verifier's probability of the best hit), `reason`, `quoted`,
    `tokens` and `seconds`. What is not found gives an empty answer that says so.

    Args:
        answerer: The core's; see `genmm_retriever.querying.Answerer`.
        filters: Metadata conditions for every question.
        node_type: How a picture is given, see `hit_to_node`.
        callback_manager: As in every LlamaIndex query engine.

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
        filters: dict[str, Any] | None = None,
        node_type: NodeType = "multimodal",
        callback_manager: CallbackManager | None = None,
    ) -> None:
        super().__init__(callback_manager)
        self.answerer, self.filters, self.node_type = answerer, filters or {}, node_type

    def _get_prompt_modules(self) -> PromptMixinType:
        return {}

    def _query(self, query_bundle: QueryBundle) -> Response:
        return self._response(self.answerer.ask(to_query(query_bundle, None, self.filters)))

    async def _aquery(self, query_bundle: QueryBundle) -> Response:
        answer = await self.answerer.aask(to_query(query_bundle, None, self.filters))
        # Naming a picture's type may look into its file, which must not block the loop.
        return await asyncio.to_thread(self._response, answer)

    def _response(self, answer: Answer) -> Response:
        facts = answer.model_dump(exclude={"text", "sources"})
        return Response(
            response=answer.text if answer.found else f"Not found: {answer.reason}",
            source_nodes=[hit_to_node(hit, self.node_type) for hit in answer.sources],
            metadata=facts,
        )
