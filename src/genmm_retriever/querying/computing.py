"""What adapters need of a retriever, and where their models compute."""

from __future__ import annotations

import asyncio
from asyncio import AbstractEventLoop
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar
from weakref import WeakKeyDictionary

from genmm_retriever.models.base import Generator
from genmm_retriever.schema import Hit, Query

ResultT = TypeVar("ResultT")
_WAITING = 16
"""Remote answers that one event loop waits for at a time; asyncio's own threads stay free."""
_waiting: WeakKeyDictionary[AbstractEventLoop, ThreadPoolExecutor] = WeakKeyDictionary()


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
        """Seconds by stage of the last call that was no `aretrieve`."""
        ...

    @property
    def last_candidates(self) -> list[list[str]]:
        """Ids of the first stage's candidates of that call, by query."""
        ...

    def computing(self) -> AbstractContextManager[Any]:
        """Hold the model, so that nobody else asks it anything meanwhile."""
        ...

    async def acompute(self, work: Callable[[], ResultT]) -> ResultT:
        """Do work in the thread that answers `aretrieve`, with the model held."""
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


def is_local(model: Generator) -> bool:
    """Whether a model computes in this process, and not behind a server."""
    return hasattr(model, "prefill")


def holding(searcher: Searcher, model: Generator) -> AbstractContextManager[Any]:
    """What to enter before a model is asked: it may be the one that a retriever computes with.

    A remote engine is never waited for with the retriever's model held.
    """
    return searcher.computing() if is_local(model) else nullcontext()


async def off_loop(
    searcher: Searcher, model: Generator | None, work: Callable[[], ResultT]
) -> ResultT:
    """Do work that asks a model, without blocking the event loop.

    Local models compute in the thread in which the searcher does: a second one that computes
    makes OpenMP slow both. A remote engine is waited for in a thread of its own, and while it
    thinks the searcher answers others. Work that has not begun is dropped when it is cancelled.

    Args:
        searcher: Whose computing thread is shared.
        model: Whom the work asks; None for the searcher's own model, which is not looked up
            here, for that may wait for its lock.
        work: What to do; called in a thread.
    """
    if model is None or is_local(model):
        return await searcher.acompute(work)
    loop = asyncio.get_running_loop()
    if loop not in _waiting:
        _waiting[loop] = ThreadPoolExecutor(_WAITING, thread_name_prefix="genmm-writers")
    return await loop.run_in_executor(_waiting[loop], work)
