"""A retriever with query adapters in front of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from functools import partial

from genmm_retriever.checks import as_queries, checked_k
from genmm_retriever.errors import InputError
from genmm_retriever.querying.adapters import QueryAdapter
from genmm_retriever.querying.computing import Searched, Searcher, holding, look_up, off_loop
from genmm_retriever.querying.expanding import QueryExpander
from genmm_retriever.querying.fusing import fuse, interleaved, summed
from genmm_retriever.querying.wrapping import WrappedRetriever
from genmm_retriever.schema import Hit, Query

_FUSED = 10
"""Hits of each form that are fused, at least."""


class AdaptedRetriever(WrappedRetriever):
    """Asks a retriever after adapters changed the query, and an expander multiplied it.

    Args:
        retriever: Whom to ask.
        adapters: Run in this order.
        expander: Writes further forms of a query; their hits are fused by rank.

    Raises:
        InputError: If there is no adapter and no expander, or one is something else.

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
        for one in adapters:
            if not isinstance(one, QueryAdapter):
                hint = (
                    "give it as expander="
                    if isinstance(one, QueryExpander)
                    else "give objects such as QueryRewriter(model), or names to querying.adapted"
                )
                raise InputError(f"{one!r} is no query adapter", hint)
        if expander is not None and not isinstance(expander, QueryExpander):
            raise InputError(f"{expander!r} is no expander", "give a QueryExpander(model)")
        super().__init__(retriever)
        self.adapters, self.expander = tuple(adapters), expander

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
        forms = self.forms(as_queries(queries))
        spent = {"adapt": time.perf_counter() - start}
        flat = [form for some in forms for form in some]
        found = look_up(self.retriever, flat, k=self._depth(k), verify=verify)
        hits, candidates = iter(found.hits), iter(found.candidates)
        return Searched(
            [self._one([next(hits) for _ in some], most) for some in forms],
            summed([spent, found.timings]),
            [interleaved([next(candidates) for _ in some]) for some in forms],
        )

    async def _asearch(self, query: Query, k: int | None, verify: str | bool | None) -> list[Hit]:
        most = self.k if k is None else checked_k(k)
        forms = await self.aforms(query)
        depth = self._depth(k)
        calls = [self.retriever.aretrieve(form, k=depth, verify=verify) for form in forms]
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

    def _depth(self, k: int | None) -> int | None:
        """Hits that each form is asked for: what is fused must not depend on what is shown."""
        return k if self.expander is None else max(self.k if k is None else k, _FUSED)

    def _one(self, rankings: list[list[Hit]], k: int) -> list[Hit]:
        return fuse(rankings, k)
