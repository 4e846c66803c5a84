"""A retriever with query adapters in front of it, used as the retriever itself is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from genmm_retriever.checks import as_query, checked_k
from genmm_retriever.errors import InputError
from genmm_retriever.models.base import Generator
from genmm_retriever.querying.adapters import QueryAdapter
from genmm_retriever.querying.computing import ResultT, Searcher, holding, off_loop
from genmm_retriever.querying.expanding import QueryExpander
from genmm_retriever.querying.fusing import fuse, interleaved, summed
from genmm_retriever.schema import Hit, ImageRef, Kind, Query, Scalar

Filters = dict[str, Scalar | list[Scalar]]


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
        last_timings: Seconds of `adapt` and of the retriever's stages, of the last call that was
            no `aretrieve`.
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

    async def acompute(self, work: Callable[[], ResultT]) -> ResultT:
        """As the retriever's."""
        return await self.retriever.acompute(work)

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
            ModelError: If a remote engine refuses the key, the model or the request.
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
        most = self.k if k is None else checked_k(k)
        start = time.perf_counter()
        forms = self.forms([as_query(query) for query in queries])
        spent = {"adapt": time.perf_counter() - start}
        flat = [form for some in forms for form in some]
        hits = iter(self.retriever.retrieve_batch(flat, k=k, verify=verify))
        self.last_timings = summed([spent, self.retriever.last_timings])
        candidates = iter(self.retriever.last_candidates)
        self.last_candidates = [interleaved([next(candidates) for _ in some]) for some in forms]
        return [self._one([next(hits) for _ in some], most) for some in forms]

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
        """As `retrieve`; the event loop is never blocked, and `last_timings` stay."""
        asked = as_query(query, image=image, filters=filters, kind=kind)
        most = self.k if k is None else checked_k(k)
        forms = await self.aforms(asked)
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

    async def aforms(self, query: Query) -> list[Query]:
        """As `forms`, for one query and without blocking the event loop.

        Local models write in the retriever's thread; remote ones are waited for elsewhere.
        """
        for adapter in self.adapters:
            if adapter.applies(query):
                query = await off_loop(self.retriever, adapter.model, partial(adapter.adapt, query))
        if self.expander is None:
            return [query]
        return await off_loop(
            self.retriever, self.expander.model, partial(self.expander.expand, query)
        )

    def _one(self, rankings: list[list[Hit]], k: int) -> list[Hit]:
        return rankings[0] if len(rankings) == 1 else fuse(rankings, k)
