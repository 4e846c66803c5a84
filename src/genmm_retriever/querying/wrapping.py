"""What stands around a retriever and is used as one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from genmm_retriever.checks import as_query
from genmm_retriever.models.base import Generator
from genmm_retriever.querying.computing import ResultT, Searched, Searcher
from genmm_retriever.schema import GivenImage, Hit, Kind, Query, Scalar

Filters = dict[str, Scalar | list[Scalar]]


class WrappedRetriever(ABC):
    """Has the methods of `GenerativeMMRetriever` that ask, and may stand wherever one is expected.

    As the core of the LlamaIndex and LangChain retrievers, in `Answerer`, or in another of its
    kind.

    Args:
        retriever: Whom to ask.

    Attributes:
        last_timings: Seconds by stage of the last call that was no `aretrieve`.
        last_candidates: Ids of the first stage's candidates of that call, by query.
    """

    def __init__(self, retriever: Searcher) -> None:
        self.retriever = retriever
        self.last_timings: dict[str, float] = {}
        self.last_candidates: list[list[str]] = []

    @property
    def k(self) -> int:
        """Hits a query, unless asked otherwise."""
        return self.retriever.k

    @property
    def verify(self) -> str | bool | None:
        """How the retriever verifies, or None if it does not say."""
        return getattr(self.retriever, "verify", None)

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
        image: GivenImage | None = None,
        filters: Filters | None = None,
        kind: Kind | None = None,
        verify: str | bool | None = None,
    ) -> list[Hit]:
        """As `GenerativeMMRetriever.retrieve`.

        Where rankings are fused, `Hit.score` is the fused one, in (0, 1]; the verifier's
        probability is in the evidence.

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
        found = self.search_batch(queries, k=k, verify=verify)
        self.last_timings, self.last_candidates = found.timings, found.candidates
        return found.hits

    async def aretrieve(
        self,
        query: str | Query | None = None,
        *,
        k: int | None = None,
        image: GivenImage | None = None,
        filters: Filters | None = None,
        kind: Kind | None = None,
        verify: str | bool | None = None,
    ) -> list[Hit]:
        """As `retrieve`; the event loop is never blocked, and `last_timings` stay."""
        asked = as_query(query, image=image, filters=filters, kind=kind)
        return await self._asearch(asked, k, verify)

    @abstractmethod
    def search_batch(
        self,
        queries: Sequence[str | Query],
        *,
        k: int | None = None,
        verify: str | bool | None = None,
    ) -> Searched:
        """As `retrieve_batch`, with the timings and candidates of this call."""

    @abstractmethod
    async def _asearch(self, query: Query, k: int | None, verify: str | bool | None) -> list[Hit]:
        """One query, without blocking the event loop."""
