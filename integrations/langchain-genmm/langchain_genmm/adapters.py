"""The core's query adapters and grounded answers as LangChain runnables."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from langchain_core.runnables import RunnableConfig, RunnableSerializable
from pydantic import ConfigDict, Field

from genmm_retriever.checks import as_query
from genmm_retriever.errors import QueryError
from genmm_retriever.querying import Answer, Answerer, QueryAdapter
from genmm_retriever.schema import Query
from langchain_genmm.documents import hit_to_document

QueryInput = str | Query | Mapping[str, Any]
"""Words, a core query, or its fields: `{"text": "the same, but in red", "image": "a.jpg"}`."""


def to_query(given: QueryInput) -> Query:
    """A core query of what a chain passes on.

    Raises:
        QueryError: If it is empty or has a field that no query has.

    Examples:
        >>> to_query({"text": "a dog", "filters": {"year": 2013}}).filters
        {'year': 2013}
    """
    if not isinstance(given, Mapping):
        return as_query(given)
    try:
        return as_query(Query(**given))
    except ValueError as error:
        raise QueryError(f"the query cannot be asked: {error}", "give text, image, ...") from error


class GenmmQueryAdapter(RunnableSerializable[QueryInput, Query]):
    """Runs query adapters; its output goes into `GenerativeMMRetriever`: `adapter | retriever`.

    Args:
        adapters: Of `genmm_retriever.querying`, run in this order.
        core: The core retriever whose model they share; it is held while they write. None if
            they have a model of their own.

    Examples:
        >>> from genmm_retriever.querying import QueryRewriter
        >>> chain = GenmmQueryAdapter(adapters=[QueryRewriter(model)]) | retriever  # doctest: +SKIP
        >>> documents = chain.invoke("Hello! I am looking for ...")  # doctest: +SKIP
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    adapters: list[QueryAdapter] = Field(min_length=1)
    core: Any = Field(default=None, repr=False)

    def invoke(
        self, input: QueryInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Query:
        """The query as it should be asked.

        Raises:
            QueryError: If it is empty.
            ImageError: If its picture is needed and cannot be opened.
        """
        return self._call_with_config(self._adapt, input, config, run_type="chain", **kwargs)

    async def ainvoke(
        self, input: QueryInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Query:
        """As `invoke`, in a worker thread: the event loop is never blocked."""
        return await asyncio.to_thread(self.invoke, input, config, **kwargs)

    def _adapt(self, given: QueryInput) -> Query:
        query = to_query(given)
        held: AbstractContextManager[Any] = (
            nullcontext() if self.core is None else self.core.computing()
        )
        with held:
            for adapter in self.adapters:
                query = adapter.adapt(query)
        return query


class GenmmAnswerer(RunnableSerializable[QueryInput, dict[str, Any]]):
    """Answers from what the index holds, or says that it does not hold it.

    The output has `answer` (empty if not found), `found`, `documents` that the answer rests on,
    `confidence` (the verifier's probability of the best hit), `reason`, `quoted`, `tokens` and
    `seconds`.

    Args:
        answerer: The core's; see `genmm_retriever.querying.Answerer`.

    Examples:
        >>> answers = GenmmAnswerer(answerer=Answerer(retriever.core))  # doctest: +SKIP
        >>> answers.invoke("What does the dog catch?")["documents"]  # doctest: +SKIP
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    answerer: Answerer = Field(repr=False)

    def invoke(
        self, input: QueryInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """The answer to a question.

        Raises:
            QueryError: If it is empty.
        """
        return self._call_with_config(self._ask, input, config, run_type="chain", **kwargs)

    async def ainvoke(
        self, input: QueryInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """As `invoke`; the event loop is never blocked."""
        return await self._acall_with_config(self._aask, input, config, **kwargs)

    def _ask(self, given: QueryInput) -> dict[str, Any]:
        return _told(self.answerer.ask(to_query(given)))

    async def _aask(self, given: QueryInput) -> dict[str, Any]:
        answer = await self.answerer.aask(to_query(given))
        # Naming a picture's type may look into its file, which must not block the loop.
        return await asyncio.to_thread(_told, answer)


def _told(answer: Answer) -> dict[str, Any]:
    facts = answer.model_dump(exclude={"text", "sources"})
    documents = [hit_to_document(hit) for hit in answer.sources]
    return {"answer": answer.text, "documents": documents, **facts}
