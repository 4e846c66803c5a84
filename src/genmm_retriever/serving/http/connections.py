"""Connections that are closed when a request's head does not come."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

HEAD_SECONDS = 15.0


class Bounded(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """Uvicorn's connection; it waits for a head that was begun, or for the first, for ever.

    Between two requests Uvicorn's own `timeout_keep_alive` counts, and while one is answered
    what bounds its body.

    Attributes:
        head_seconds: Seconds in which a head must come whole.
    """

    head_seconds = HEAD_SECONDS
    _waits: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for the first head."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Go on waiting, or stop where the head is whole."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop()
        super().connection_lost(exc)

    def _watch(self) -> None:
        if self._answers():
            self._stop()
        elif self._waits is None:
            # What comes later does not begin it anew, or a byte now and then would hold it.
            self._waits = self.loop.call_later(self.head_seconds, self._give_up)

    def _answers(self) -> bool:
        """Whether a request's head came, and its response is not yet whole."""
        cycle: Any = self.cycle
        return cycle is not None and not cycle.response_complete

    def _stop(self) -> None:
        if self._waits is not None:
            self._waits.cancel()
            self._waits = None

    def _give_up(self) -> None:
        self._waits = None
        if not self._answers() and not self.transport.is_closing():
            self.transport.close()
