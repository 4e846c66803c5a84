"""Work on several inputs at a time, which an interrupt ends without waiting for servers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextvars import ContextVar, copy_context
from typing import Any, TypeVar

InputT = TypeVar("InputT")
ResultT = TypeVar("ResultT")


class _Outstanding:
    """Requests that threads of one call wait for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._futures: list[Future[Any]] = []
        self._ended = False

    def add(self, future: Future[Any]) -> None:
        """Cancel it with the others, at once if they have been."""
        with self._lock:
            self._futures = [one for one in self._futures if not one.done()]
            self._futures.append(future)
            ended = self._ended
        if ended:
            future.cancel()

    def cancel(self) -> None:
        """End them all, and whatever is added later."""
        with self._lock:
            self._ended, futures = True, self._futures
        for future in futures:
            future.cancel()


_outstanding: ContextVar[_Outstanding | None] = ContextVar("outstanding", default=None)


def interruptible(future: Future[Any]) -> None:
    """Have a request cancelled when the call of `each` that it belongs to is interrupted."""
    mine = _outstanding.get()
    if mine is not None:
        mine.add(future)


def each(
    work: Callable[[InputT], ResultT], inputs: Sequence[InputT], workers: int, name: str
) -> list[ResultT]:
    """What work makes of each input, in their order.

    Work that raises, and an interrupt such as Ctrl-C, end the rest: what has not begun does not
    begin, and requests that are waited for are cancelled.

    Args:
        work: Called in threads, or here if one at a time is enough.
        inputs: Any number.
        workers: Most at a time.
        name: Of the threads.

    Examples:
        >>> each(str.upper, ["a", "b", "c"], 2, "upper")
        ['A', 'B', 'C']
    """
    workers = min(workers, len(inputs))
    if workers < 2:
        return [work(one) for one in inputs]
    outstanding = _Outstanding()
    context = copy_context()
    context.run(_outstanding.set, outstanding)
    pool = ThreadPoolExecutor(workers, thread_name_prefix=name)
    try:
        futures = [pool.submit(context.copy().run, work, one) for one in inputs]
        for future in wait(futures, return_when=FIRST_EXCEPTION).done:
            future.result()
        return [future.result() for future in futures]
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        outstanding.cancel()
        raise
    finally:
        pool.shutdown()
