"""A retriever with query adapters in front of it, used as the retriever itself is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

from genmm_retriever.checks import as_query, checked_k
from genmm_retriever.errors import InputError
from genmm_retriever.models.base import Generator
from genmm_retriever.querying.adapters import QueryAdapter
from genmm_retriever.querying.expanding import QueryExpander
from genmm_retriever.querying.fusing import fuse, interleaved, summed
from genmm_retriever.schema import Hit, ImageRef, Kind, Query, Scalar

Filters = dict[str, Scalar | list[Scalar]]


class Searcher(Protocol):
    """What adapters need of a retriever; `GenerativeMMRetriever` is one."""

    @property
    def k(self) -> int:
        """Hits a query, unless asked otherwise."""
        ...

    @property
    def model(self) -> Generator:
        """The model that it computes with."""
        ...

    @property
    def last_timings(self) -> dict[str, float]:
        """Seconds by stage of the last call."""
        ...

    @property
    def last_candidates(self) -> list[list[str]]:
        """Ids of the first stage's candidates of the last call, by query."""
        ...

    def computing(self) -> AbstractContextManager[Any]:
        """Hold the model, so that nobody else asks it anything meanwhile."""
        ...

    def retrieve(
        self, query: Query, *, k: int | None = None, verify: str | bool | None = None
    ) -> list[Hit]:
        """Hits of one query."""
        ...

    def retrieve_batch(
        self,
        queries: Sequence[str | Query],
        *,
        k: int | None = None,
        verify: str | bool | None = None,
    ) -> list[list[Hit]]:
        """Hits of several queries."""
        ...

    async def aretrieve(
        self, query: Query, *, k: int | None = None, verify: str | bool | None = None
    ) -> list[Hit]:
        """Hits of one query, without blocking the event loop."""
        ...

    def close(self) -> None:
        """Let go of files and memory."""
        ...


def holding(searcher: Searcher, model: Generator) -> AbstractContextManager[Any]:
    """What to enter before a model is asked: it may be the one that a retriever computes with.

    A remote engine is never waited for with the retriever's model held.
    """
    if not hasattr(model, "prefill"):
        return nullcontext()
    return searcher.computing()


@dataclass(frozen=True)
class Searched:
    """What one call brought, whatever others ask of the same retriever meanwhile.

    Attributes:
        hits: Of each query.
        timings: Seconds by stage.
        candidates: Ids of the first stage's candidates, by query.
    """

    hits: list[list[Hit]]
    timings: dict[str, float]
    candidates: list[list[str]]


def look_up(
    searcher: Searcher,
    queries: Sequence[Query],
    *,
    k: int | None = None,
    verify: str | bool | None = None,
) -> Searched:
    """The hits of several queries with the timings and candidates of this very call.

    A retriever that computes is held until they are read; one with adapters is not, for its
    adapters may wait for a remote engine, and it gives them together.
    """
    own: Any = getattr(searcher, "search_batch", None)
    if own is not None:
        found: Searched = own(queries, k=k, verify=verify)
        return found
    with searcher.computing():
        hits = searcher.retrieve_batch(queries, k=k, verify=verify)
        return Searched(hits, searcher.last_timings, searcher.last_candidates)


