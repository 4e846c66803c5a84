"""One request's way through the engine: its searches in batches, and where its time goes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import PrivateAttr

from ...coalescing import Coalescer
from ...schema import Hit, Query
from .metrics import Metrics

if TYPE_CHECKING:
    import threading

    from ...models.base import Generator
    from ...retriever import GenerativeMMRetriever

ResultT = TypeVar("ResultT")
_NEWEST = 0.2
"""Weight of the newest batch in the average."""


class Asked(Query):
    """A query that remembers what the batch took in which it was answered."""

    _batches: list[dict[str, float]] = PrivateAttr(default_factory=list)


class Timed:
    """A retriever as the coalescer sees it: each call is timed, and its batch counted.

    Args:
        retriever: What answers.
        lock: Held during every call, so that timings are those of the call.
        metrics: Told of each batch.

    Attributes:
        average: Seconds that a query took lately, as its share of a batch; 0 before the first.
        model: The retriever's as of the last batch; the retriever itself may make who asks it
            for its model wait.
    """

    def __init__(
        self, retriever: GenerativeMMRetriever, lock: threading.RLock, metrics: Metrics
    ) -> None:
        self.retriever, self._lock, self._metrics = retriever, lock, metrics
        self.average = 0.0
        self.model: Generator | None = None

    def load(self) -> Generator:
        """The retriever's model; called where it computes."""
        with self._lock:
            self.model = self.retriever.model
        return self.model

    def retrieve_batch(
        self,
        queries: Sequence[str | Query],
        *,
        k: int | None = None,
        verify: str | bool | None = None,
    ) -> list[list[Hit]]:
        """As the retriever's."""
        with self._lock:
            hits = self.retriever.retrieve_batch(queries, k=k, verify=verify)
            seconds = dict(self.retriever.last_timings)
            self.model = self.retriever.model
        self._metrics.batch(len(queries), seconds)
        share = sum(seconds.values()) / max(1, len(queries))
        self.average += (share - self.average) * (_NEWEST if self.average else 1.0)
        for query in queries:
            if isinstance(query, Asked):
                query._batches.append(seconds)
        return hits

    def held(self, work: Callable[[], ResultT]) -> ResultT:
        """Do work between two calls."""
        with self._lock, self.retriever.computing():
            return work()


class Turn:
    """The engine as one request's adapters and answers see it.

    It is what they need of a retriever: all that computes goes through the engine's one thread,
    and each search joins a batch.

    Args:
        coalescer: Over `timed`.
        timed: The retriever.

    Attributes:
        searching: Seconds in which a search of this request was under way.
    """

    def __init__(self, coalescer: Coalescer, timed: Timed) -> None:
        self._coalescer, self._timed = coalescer, timed
        self.searching = 0.0
        self._batches: dict[int, dict[str, float]] = {}
        self._under_way, self._since = 0, 0.0
        self.last_timings: dict[str, float] = {}
        self.last_candidates: list[list[str]] = []

    @property
    def k(self) -> int:
        """Hits a query, unless asked otherwise."""
        return self._timed.retriever.k

    @property
    def model(self) -> Generator:
        """The model that it computes with; never waited for."""
        assert self._timed.model is not None, "the engine is not ready"
        return self._timed.model

    @property
    def stages(self) -> dict[str, float]:
        """Seconds by stage of the batches that this request's searches were in."""
        names = dict.fromkeys(stage for batch in self._batches.values() for stage in batch)
        return {n: sum(batch.get(n, 0.0) for batch in self._batches.values()) for n in names}

    def computing(self) -> AbstractContextManager[Any]:
        """As the retriever's."""
        return self._timed.retriever.computing()

    async def acompute(self, work: Callable[[], ResultT]) -> ResultT:
        """Do work with the model in the engine's thread, in its turn."""
        return await asyncio.wrap_future(self._coalescer.run(lambda: self._timed.held(work)))

    def retrieve(
        self, query: Query, *, k: int | None = None, verify: str | bool | None = None
    ) -> list[Hit]:
        """Hits of one query, in the calling thread; the service itself awaits `aretrieve`."""
        return self.retrieve_batch([query], k=k, verify=verify)[0]

    def retrieve_batch(
        self,
        queries: Sequence[str | Query],
        *,
        k: int | None = None,
        verify: str | bool | None = None,
    ) -> list[list[Hit]]:
        """As `retrieve`, for several queries."""
        return self._timed.retrieve_batch(queries, k=k, verify=verify)

    async def aretrieve(
        self, query: Query, *, k: int | None = None, verify: str | bool | None = None
    ) -> list[Hit]:
        """Hits of one query, answered in a batch with those that wait."""
        asked = Asked.model_validate(dict(query))
        if not self._under_way:
            self._since = time.perf_counter()
        self._under_way += 1
        try:
            hits = await self._coalescer.submit(asked, k, verify)
        finally:
            self._under_way -= 1
            if not self._under_way:
                self.searching += time.perf_counter() - self._since
        # Searches that were in one batch took its seconds once.
        self._batches.update((id(batch), batch) for batch in asked._batches)
        return hits

    def close(self) -> None:
        """The engine is closed by whoever opened it."""
