"""Who waits: at most so many, and no longer than a request may take."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from .errors import busy
from .settings import ServiceSettings
from .turns import Timed

ResultT = TypeVar("ResultT")
_LATER = "try again later, or start the service with a larger --timeout"
_LESS = (
    "ask with fewer rounds and forms in `adapt`, or start the service with a larger --timeout; "
    "the same again may never fit"
)


class Queue:
    """Counts what waits or is being answered, and refuses what would wait too long.

    Args:
        timed: Tells what a query takes lately.
        settings: The limits.

    Attributes:
        pending: Places that are taken.
    """

    def __init__(self, timed: Timed, settings: ServiceSettings) -> None:
        self._timed, self._settings = timed, settings
        self.pending = 0

    @contextmanager
    def places(self, number: int) -> Iterator[None]:
        """Places for a request that is asked in `number` forms at a time.

        Raises:
            Refusal: 503 if too many wait; who is alone is always taken.
        """
        # Who would be answered too late is told so now, and costs nothing.
        late = self.pending * self._timed.average > self._settings.timeout
        if late or self.pending >= self._settings.max_queue:
            raise busy(
                f"{self.pending} queries are waiting already",
                retry_after=self._seconds_until_free(),
            )
        self.pending += number
        try:
            yield
        finally:
            self.pending -= number

    async def in_time(self, answer: Awaitable[ResultT], *, adapted: bool = False) -> ResultT:
        """An answer, if it comes in time; else it is given up, and begins no further search.

        Args:
            answer: What is waited for.
            adapted: Whether the request asks for more than one search, and could ask for less.

        Raises:
            Refusal: 503 if not.
        """
        try:
            return await asyncio.wait_for(answer, self._settings.timeout)
        except asyncio.TimeoutError:
            raise busy(
                f"no answer within {self._settings.timeout:g} seconds",
                _LESS if adapted else _LATER,
                retry_after=self._seconds_until_free(),
            ) from None

    def _seconds_until_free(self) -> int:
        """A guess from what queries took lately."""
        return max(1, min(60, math.ceil(self.pending * self._timed.average)))