class AdaptedRetriever:
    """Asks a retriever after adapters changed the query, and an expander multiplied it.

    It has the methods of `GenerativeMMRetriever` that ask, and may stand wherever one is
    expected: as the core of the LlamaIndex and LangChain retrievers, or in `Answerer`.

    Args:
        retriever: Whom to ask.
        adapters: Run in this order.
        expander: Writes further forms of a query; their hits are fused by rank.

    Raises:
        InputError: If there is no adapter and no expander.

    Attributes:
        last_timings: Seconds of `adapt` and of the retriever's stages, of the last call.
        last_candidates: As the retriever's; of a query's forms together, rank by rank.

    Examples:
        >>> asked = AdaptedRetriever(retriever, [QueryRewriter(retriever.model)])  # doctest: +SKIP
        >>> asked.retrieve("Hello, could you find me ...?")[0].evidence.steps  # doctest: +SKIP
    """

    def __init__(
        self,
        retriever: Searcher,
        adapters: Sequence[QueryAdapter] = (),
        *,
        expander: QueryExpander | None = None,
    ) -> None:
        if not adapters and expander is None:
            raise InputError("no query adapter was given", "give one, or ask the retriever itself")
        self.retriever, self.adapters, self.expander = retriever, tuple(adapters), expander
        self.last_timings: dict[str, float] = {}
        self.last_candidates: list[list[str]] = []

    @property
    def k(self) -> int:
        """Hits a query, unless asked otherwise."""
        return self.retriever.k

    @property
    def model(self) -> Generator:
        """The retriever's model."""
        return self.retriever.model

    def computing(self) -> AbstractContextManager[Any]:
        """As the retriever's."""
        return self.retriever.computing()

    def close(self) -> None:
        """Close the retriever."""
        self.retriever.close()

    def retrieve(
        self,
        query: str | Query | None = None,
        *,
        k: int | None = None,
        image: ImageRef | None = None,
        filters: Filters | None = None,
        kind: Kind | None = None,
        verify: str | bool | None = None,
    ) -> list[Hit]:
        """As `GenerativeMMRetriever.retrieve`, of the adapted query.

        Raises:
            QueryError: If the query is empty or k out of range.
            ImageError: If the query picture cannot be opened.
            ModelError: If a remote engine cannot be reached.
        """
        asked = as_query(query, image=image, filters=filters, kind=kind)
        return self.retrieve_batch([asked], k=k, verify=verify)[0]

    def retrieve_batch(
        self,
        queries: Sequence[str | Query],
        *,
        k: int | None = None,
        verify: str | bool | None = None,
    ) -> list[list[Hit]]:
        """As `retrieve`, for several queries in one batch."""
        found = self.search_batch(queries, k=k, verify=verify)
        self.last_timings, self.last_candidates = found.timings, found.candidates
        return found.hits

    def search_batch(
        self,
        queries: Sequence[str | Query],
        *,
        k: int | None = None,
        verify: str | bool | None = None,
    ) -> Searched:
        """As `retrieve_batch`, with the timings and candidates of this call."""
        most = self.k if k is None else checked_k(k)
        start = time.perf_counter()
        forms = self.forms([as_query(query) for query in queries])
        spent = {"adapt": time.perf_counter() - start}
        flat = [form for some in forms for form in some]
        found = look_up(self.retriever, flat, k=k, verify=verify)
        hits, candidates = iter(found.hits), iter(found.candidates)
        return Searched(
            [self._one([next(hits) for _ in some], most) for some in forms],
            summed([spent, found.timings]),
            [interleaved([next(candidates) for _ in some]) for some in forms],
        )

    async def aretrieve(
        self,
        query: str | Query | None = None,
        *,
        k: int | None = None,
        image: ImageRef | None = None,
        filters: Filters | None = None,
        kind: Kind | None = None,
        verify: str | bool | None = None,
    ) -> list[Hit]:
        """As `retrieve`; the event loop is never blocked."""
        asked = as_query(query, image=image, filters=filters, kind=kind)
        most = self.k if k is None else checked_k(k)
        [forms] = await asyncio.to_thread(self.forms, [asked])
        calls = [self.retriever.aretrieve(form, k=k, verify=verify) for form in forms]
        return self._one(list(await asyncio.gather(*calls)), most)

    def forms(self, queries: Sequence[Query]) -> list[list[Query]]:
        """What is asked for each query: its adapted form, and the expansions of that."""
        adapted = list(queries)
        for adapter in self.adapters:
            with holding(self.retriever, adapter.model):
                adapted = adapter.adapt_all(adapted)
        if self.expander is None:
            return [[query] for query in adapted]
        with holding(self.retriever, self.expander.model):
            return self.expander.expand_all(adapted)

    def _one(self, rankings: list[list[Hit]], k: int) -> list[Hit]:
        return rankings[0] if len(rankings) == 1 else fuse(rankings, k)
