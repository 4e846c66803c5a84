"""The core's query adapters and grounded answers as LangChain runnables."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from os import PathLike, fspath
from typing import Any

from langchain_core.documents import Document
from langchain_core.runnables import RunnableConfig, RunnableSerializable
from pydantic import ConfigDict, Field, ValidationError
from typing_extensions import TypedDict

from genmm_retriever.checks import as_query
from genmm_retriever.errors import QueryError, first_problem
from genmm_retriever.querying import Answer, Answerer, QueryAdapter
from genmm_retriever.querying.computing import holding
from genmm_retriever.schema import Kind, Query
from langchain_genmm.documents import hit_to_document
from langchain_genmm.retrievers import Filters, ImageSource, Verify

QueryInput = str | Query | Mapping[str, Any]
"""Words, a core query, or its fields: `{"text": "the same, but in red", "image": "a.jpg"}`."""


class GroundedAnswer(TypedDict):
    """What `GenmmAnswerer` gives.

    Attributes:
        answer: Words; empty if not found.
        found: False if nothing that was found answers the question.
        documents: What the answer rests on, or if not found what was looked at.
        confidence: The verifier's probability of the best hit, or None if none was verified.
        reason: Why there is no answer.
        quoted: True if the answer is what the index knows of the best document, word by word.
        tokens: Written, or None if the engine does not say.
        seconds: From question to answer.
    """

    answer: str
    found: bool
    documents: list[Document]
    confidence: float | None
    reason: str | None
    quoted: bool
    tokens: int | None
    seconds: float


def to_query(
    given: QueryInput,
    *,
    image: ImageSource | None = None,
    filters: Filters | None = None,
    kind: Kind | None = None,
) -> Query:
    """A core query of what a chain passes on.

    Args:
        given: Words, a core query, or the fields of one.
        image: Path, URI or bytes of a picture; like what follows, it takes precedence.
        filters: Metadata conditions.
        kind: Look only for `"image"` or only for `"text"` items.

    Raises:
        QueryError: If it is empty or has a field that no query has.

    Examples:
        >>> to_query({"text": "a dog", "filters": {"year": 2013}}).filters
        {'year': 2013}
    """
    picture = image if image is None or isinstance(image, bytes) else fspath(image)
    if isinstance(given, Mapping):
        fields = {"image": picture, "filters": filters, "kind": kind}
        fields = {**given, **{key: value for key, value in fields.items() if value is not None}}
        if isinstance(fields.get("image"), PathLike):
            fields["image"] = fspath(fields["image"])
        try:
            return Query.model_validate(fields)
        except ValidationError as error:
            problem = f"the query cannot be asked: {first_problem(error)}"
            raise QueryError(problem, "give text, image, filters, kind or ids") from error
    if isinstance(given, str):
        given = given.strip()
    return as_query(given, image=picture, filters=filters, kind=kind)


class GenmmQueryAdapter(RunnableSerializable[QueryInput, Query]):
    """Runs query adapters; its output goes into `GenerativeMMRetriever`: `adapter | retriever`.

    Takes words, a core query or its fields, and gives a core query: picture, filters, ids and
    kind stay. `image=`, `filters=` and `kind=` may be given beside it, as to the retriever:
    `(adapter | retriever).invoke("the same, but in red", image="shirt.jpg")`. A batch is
    adapted in one go, or with `max_concurrency` by so many.

    Args:
        adapters: Of `genmm_retriever.querying`, run in this order.
        core: The core retriever whose model they share; it is held while that writes. None if
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
        return self._call_with_config(self._adapt, input, config, **kwargs)

    async def ainvoke(
        self, input: QueryInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Query:
        """As `invoke`, in a worker thread: the event loop is never blocked."""
        return await self._acall_with_config(self._aadapt, input, config, **kwargs)

    def batch(
        self,
        inputs: list[QueryInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[Query]:
        """As `invoke` for each, which the adapters do together."""
        return self._batch_with_config(
            self._adapt_batch, inputs, config, return_exceptions=return_exceptions, **kwargs
        )

    async def abatch(
        self,
        inputs: list[QueryInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[Query]:
        """As `batch`, in a worker thread."""
        return await self._abatch_with_config(
            self._aadapt_batch, inputs, config, return_exceptions=return_exceptions, **kwargs
        )

    def _adapt(self, given: QueryInput, **options: Any) -> Query:
        return self._all([to_query(given, **options)])[0]

    async def _aadapt(self, given: QueryInput, **options: Any) -> Query:
        return await asyncio.to_thread(self._adapt, given, **options)

    def _adapt_batch(
        self, given: list[QueryInput], config: list[RunnableConfig], **options: Any
    ) -> list[Exception | Query]:
        """A query for each, or what is wrong with it."""
        size = config[0].get("max_concurrency") or len(given)
        found: list[Exception | Query] = []
        for start in range(0, len(given), size):
            some = given[start : start + size]
            try:
                found += self._all([to_query(one, **options) for one in some])
            except Exception as error:
                found += [error] if len(some) == 1 else self._singly(some, options)
        return found

    async def _aadapt_batch(
        self, given: list[QueryInput], config: list[RunnableConfig], **options: Any
    ) -> list[Exception | Query]:
        return await asyncio.to_thread(self._adapt_batch, given, config, **options)

    def _singly(
        self, given: Sequence[QueryInput], options: dict[str, Any]
    ) -> list[Exception | Query]:
        """One after another, so that what is wrong with one is not said of all."""
        found: list[Exception | Query] = []
        for one in given:
            try:
                found.append(self._adapt(one, **options))
            except Exception as error:
                found.append(error)
        return found

    def _all(self, queries: list[Query]) -> list[Query]:
        for adapter in self.adapters:
            # Only a model that computes here: nobody waits for a remote engine with it held.
            with nullcontext() if self.core is None else holding(self.core, adapter.model):
                queries = adapter.adapt_all(queries)
        return queries


class GenmmAnswerer(RunnableSerializable[QueryInput, GroundedAnswer]):
    """Answers from what the index holds, or says that it does not hold it.

    Takes words, a core query (as `GenmmQueryAdapter` gives it) or its fields; the output is a
    `GroundedAnswer`. `image=`, `filters=`, `kind=` and `verify=` may be given beside it, as to
    the retriever. Nothing is streamed: what an answer rests on is known at its end.

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
    ) -> GroundedAnswer:
        """The answer to a question.

        Raises:
            QueryError: If it is empty.
        """
        return self._call_with_config(self._ask, input, config, **kwargs)

    async def ainvoke(
        self, input: QueryInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> GroundedAnswer:
        """As `invoke`; the event loop is never blocked."""
        return await self._acall_with_config(self._aask, input, config, **kwargs)

    def _ask(
        self, given: QueryInput, *, verify: Verify | None = None, **options: Any
    ) -> GroundedAnswer:
        return _told(self.answerer.ask(to_query(given, **options), verify=verify))

    async def _aask(
        self, given: QueryInput, *, verify: Verify | None = None, **options: Any
    ) -> GroundedAnswer:
        answer = await self.answerer.aask(to_query(given, **options), verify=verify)
        # Naming a picture's type may look into its file, which must not block the loop.
        return await asyncio.to_thread(_told, answer)


def _told(answer: Answer) -> GroundedAnswer:
    return GroundedAnswer(
        answer=answer.text,
        found=answer.found,
        documents=[hit_to_document(hit) for hit in answer.sources],
        confidence=answer.confidence,
        reason=answer.reason,
        quoted=answer.quoted,
        tokens=answer.tokens,
        seconds=answer.seconds,
    )
