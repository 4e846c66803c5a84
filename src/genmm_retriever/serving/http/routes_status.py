"""How the service is: for people, load balancers and Prometheus."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter
from starlette.responses import Response

from .metrics import CONTENT_TYPE
from .schemas import Health, Info
from .service import Here, as_json, refusals

router = APIRouter(tags=["status"])


@router.get("/api/info", response_model=Info, responses=refusals(500, 503))
def info(service: Here) -> Response:
    """What is served, and within which limits."""
    from genmm_retriever import __version__

    settings = service.settings
    limits = ("max_body", "max_pixels", "max_queue", "max_uploads", "timeout", "max_batch")
    index = service.catalogue.settings()
    return as_json(
        Info(
            **service.catalogue.counts(),
            identifier_kind=index.identifiers,
            model=index.model,
            version=__version__,
            writable=settings.token is not None,
            limits={name: float(getattr(settings, name)) for name in limits},
        )
    )


@router.get("/healthz", response_model=Health)
async def health() -> Response:
    """Whether the process is up."""
    return as_json(Health(status="ok"))


@router.get("/readyz", response_model=Health, responses={503: {"model": Health}})
async def ready(service: Here) -> Response:
    """Whether queries are answered: the model is loaded and the index open."""
    engine = service.engine
    if not engine.is_ready:
        return as_json(Health(status=engine.state), 503)
    # In a thread of asyncio's own: those of the routes may all be making thumbnails.
    there = await asyncio.to_thread(service.catalogue.is_there)
    return as_json(Health(status="ready" if there else "no index"), 200 if there else 503)


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
def metrics(service: Here) -> Response:
    """Figures for Prometheus."""
    return Response(service.metrics.text(), headers={"Content-Type": CONTENT_TYPE})
