"""Queries that wait at the same time are answered together, in one decode."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from genmm_retriever.errors import IndexStateError, InputError
from genmm_retriever.schema import Hit, Query

ResultT = TypeVar("ResultT")


class BatchRetriever(Protocol):
    """What answers the queries; `GenerativeMMRetriever` does."""

    def retrieve_batch(
        self,
        queries: Sequence[str | Query],
        *,
        k: int | None = None,
        verify: str | bool | None = None,
    ) -> list[list[Hit]]:
        """Hits of each query."""
        ...


@dataclass(frozen=True, eq=False)
class _Request:
    query: str | Query
    k: int | None
    verify: str | bool | None
    answer: Future[list[Hit]] = field(default_factory=Future)

    def joins(self, other: _Request) -> bool:
        """Whether both can be asked in one call."""
        return (self.k, self.verify) == (other.k, other.verify)


class Coalescer:
    """Gathers concurrent queries and answers them in batches, in one thread of its own.

    While a batch is answered, the queries that come in wait; those of the same `k` and
    `verify` make the next one. If a batch fails, its queries are asked one by one, so that
    each gets its own answer or error. A query whose waiter was cancelled is dropped if its
    batch has not begun. It may be used from any number of threads and event loops.

    Args:
        retriever: What answers; called from one thread at a time.
        max_batch: Most queries of a batch.
        max_wait_ms: Milliseconds that a query waits for others before its batch begins.

    Raises:
        InputError: If an option is out of range.

    Attributes:
        batches: Number of batches so far.
        answered: Number of queries that were in them.
    """

    def __init__(
        self, retriever: BatchRetriever, *, max_batch: int = 16, max_wait_ms: float = 2.0
    ) -> None:
        if not isinstance(max_batch, int) or max_batch < 1:
            raise InputError(f"max_batch is {max_batch!r}", "give a whole number of at least 1")
        if not 0 <= max_wait_ms <= 10_000:
            raise InputError(f"max_wait_ms is {max_wait_ms!r}", "give 0 to 10,000 milliseconds")
        self.batches = self.answered = 0
        self._retriever = retriever
        self._max_batch = max_batch
        self._max_wait = max_wait_ms / 1000
        self._waiting: deque[_Request] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="genmm-queries")

    @property
    def waiting(self) -> int:
        """Number of queries whose batch has not begun, cancelled ones included."""
        return len(self._waiting)

    def enqueue(
        self, query: str | Query, k: int | None = None, verify: str | bool | None = None
    ) -> Future[list[Hit]]:
        """Ask a query from a thread; see `submit`.

        Returns:
            A future of the hits; cancelling it drops the query.

        Raises:
            IndexStateError: If this is closed.
        """
        request = _Request(query, k, verify)
        with self._changed:
            if self._closed:
                raise IndexStateError("no more queries are taken", "open the index again")
            self._waiting.append(request)
            # As many calls as queries, and each takes at least one: none is left behind.
            self._worker.submit(self._answer_some)
            self._changed.notify()
        return request.answer

    async def submit(
        self, query: str | Query, k: int | None = None, verify: str | bool | None = None
    ) -> list[Hit]:
        """Ask a query from an event loop, which is never blocked.

        Args:
            query: As for `GenerativeMMRetriever.retrieve_batch`.
            k: Hits; None for the retriever's.
            verify: A verifier; None for the retriever's.

        Returns:
            Hits, best first.

        Raises:
            IndexStateError: If this is closed.
            QueryError: As the retriever does.
        """
        return await asyncio.wrap_future(self.enqueue(query, k, verify))

    def run(self, work: Callable[[], ResultT]) -> Future[ResultT]:
        """Do other work in the thread that answers, in its turn.

        Threads of a process that compute side by side, even one after the other, each keep
        workers for every core, and OpenMP then slows them all down.

        Raises:
            IndexStateError: If this is closed.
        """
        with self._changed:
            if self._closed:
                raise IndexStateError("no more queries are taken", "open the index again")
            return self._worker.submit(work)

    def close(self) -> None:
        """Take no more queries; returns when those that wait are answered."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._worker.shutdown(wait=True)

    def _answer_some(self) -> None:
        batch = self._next_batch()
        if batch:
            self._answer(batch)

    def _answer(self, batch: list[_Request]) -> None:
        try:
            answers = self._ask(batch)
        except BaseException as error:
            # Whatever it is, somebody waits for it.
            if len(batch) == 1:
                batch[0].answer.set_exception(error)
                return
            for request in batch:
                self._answer([request])
        else:
            for request, hits in zip(batch, answers, strict=True):
                request.answer.set_result(hits)

    def _ask(self, batch: list[_Request]) -> list[list[Hit]]:
        queries = [request.query for request in batch]
        answers = self._retriever.retrieve_batch(queries, k=batch[0].k, verify=batch[0].verify)
        if len(answers) != len(batch):
            raise RuntimeError(f"{len(answers)} answers to {len(batch)} queries")
        self.batches += 1
        self.answered += len(batch)
        return answers

    def _next_batch(self) -> list[_Request]:
        """The query that waits longest and those that can be asked with it."""
        with self._changed:
            if not self._waiting:
                return []
            until = time.monotonic() + self._max_wait
            while len(self._waiting) < self._max_batch and not self._closed:
                left = until - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
            batch: list[_Request] = []
            others: deque[_Request] = deque()
            for request in self._waiting:
                if len(batch) < self._max_batch and (not batch or request.joins(batch[0])):
                    # From here on the future can no longer be cancelled.
                    if request.answer.set_running_or_notify_cancel():
                        batch.append(request)
                else:
                    others.append(request)
            self._waiting = others
            return batch
