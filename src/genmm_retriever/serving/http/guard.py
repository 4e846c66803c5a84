"""What stands before every route: limits, rights, headers, and one shape of refusals."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .engine import Engine
from .errors import Refusal, busy, plain_refusal, response_to
from .metrics import Metrics
from .settings import ServiceSettings

_SAFE = ("GET", "HEAD", "OPTIONS")
_PROBES = ("/healthz", "/readyz", "/metrics")
_POLICY = "default-src 'self'; img-src 'self' blob: data:"
_HEADERS = {
    "Content-Security-Policy": _POLICY + "; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_KEPT = ("retry-after", "content-range", "allow", "www-authenticate")


class Envelope:
    """Outermost: security headers, counting, and refusals of libraries in the one shape.

    HEAD is answered as GET, without the body.

    Args:
        app: What answers.
        metrics: Told of every request.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        method = _method(scope)
        reply = _Reply(send, bodiless=method == "HEAD")
        if method == "HEAD":
            # A copy: the server itself must know that no body is to come.
            scope = {**scope, "method": "GET"}
        try:
            await self._app(scope, receive, reply.send)
        except Exception as error:
            if reply.status:
                raise
            await response_to(error)(scope, receive, reply.send)
        finally:
            seconds = time.perf_counter() - started
            self._metrics.request(_route(scope), method, reply.status or 499, seconds)


class _Reply:
    """A response on its way out."""

    def __init__(self, send: Send, *, bodiless: bool) -> None:
        self._send, self._bodiless = send, bodiless
        self.status = 0
        self._foreign = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(raw=message["headers"])
            self._foreign = self.status >= 400 and not headers.get("content-type", "").startswith(
                "application/json"
            )
            if self._foreign:
                message = self._reworded(headers)
                headers = MutableHeaders(raw=message["headers"])
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
            await self._send({**message, "headers": headers.raw})
        elif self._bodiless:
            await self._send({**message, "body": b""})
        elif self._foreign:
            if not message.get("more_body"):
                await self._send({"type": "http.response.body", "body": self._body})
        else:
            await self._send(message)

    def _reworded(self, headers: MutableHeaders) -> Message:
        error, hint = plain_refusal(self.status)
        self._body = json.dumps({"error": error, "hint": hint}).encode()
        kept = Headers({name: headers[name] for name in _KEPT if name in headers})
        own = {"content-type": "application/json", "content-length": str(len(self._body))}
        raw = [*kept.raw, *Headers(own).raw]
        return {"type": "http.response.start", "status": self.status, "headers": raw}


class Guard:
    """Refuses what is too large, too slow, too much, or not allowed, before it is read.

    Args:
        app: What answers.
        settings: The limits.
        engine: Tells whether requests are still taken.
    """

    def __init__(self, app: ASGIApp, settings: ServiceSettings, engine: Engine) -> None:
        self._app, self._settings, self._engine = app, settings, engine
        self._requests = self._uploads = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http" or scope["path"] in _PROBES:
            await self._app(scope, receive, send)
            return
        with self._counted(scope):
            self._check(scope)
            body = _Body(receive, self._settings.max_body, self._settings.timeout)
            await self._app(scope, body.receive, send)

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        if scope["method"] in _SAFE:
            return
        if headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            raise Refusal(403, "another site's page asks this", "ask from the service's own page")
        if is_change(scope["method"], scope["path"]):
            check_token(self._settings, headers.get("authorization"))
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length[:20]) > self._settings.max_body:
            raise _too_large(self._settings.max_body)

    @contextmanager
    def _counted(self, scope: Scope) -> Iterator[None]:
        """A place among the requests, and for an upload among the uploads."""
        upload = _is_upload(scope["method"], scope["path"])
        if self._requests >= self._settings.max_requests:
            raise busy("too many requests at once")
        if upload and self._uploads >= self._settings.max_uploads:
            raise busy("too many uploads at once")
        self._requests += 1
        self._uploads += upload
        try:
            yield
        finally:
            self._requests -= 1
            self._uploads -= upload


class _Body:
    """The body of a request, bounded in size and time."""

    def __init__(self, receive: Receive, most: int, seconds: float) -> None:
        self._receive = receive
        self._most, self._seconds = most, seconds
        self._until = time.monotonic() + seconds
        self._size = 0
        self._whole = False

    async def receive(self) -> Message:
        if self._whole:
            return await self._receive()
        left = max(0.0, self._until - time.monotonic())
        try:
            message = await asyncio.wait_for(self._receive(), left)
        except asyncio.TimeoutError:
            raise Refusal(
                408, f"the request did not come whole within {self._seconds:g} seconds", "send less"
            ) from None
        if message["type"] == "http.request":
            self._size += len(message.get("body", b""))
            self._whole = not message.get("more_body", False)
            if self._size > self._most:
                raise _too_large(self._most)
        return message


def is_change(method: str, path: str) -> bool:
    """Whether a request would change the index."""
    return method not in _SAFE and (path == "/api/items" or path.startswith("/api/items/"))


def check_token(settings: ServiceSettings, header: str | None) -> None:
    """Let only who has the token pass.

    Raises:
        Refusal: 403 if there is no token at all, 401 if the header lacks it.
    """
    if settings.token is None:
        raise Refusal(
            403,
            "this service changes nothing: it was started without a token",
            "start it with GENMM_TOKEN set, or with --token-file",
        )
    if not settings.is_authorised(header):
        refusal = Refusal(401, "the token is missing or wrong", "send Authorization: Bearer TOKEN")
        refusal.headers = {"WWW-Authenticate": "Bearer"}
        raise refusal


def _too_large(most: int) -> Refusal:
    return Refusal(413, f"the request is larger than {most:,} bytes", "send less")


def _is_upload(method: str, path: str) -> bool:
    return method == "POST" and (path.endswith("/upload") or path == "/api/items")


def _route(scope: Scope) -> str:
    """The route's pattern; addresses themselves would be without number."""
    route = scope.get("route")
    return str(getattr(route, "path_format", None) or getattr(route, "path", "-"))


def _method(scope: Scope) -> str:
    known = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH")
    return scope["method"] if scope["method"] in known else "other"
