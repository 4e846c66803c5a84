"""Asking: search and explanation, by words, by a picture, or by both."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.responses import Response

from ...schema import Query
from .catalog import is_local
from .forms import ASKED, REFUSALS, Fields, Picture, only, pictured
from .requests import ExplainRequest, SearchRequest, validated
from .schemas import HitView, QueryEcho, SearchResponse, Seconds
from .service import Here, Service, as_json

router = APIRouter(prefix="/api", tags=["search"])


def _explanation() -> type[BaseModel] | None:
    """The model of an explanation, for OpenAPI; None if this version explains nothing."""
    try:
        found: type[BaseModel] = import_module("genmm_retriever.explaining").Explanation
    except ImportError:
        return None
    return found


_EXPLAINED: dict[int | str, dict[str, Any]] = {
    200: {"model": _explanation(), "description": "How the answer was written."}
}


@router.post("/search", response_model=SearchResponse, responses=REFUSALS)
async def search(service: Here, request: SearchRequest) -> Response:
    """Find items by words."""
    return await _search(service, request, request.query())


@router.post(
    "/search/upload", dependencies=[only(*ASKED)], response_model=SearchResponse, responses=REFUSALS
)
async def search_upload(service: Here, image: Picture, fields: Fields) -> Response:
    """Find items by a picture, or by a picture and what to change in it."""
    request = validated(SearchRequest, fields)
    return await _search(service, request, await pictured(service, request, image))


@router.post("/explain", response_model=None, responses={**REFUSALS, **_EXPLAINED})
async def explain(service: Here, request: ExplainRequest) -> Response:
    """Tell how the answer to words was written: beams, alternatives, verification."""
    return await _explain(service, request, request.query())


@router.post(
    "/explain/upload",
    dependencies=[only(*ASKED)],
    response_model=None,
    responses={**REFUSALS, **_EXPLAINED},
)
async def explain_upload(service: Here, image: Picture, fields: Fields) -> Response:
    """Tell how the answer to a picture was written."""
    request = validated(ExplainRequest, fields)
    return await _explain(service, request, await pictured(service, request, image))


async def _explain(service: Service, request: SearchRequest, query: Query) -> Response:
    explanation = await service.engine.explain(query, request.k, request.verify, request.adapt)
    return as_json(explanation)


async def _search(service: Service, request: SearchRequest, query: Query) -> Response:
    hits, seconds = await service.engine.search(query, request.k, request.verify, request.adapt)
    return as_json(
        SearchResponse(
            query=QueryEcho.of(request, query),
            hits=[HitView.of(hit, local=is_local(hit.item)) for hit in hits],
            seconds=Seconds(**{name: seconds.get(name, 0.0) for name in Seconds.model_fields}),
        )
    )
