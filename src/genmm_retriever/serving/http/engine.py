"""The retriever behind a service: queries in batches, changes one after another, its state."""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import BaseModel, PrivateAttr

from ...coalescing import Coalescer
from ...errors import EmptyCorpusError, GenmmError, ImageError
from ...schema import Hit, Item, Query
from .errors import Refusal, busy
from .metrics import Metrics
from .settings import ServiceSettings

if TYPE_CHECKING:
    from ...retriever import GenerativeMMRetriever

log = logging.getLogger(__name__)
State = Literal["loading", "ready", "stopping", "failed"]
Outcome = Literal["added", "replaced", "unchanged"]
Result = TypeVar("Result")
_WARM_UP = "a photograph"
_NEWEST = 0.2
"""Weight of the newest batch in the average."""


class Asked(Query):
    """A query that remembers what the batch took in which it was answered."""

    _seconds: dict[str, float] = PrivateAttr(default_factory=dict)


class Timed:
    """A retriever as the coalescer sees it: each call is timed, and its batch counted.

    Args:
        retriever: What answers.
        lock: Held during every call, so that timings are those of the call.
        metrics: Told of each batch.

    Attributes:
        average: Seconds that a query took lately, as its share of a batch; 0 before the first.
    """

    def __init__(
        self, retriever: GenerativeMMRetriever, lock: threading.Lock, metrics: Metrics
    ) -> None:
        self._retriever, self._lock, self._metrics = retriever, lock, metrics
        self.average = 0.0

    def retrieve_batch(
        self,
        queries: Sequence[str | Query],
        *,
        k: int | None = None,
        verify: str | bool | None = None,
    ) -> list[list[Hit]]:
        """As the retriever's."""
        with self._lock:
            hits = self._retriever.retrieve_batch(queries, k=k, verify=verify)
            seconds = dict(self._retriever.last_timings)
        self._metrics.batch(len(queries), seconds)
        share = sum(seconds.values()) / max(1, len(queries))
        self.average += (share - self.average) * (_NEWEST if self.average else 1.0)
        for query in queries:
            if isinstance(query, Asked):
                query._seconds.update(seconds)
        return hits


