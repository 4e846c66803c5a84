"""The ASGI application over one retriever."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import FileResponse, RedirectResponse, Response
from starlette.staticfiles import StaticFiles

from ...retriever import GenerativeMMRetriever
from . import docs, errors, routes_ask, routes_items, routes_search, routes_status
from .guard import Envelope, Guard
from .lag import watch_loop
from .service import Service
from .settings import ServiceSettings

if TYPE_CHECKING:
    from ...models.base import Generator

STATIC = Path(__file__).parent / "static"
_TITLE = "genmm-retriever"
_DESCRIPTION = (
    "Generative multimodal retrieval: a language model writes the identifier of what a query "
    "looks for. Texts and captions in answers are data of the index and may say anything."
)


def create_app(
    retriever: GenerativeMMRetriever,
    settings: ServiceSettings | None = None,
    *,
    static: Path = STATIC,
    writer: Callable[[], Generator] | None = None,
) -> FastAPI:
    """The service as an ASGI application; its model is loaded when it starts.

    Args:
        retriever: Over the index that is served; closed when the application stops.
        settings: Limits and rights; the defaults answer on loopback and change nothing.
        static: Folder of the page.
        writer: Loads who rewrites, reasons and answers, such as a `RemoteGenerator`, when the
            application starts; None for the retriever's model.

    Returns:
        An application whose `state.service` is the `Service`.
    """
    from genmm_retriever import __version__

    service = Service(retriever, settings or ServiceSettings(), writer)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.engine.start()
        watching = asyncio.create_task(watch_loop(service.metrics))
        yield
        watching.cancel()
        await service.close()

    app = FastAPI(
        title=_TITLE,
        description=_DESCRIPTION,
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.state.service = service
    errors.install(app)
    for routes in (routes_search, routes_ask, routes_items, routes_status, docs):
        app.include_router(routes.router)
    _mount_page(app, static)
    # The last one added is the first that a request meets.
    app.add_middleware(Guard, settings=service.settings, engine=service.engine)
    app.add_middleware(
        TrustedHostMiddleware,
        allowed_hosts=list(service.settings.allowed_hosts),
        www_redirect=False,
    )
    app.add_middleware(Envelope, metrics=service.metrics)
    return app


def _mount_page(app: FastAPI, static: Path) -> None:
    page = static / "index.html"

    @app.get("/", include_in_schema=False)
    async def root() -> Response:
        if page.is_file():
            return FileResponse(page, headers={"Cache-Control": "no-cache"})
        return RedirectResponse("/docs")

    app.mount("/static", StaticFiles(directory=static, check_dir=False), name="static")
