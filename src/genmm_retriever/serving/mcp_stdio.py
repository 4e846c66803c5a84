"""Stdin's end, held back until the calls that came before it are answered."""

from __future__ import annotations

import contextvars
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
from mcp_types import JSONRPCError, JSONRPCNotification, JSONRPCRequest, JSONRPCResponse

if TYPE_CHECKING:
    from mcp.shared._stream_protocols import ReadStream, WriteStream
    from mcp.shared.message import SessionMessage


StreamT = TypeVar("StreamT", bound="_Stream")


class Calls:
    """The calls of tools that were read and are not answered yet."""

    def __init__(self) -> None:
        self._open: set[int | str] = set()
        self._none = anyio.Event()
        self._none.set()

    def read(self, message: object) -> None:
        """A message came in: a call, or one is no longer wanted and gets no answer."""
        if isinstance(message, JSONRPCRequest) and message.method == "tools/call":
            if not self._open:
                self._none = anyio.Event()
            self._open.add(message.id)
        if isinstance(message, JSONRPCNotification) and message.method == "notifications/cancelled":
            self._close((message.params or {}).get("requestId"))

    def written(self, message: object) -> None:
        """A message went out, which may be an answer."""
        if isinstance(message, (JSONRPCResponse, JSONRPCError)):
            self._close(message.id)

    async def answered(self) -> None:
        """Wait until all are answered."""
        await self._none.wait()

    def _close(self, call: Any) -> None:
        self._open.discard(call)
        if not self._open:
            self._none.set()


class _Stream:
    def __init__(self, inner: Any, calls: Calls) -> None:
        self._inner, self._calls = inner, calls

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def __aenter__(self: StreamT) -> StreamT:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()


class Reading(_Stream):
    """What comes in. The server drops the calls that it is at when this ends.

    Args:
        inner: The transport's.
        calls: Told of every message.
    """

    def __init__(self, inner: ReadStream[SessionMessage | Exception], calls: Calls) -> None:
        super().__init__(inner, calls)

    @property
    def last_context(self) -> contextvars.Context | None:
        """The context that the last message was sent in, which the server asks for."""
        return getattr(self._inner, "last_context", None)

    async def receive(self) -> SessionMessage | Exception:
        """The next message.

        Raises:
            anyio.EndOfStream: At the end, once all calls are answered.
        """
        try:
            item: SessionMessage | Exception = await self._inner.receive()
        except anyio.EndOfStream:
            await self._calls.answered()
            raise
        if not isinstance(item, Exception):
            self._calls.read(item.message)
        return item

    def __aiter__(self) -> Reading:
        return self

    async def __anext__(self) -> SessionMessage | Exception:
        try:
            return await self.receive()
        except anyio.EndOfStream as end:
            raise StopAsyncIteration from end


class Writing(_Stream):
    """What goes out.

    Args:
        inner: The transport's.
        calls: Told of every message once it is written.
    """

    def __init__(self, inner: WriteStream[SessionMessage], calls: Calls) -> None:
        super().__init__(inner, calls)

    async def send(self, item: SessionMessage, /) -> None:
        """Write a message."""
        await self._inner.send(item)
        self._calls.written(item.message)
