"""The retriever behind a service: queries in batches, changes one after another, its state."""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import BaseModel

from ...checks import check_threshold, read_adapter
from ...coalescing import Coalescer
from ...errors import EmptyCorpusError, ImageError
from ...schema import Hit, Item, Query
from ..writers import WriterFailure, surfacing
from .errors import Refusal, busy
from .metrics import Metrics
from .settings import ServiceSettings
from .turns import Timed, Turn
from .waiting import Queue

if TYPE_CHECKING:
    from ...models.base import Generator
    from ...querying import Answer
    from ...retriever import GenerativeMMRetriever

log = logging.getLogger(__name__)
State = Literal["loading", "ready", "stopping", "failed"]
Outcome = Literal["added", "replaced", "unchanged"]
Result = TypeVar("Result")
_WARM_UP = "a photograph"


class Engine:
    """Answers queries and makes changes, within limits; never in the event loop.

    Args:
        retriever: Over the index that is served; closed with this.
        settings: The limits.
        metrics: Where figures go.
        writer: Loads who rewrites, reasons and answers, where the retriever's model is loaded;
            None for that model itself.

    Attributes:
        state: What it does now.
        failure: Why the model cannot be loaded, when `state` is `"failed"`.
        on_failure: Called then, from a thread.
        on_loaded: Called when the model is loaded and warm, before it is ready; from a thread.
    """

    def __init__(
        self,
        retriever: GenerativeMMRetriever,
        settings: ServiceSettings,
        metrics: Metrics,
        writer: Callable[[], Generator] | None = None,
    ) -> None:
        self.retriever = retriever
        self.state: State = "loading"
        self.failure: Exception | None = None
        self.on_failure: Callable[[], None] = lambda: None
        self.on_loaded: Callable[[], None] = lambda: None
        self._settings, self._metrics = settings, metrics
        self._load_writer = writer
        self._writer: Generator | None = None
        self._lock = threading.RLock()
        self._timed = Timed(retriever, self._lock, metrics)
        self._coalescer = Coalescer(
            self._timed,
            max_batch=settings.max_batch,
            max_wait_ms=settings.max_wait_ms,
        )
        self._queue = Queue(self._timed, settings)
        metrics.watch(
            "queue_depth",
            "Queries that wait or are being answered",
            lambda: float(self._queue.pending),
        )
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
        self, query: Query, k: int, verify: str | bool | None, adapt: Sequence[str] = ()
    ) -> tuple[list[Hit], dict[str, float]]:
        """Hits of a query, and seconds of its batches by stage with the query's own `total`.

        Args:
            query: What is looked for.
            k: How many hits.
            verify: How candidates are checked; None for the retriever's way.
            adapt: Names of query adapters.

        Raises:
            Refusal: 503 if too many wait, or it took too long.
            RemoteError: If the writer is a remote one and fails.
        """
        turn, started = self._turn(), time.perf_counter()
        with self._place(adapt):
            hits, spent = await self._queue.in_time(
                self._found(turn, query, k, verify, adapt), adapted=bool(adapt)
            )
        return hits, self._told(turn, spent, started)

    async def ask(
        self,
        query: Query,
        k: int,
        verify: str | bool | None,
        adapt: Sequence[str] = (),
        threshold: float | None = None,
    ) -> tuple[Answer, dict[str, float]]:
        """The answer to a question from what is found, and seconds as those of `search`.

        Args:
            query: The question.
            k: How many sources are read.
            verify: As for `search`.
            adapt: As for `search`.
            threshold: Least probability of the best hit; None for the calibrated one.

        Raises:
            InputError: If there is a threshold and nothing is verified.
            Refusal: As `search`.
            RemoteError: As `search`.
        """
        check_threshold(threshold, self.retriever.verify if verify is None else verify)
        turn, started = self._turn(), time.perf_counter()

        async def answered() -> tuple[Answer, dict[str, float]]:
            from ...querying import Answerer

            answerer = Answerer(turn, self._writer, k=k, threshold=threshold)
            hits, spent = await self._found(turn, query, k, verify, adapt)
            begun = time.perf_counter()
            answer = await answerer.aanswer_from(query, hits)
            return answer, {**spent, "answer": time.perf_counter() - begun}

        with self._place(adapt):
            answer, spent = await self._queue.in_time(answered(), adapted=bool(adapt))
        self._metrics.wrote("answer", answer.tokens)
        return answer, self._told(turn, spent, started)

    async def explain(
        self, query: Query, k: int, verify: str | bool | None, adapt: Sequence[str] = ()
    ) -> BaseModel:
        """How the answer to a query was written; `adapt` as for `search`, but no rounds.

        Raises:
            Refusal: 501 if this version cannot tell, 503 as `search`.
            RemoteError: As `search`.
        """
        explain: Any = getattr(self.retriever, "explain_written", None)
        if explain is None:
            raise Refusal(501, "this version explains nothing", "install a newer one")
        options: dict[str, Any] = {"k": k}
        if verify is not None and "verify" in inspect.signature(explain).parameters:
            options["verify"] = verify
        turn = self._turn()

        async def explained() -> BaseModel:
            asked = query
            if adapt:
                from ...querying import AdaptedRetriever, adapted

                searcher = adapted(turn, adapt, self._writer)
                assert isinstance(searcher, AdaptedRetriever)
                [asked] = await searcher.aforms(query)
            explanation: BaseModel = await turn.acompute(lambda: explain(asked, **options))
            return explanation

        with self._place(adapt):
            return await self._queue.in_time(explained(), adapted=bool(adapt))

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
            from ... import querying  # noqa: F401 - so that no request waits for it

            found = self._timed.load().name
            if self._load_writer is not None:
                self._writer = surfacing(self._load_writer())
            if len(self.retriever):
                # The trie is read now, so that nobody waits for it later.
                with self._lock:
                    self.retriever.retrieve(_WARM_UP, k=1)
            self.on_loaded()
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

    def _turn(self) -> Turn:
        return Turn(self._coalescer, self._timed)

    async def _found(
        self, turn: Turn, query: Query, k: int, verify: str | bool | None, adapt: Sequence[str]
    ) -> tuple[list[Hit], dict[str, float]]:
        """Hits, and the seconds that adapters took."""
        if not adapt:
            return await turn.aretrieve(query, k=k, verify=verify), {}
        from ...querying import adapted

        begun = time.perf_counter()
        searcher = adapted(turn, adapt, self._writer)
        hits = await searcher.aretrieve(query, k=k, verify=verify)
        for step in hits[0].evidence.steps if hits else ():
            self._metrics.wrote("adapt", step.tokens)
        return hits, {"adapt": time.perf_counter() - begun - turn.searching}

    def _told(self, turn: Turn, spent: dict[str, float], started: float) -> dict[str, float]:
        """Where a request's time went, noted and told."""
        total = time.perf_counter() - started
        self._metrics.query({**spent, "total": total})
        return {**turn.stages, **spent, "total": total}

    def _in_worker(self, work: Callable[[], Result]) -> Awaitable[Result]:
        return asyncio.wrap_future(self._coalescer.run(work))

    @contextmanager
    def _place(self, adapt: Sequence[str]) -> Iterator[None]:
        """A place in the queue, or as many as a query is asked in other words at a time."""
        self._check_taking()
        forms = [number for name, number in map(read_adapter, adapt) if name == "expand"]
        with self._queue.places(1 + max(forms, default=0)), _surfaced():
            yield

    def _check_taking(self) -> None:
        if self.state == "loading":
            raise busy("the model is being loaded", "ask /readyz when it is done", retry_after=5)
        if not self.is_ready:
            raise busy("the service is stopping")


@contextmanager
def _surfaced() -> Iterator[None]:
    """A writer's failure as itself; adapters and answerers are past."""
    try:
        yield
    except WriterFailure as failure:
        raise failure.error from failure
