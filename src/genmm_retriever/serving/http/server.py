"""Running the service: its socket, its signals, its end."""

from __future__ import annotations

import gc
import ipaddress
import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import uvicorn

from ...errors import InputError
from ...retriever import GenerativeMMRetriever
from .app import create_app
from .connections import Bounded
from .engine import Engine
from .settings import ServiceSettings, is_loopback

if TYPE_CHECKING:
    from ...models.base import Generator

log = logging.getLogger(__name__)
_KEEP_ALIVE = 15
_BACKLOG = 256
_LAST_SECONDS = 5.0


class Server(uvicorn.Server):
    """Uvicorn that says "not ready" for a while, then finishes what runs and ends with 0.

    Args:
        config: Of uvicorn.
        engine: Told to take nothing more.
        drain: Seconds between the signal and closing the socket, for load balancers to notice.
        patience: Seconds that running requests have to finish.
    """

    def __init__(
        self, config: uvicorn.Config, engine: Engine, *, drain: float, patience: float
    ) -> None:
        super().__init__(config)
        self._engine, self._drain, self._patience = engine, drain, patience
        self._until: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop; the second signal stops at once."""
        if self._until is not None:
            self.should_exit = self.force_exit = True
            return
        self._engine.stop_taking()
        self._until = time.monotonic() + self._drain
        # A query that never ends must not keep the process: what was acknowledged is on disk.
        last = threading.Timer(self._drain + self._patience + _LAST_SECONDS, os._exit, (0,))
        last.daemon = True
        last.start()

    async def on_tick(self, counter: int) -> bool:
        """Whether it is time to stop."""
        if self._until is not None and time.monotonic() >= self._until:
            self.should_exit = True
        return await super().on_tick(counter)


def keep_what_is_loaded() -> None:
    """Take what is there now out of the garbage collector's rounds.

    A round over all objects of a loaded model holds the event loop for a quarter of a second.
    """
    gc.collect()
    gc.freeze()


def serve(
    retriever: GenerativeMMRetriever,
    *,
    host: str,
    port: int,
    settings: ServiceSettings,
    drain: float = 1.0,
    announce: Callable[[str], None] = log.info,
    writer: Callable[[], Generator] | None = None,
) -> None:
    """Serve a retriever until a signal comes; the retriever is closed then.

    Args:
        retriever: Over the index.
        host: Address or name to listen on.
        port: 0 for any that is free.
        settings: Limits and rights.
        drain: Seconds of "not ready" before the socket is closed.
        announce: Told the address when the socket is open.
        writer: Loads who rewrites, reasons and answers; None for the retriever's model.

    Raises:
        InputError: If the address cannot be had, or is not loopback and there is no token.
        ModelError: If the model cannot be loaded.
    """
    check_binding(host, settings)
    if "*" in settings.allowed_hosts:
        log.warning(
            "any Host header is answered, so that a page of another site can ask by DNS rebinding; "
            "name the hosts that are answered with --allowed-host"
        )
    listening = _listen(host, port)
    app = create_app(retriever, settings, writer=writer)
    engine: Engine = app.state.service.engine
    config = uvicorn.Config(
        app,
        http=Bounded,
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=round(settings.timeout),
    )
    server = Server(config, engine, drain=drain, patience=settings.timeout)

    def stop() -> None:
        server.should_exit = True

    engine.on_failure, engine.on_loaded = stop, keep_what_is_loaded
    with listening:
        announce(address_of(listening.getsockname()))
        try:
            server.run(sockets=[listening])
        finally:
            gc.unfreeze()
    if engine.failure is not None:
        raise engine.failure


def check_binding(host: str, settings: ServiceSettings) -> None:
    """Refuse to be reachable from elsewhere without a token.

    Raises:
        InputError: In that case.
    """
    if settings.token is None and not is_loopback(host):
        raise InputError(
            f"--host {host} can be reached from other machines, and there is no token",
            "set GENMM_TOKEN or give --token-file, or listen on 127.0.0.1",
        )


def address_of(name: Any) -> str:
    """Where a bound socket is reached.

    Examples:
        >>> address_of(("127.0.0.1", 8000)), address_of(("::1", 8000, 0, 0))
        ('http://127.0.0.1:8000', 'http://[::1]:8000')
    """
    host, port = name[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _listen(host: str, port: int) -> socket.socket:
    try:
        six = ipaddress.ip_address(host).version == 6
    except ValueError:
        six = False
    family = socket.AF_INET6 if six else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"cannot listen on {host}, port {port}: {reason}", "choose another --host or --port"
        ) from error


def read_token(file: Path | None) -> str | None:
    """The token from a file, else from GENMM_TOKEN, else None.

    Raises:
        InputError: If the file cannot be read or holds none.
    """
    from .settings import checked_token

    if file is None:
        return checked_token(os.environ.get("GENMM_TOKEN"))
    try:
        with file.open(encoding="utf-8") as handle:
            token = checked_token(handle.read(4096))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise InputError(
            f"--token-file {file} cannot be read: {reason}", "name a file with the token"
        ) from error
    if token is None:
        raise InputError(f"--token-file {file} is empty", "write the token into it")
    return token
