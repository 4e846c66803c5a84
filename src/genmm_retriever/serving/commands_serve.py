"""Commands that keep running: the HTTP service and the MCP server."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import MissingExtraError
from .console import Console, command, printable
from .options import Beams, Budget, Device, IndexPath, Model, Vectors, Verify, Writer, parse_budget
from .writers import writer_loader

_MIB = 2**20
_SERVE_PACKAGES = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")


def register(app: typer.Typer) -> None:
    """Add serve and mcp."""
    command(app, "serve", example="genmm serve photos.genmm --port 8000")(serve)
    command(app, "mcp", example="genmm mcp photos.genmm")(mcp)


def serve(
    console: Console,
    index: IndexPath,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for any free one.")] = 8000,
    token_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Holds the token that adding and deleting ask for; else GENMM_TOKEN.",
        ),
    ] = None,
    allowed_hosts: Annotated[
        list[str] | None,
        typer.Option(
            "--allowed-host", metavar="NAME", help="Host name that is answered; repeatable."
        ),
    ] = None,
    max_batch: Annotated[int, typer.Option(min=1, help="Most queries of one decode.")] = 8,
    max_wait: Annotated[
        float, typer.Option(min=0, max=10_000, help="Milliseconds to wait for a batch.")
    ] = 5.0,
    max_queue: Annotated[int, typer.Option(min=1, help="Most queries that wait.")] = 64,
    max_body: Annotated[int, typer.Option(min=1, help="Most MiB of a request.")] = 20,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds for a request.")] = 30.0,
    drain: Annotated[
        float, typer.Option(min=0, help="Seconds of 'not ready' before it stops.")
    ] = 1.0,
    verify: Annotated[Verify, typer.Option(help="How candidates are checked.")] = Verify.likelihood,
    budget: Budget = None,
    model: Model = None,
    device: Device = None,
    vectors: Vectors = True,
    beams: Beams = None,
    writer: Writer = None,
) -> None:
    """Serve an index over HTTP, with a page to look at.

    It listens on this machine alone. Elsewhere (--host) it wants a token, which guards adding
    and deleting; searching and asking, and what a remote --writer costs, are open to whoever
    reaches the address.
    """
    limits = parse_budget(budget)
    _require("serve", *_SERVE_PACKAGES)
    from ..retriever import GenerativeMMRetriever
    from .http.server import check_binding, read_token
    from .http.server import serve as run
    from .http.settings import LOOPBACK_HOSTS, ServiceSettings, is_loopback

    own = LOOPBACK_HOSTS if is_loopback(host) else ("*",)
    settings = ServiceSettings(
        token=read_token(token_file),
        allowed_hosts=(*LOOPBACK_HOSTS, *allowed_hosts) if allowed_hosts else (*own, host),
        max_body=max_body * _MIB,
        max_queue=max_queue,
        max_batch=max_batch,
        max_wait_ms=max_wait,
        timeout=timeout,
    )
    check_binding(host, settings)
    # A request that waits for it in vain is told so before its own time is over.
    writes = writer_loader(writer, device, patience=0.8 * timeout)

    def announce(url: str) -> None:
        data = {"url": url, "index": str(index), "writable": settings.token is not None}
        console.result(data, f"{printable(str(index))} is served at {url} (its interface: /docs)")
        sys.stdout.flush()

    retriever = GenerativeMMRetriever.from_index(
        index,
        model=model,
        verify=verify.value,
        num_beams=beams,
        device=device,
        contrastive=None if vectors else False,
        **limits,
    )
    with retriever:
        run(
            retriever,
            host=host,
            port=port,
            settings=settings,
            drain=drain,
            announce=announce,
            writer=writes,
        )


def mcp(
    console: Console,
    index: IndexPath,
    verify: Annotated[Verify, typer.Option(help="How candidates are checked.")] = Verify.likelihood,
    budget: Budget = None,
    model: Model = None,
    device: Device = None,
    vectors: Vectors = True,
    beams: Beams = None,
    writer: Writer = None,
) -> None:
    """Let agents search an index: a Model Context Protocol server on stdin and stdout."""
    limits: dict[str, Any] = parse_budget(budget)
    _require("mcp", "mcp")
    from ..retriever import GenerativeMMRetriever
    from .mcp_server import run

    writes = writer_loader(writer, device)
    retriever = GenerativeMMRetriever.from_index(
        index,
        model=model,
        verify=verify.value,
        num_beams=beams,
        device=device,
        contrastive=None if vectors else False,
        **limits,
    )
    with retriever:
        console.say(f"{printable(str(index))} is offered on stdin and stdout")
        run(retriever, writes)


def _require(extra: str, *packages: str) -> None:
    """Name the extra of the first package that is absent.

    Raises:
        MissingExtraError: If one is.
    """
    for package in packages:
        try:
            import_module(package)
        except ModuleNotFoundError as error:
            raise MissingExtraError(package, extra) from error
