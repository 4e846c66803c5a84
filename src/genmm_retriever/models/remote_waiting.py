"""Waiting for a server: no longer than is allowed, and not without a word."""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import os
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, wait
from typing import TypeVar

from genmm_retriever.errors import InputError
from genmm_retriever.models.parallel import interruptible

PATIENCE = 120.0
"""Seconds that a request may take with all of its tries, unless somebody says otherwise."""
VARIABLE = "GENMM_WRITER_TIMEOUT"
TOKENS = 2048
"""Tokens that a form may take, unless somebody says otherwise: thoughts count on most servers."""
TOKENS_VARIABLE = "GENMM_WRITER_TOKENS"
_FIRST_WORD, _NEXT_WORD = 5.0, 30.0

log = logging.getLogger(__name__)
ResultT = TypeVar("ResultT")
NumberT = TypeVar("NumberT", int, float)


class OutOfPatienceError(Exception):
    """A request took longer than it may."""


def waited(request: Callable[[], Awaitable[ResultT]], patience: float, whom: str) -> ResultT:
    """What a request gives; after a few seconds the log says what is waited for.

    The request runs in an event loop, for only there can it be cut off wherever it is: a
    thread's timeouts begin anew with every byte of a server that drips.

    Args:
        request: Makes the awaitable.
        patience: Seconds after which it is cut off.
        whom: Named in the log.

    Raises:
        OutOfPatienceError: If it takes longer.
    """

    async def bounded() -> ResultT:
        try:
            return await asyncio.wait_for(request(), patience)
        except asyncio.TimeoutError:
            raise OutOfPatienceError from None

    begun, pause = time.monotonic(), _FIRST_WORD
    future = asyncio.run_coroutine_threadsafe(bounded(), _loop())
    interruptible(future)
    try:
        while not wait([future], pause).done:
            passed = time.monotonic() - begun
            log.info("waiting for %s since %.0f s, %.0f s at most", whom, passed, patience)
            pause = _NEXT_WORD
        return future.result()
    except BaseException:
        # Also where whoever waits is interrupted: nobody reads the answer any more.
        future.cancel()
        raise


def run_later(request: Callable[[], Awaitable[None]]) -> Future[None]:
    """Do something where requests run, without waiting for it."""

    async def done() -> None:
        await request()

    return asyncio.run_coroutine_threadsafe(done(), _loop())


def usual_tokens() -> int:
    """What GENMM_WRITER_TOKENS says, or the default.

    Raises:
        InputError: If it is no number of tokens.
    """
    return _usual(TOKENS_VARIABLE, TOKENS, _digits, "give a number, for example 8000")


def usual_patience() -> float:
    """What GENMM_WRITER_TIMEOUT says, or the default.

    Raises:
        InputError: If it is no number of seconds.
    """
    return _usual(VARIABLE, PATIENCE, float, "give seconds, for example 300")


def _digits(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValueError(text)
    return int(text)


def _usual(variable: str, default: NumberT, read: Callable[[str], NumberT], hint: str) -> NumberT:
    """A finite number above nought that the environment may give."""
    given = os.environ.get(variable, "").strip()
    if not given:
        return default
    try:
        number = read(given)
    except ValueError:
        number = None
    if number is None or not 0 < number < math.inf:
        raise InputError(f"{variable} is {given!r}", hint)
    return number


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    """The one event loop of all requests, in a thread that ends with the process."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="genmm-remote-loop", daemon=True).start()
    return loop


if hasattr(os, "register_at_fork"):
    # A forked child has the loop, but not the thread that runs it.
    os.register_at_fork(after_in_child=_loop.cache_clear)