class Engine:
    """Answers queries and makes changes, within limits; never in the event loop.

    Args:
        retriever: Over the index that is served; closed with this.
        settings: The limits.
        metrics: Where figures go.

    Attributes:
        state: What it does now.
        failure: Why the model cannot be loaded, when `state` is `"failed"`.
        on_failure: Called then, from a thread.
    """

    def __init__(
        self,
        retriever: GenerativeMMRetriever,
        settings: ServiceSettings,
        metrics: Metrics,
    ) -> None:
        self.retriever = retriever
        self.state: State = "loading"
        self.failure: Exception | None = None
        self.on_failure: Callable[[], None] = lambda: None
        self._settings, self._metrics = settings, metrics
        self._lock = threading.Lock()
        self._timed = Timed(retriever, self._lock, metrics)
        self._coalescer = Coalescer(
            self._timed,
            max_batch=settings.max_batch,
            max_wait_ms=settings.max_wait_ms,
        )
        self._pending = 0
        metrics.watch("queue_depth", "Queries that wait or are being answered", self._depth)
        metrics.watch("ready", "1 if queries are answered", lambda: float(self.is_ready))

    @property
    def is_ready(self) -> bool:
        """Whether queries are answered now."""
        return self.state == "ready"

    def start(self) -> None:
        """Load the model, in a thread; `state` tells when that is done."""
        self._coalescer.run(self._load)

    def stop_taking(self) -> None:
        """Refuse what comes from now on; what was taken is still answered."""
        self.state = "stopping"

    async def close(self) -> None:
        """Wait for what was taken, then release the index."""
        self.stop_taking()
        await asyncio.to_thread(self._close)

    async def search(
        self, query: Query, k: int, verify: str | bool | None
    ) -> tuple[list[Hit], dict[str, float]]:
        """Hits of a query, and seconds of its batch by stage with the query's own `total`.

        Raises:
            Refusal: 503 if too many wait, or it took too long.
        """
        asked = Asked.model_validate(dict(query))
        started = time.perf_counter()
        with self._place(), _as_own_fault():
            hits = await self._in_time(self._coalescer.submit(asked, k, verify))
        total = time.perf_counter() - started
        self._metrics.query(total)
        return hits, {**asked._seconds, "total": total}

    async def explain(self, query: Query, k: int, verify: str | bool | None) -> BaseModel:
        """How the answer to a query was written.

        Raises:
            Refusal: 501 if this version cannot tell, 503 as `search`.
        """
        explain: Any = getattr(self.retriever, "explain_written", None)
        if explain is None:
            raise Refusal(501, "this version explains nothing", "install a newer one")
        options: dict[str, Any] = {"k": k}
        if verify is not None and "verify" in inspect.signature(explain).parameters:
            options["verify"] = verify

        def run() -> BaseModel:
            with self._lock:
                explanation: BaseModel = explain(query, **options)
                return explanation

        with self._place(), _as_own_fault():
            return await self._in_time(self._in_worker(run))

    async def add(self, item: Item, *, replace: bool, holds: Callable[[str], bool]) -> Outcome:
        """Store an item durably and publish it; whoever asks next finds it.

        Args:
            item: What is added.
            replace: Whether an item of its id is replaced.
            holds: Tells whether readers see an id now.

        Raises:
            DuplicateIdError: If the id is there with other content and `replace` is false.
            Refusal: 422 if the item cannot be used; 503 if another writer is at work, or
                if it took too long: then it may still come to be stored.
        """
        return await self._change(lambda: self._add(item, replace, holds), "stored")

    async def delete(self, item_id: str) -> int:
        """Delete an item and publish that.

        Raises:
            Refusal: 404 if there is none; 503 as for `add`.
        """
        return await self._change(lambda: self._delete(item_id), "deleted")

    def _load(self) -> None:
        try:
            with self._lock:
                found = self.retriever.model.name
                if len(self.retriever):
                    # The trie is read now, so that nobody waits for it later.
                    self.retriever.retrieve(_WARM_UP, k=1)
        except Exception as error:
            self.failure, self.state = error, "failed"
            self.on_failure()
            return
        if self.state == "loading":
            self.state = "ready"
            log.info("ready; %s answers over %s items", found, f"{len(self.retriever):,}")

    def _close(self) -> None:
        self._coalescer.close()
        self.retriever.close()

    def _add(self, item: Item, replace: bool, holds: Callable[[str], bool]) -> Outcome:
        try:
            with self._lock:
                held = holds(item.id)
                report = self.retriever.add(item, replace=replace, progress=False)
        except (EmptyCorpusError, ImageError) as error:
            raise Refusal(422, error.message, error.hint) from error
        for name, reason in report.skipped:
            if name == item.id:
                raise Refusal(422, f"item {name!r} cannot be used: {reason}", "send another")
        if not held:
            # Also what was interrupted before it was published, and is now.
            return "added"
        return "replaced" if report.replaced else "unchanged"

    def _delete(self, item_id: str) -> int:
        with self._lock:
            return self.retriever.delete(item_id)

    async def _change(self, work: Callable[[], Result], done: str) -> Result:
        self._check_taking()
        try:
            return await asyncio.wait_for(self._in_worker(work), self._settings.timeout)
        except asyncio.TimeoutError:
            raise busy(
                f"it was not {done} within {self._settings.timeout:g} seconds",
                f"it may still be {done}: look, or send it again",
            ) from None

    def _in_worker(self, work: Callable[[], Result]) -> Awaitable[Result]:
        return asyncio.wrap_future(self._coalescer.run(work))

    async def _in_time(self, answer: Awaitable[Result]) -> Result:
        try:
            return await asyncio.wait_for(answer, self._settings.timeout)
        except asyncio.TimeoutError:
            raise busy(
                f"no answer within {self._settings.timeout:g} seconds",
                retry_after=self._seconds_until_free(),
            ) from None

    @contextmanager
    def _place(self) -> Iterator[None]:
        """A place in the queue."""
        self._check_taking()
        # Who would be answered too late is told so now, and costs nothing.
        late = self._pending * self._timed.average > self._settings.timeout
        if late or self._pending >= self._settings.max_queue:
            raise busy(
                f"{self._pending} queries are waiting already",
                retry_after=self._seconds_until_free(),
            )
        self._pending += 1
        try:
            yield
        finally:
            self._pending -= 1

    def _check_taking(self) -> None:
        if self.state == "loading":
            raise busy("the model is being loaded", "ask /readyz when it is done", retry_after=5)
        if not self.is_ready:
            raise busy("the service is stopping")

    def _seconds_until_free(self) -> int:
        """A guess from what queries took lately."""
        return max(1, min(60, math.ceil(self._pending * self._timed.average)))

    def _depth(self) -> float:
        return float(self._pending)


@contextmanager
def _as_own_fault() -> Iterator[None]:
    """A picture that cannot be opened now is one of the index's: the query's was looked at."""
    try:
        yield
    except ImageError as error:
        raise GenmmError(
            "a picture of the index cannot be opened", "run `genmm check` where it lies"
        ) from error
