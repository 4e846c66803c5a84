"""Asking: search and explanation, by words, by a picture, or by both."""

from __future__ import annotations

import asyncio
from importlib import import_module
from typing import Annotated, Any

from fastapi import APIRouter, File, Form, UploadFile
from pydantic import BaseModel
from starlette.responses import Response

from ...schema import Query
from .catalog import is_local
from .schemas import (
    HitView,
    QueryEcho,
    SearchRequest,
    SearchResponse,
    Seconds,
    parsed_json,
    validated,
)
from .service import Here, Service, as_json, refusals

router = APIRouter(prefix="/api", tags=["search"])
_REFUSALS = refusals(400, 403, 408, 413, 422, 500, 501, 503)

Picture = Annotated[UploadFile, File(description="The query picture.")]
Text = Annotated[str | None, Form(description="What to change in the picture.")]
Count = Annotated[str | None, Form(description="How many hits, 12 if left out.")]
Filters = Annotated[str | None, Form(description="Metadata conditions as a JSON object.")]
Kind = Annotated[str | None, Form(description="`image` or `text`.")]
Verify = Annotated[str | None, Form(description="How candidates are checked.")]


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


@router.post("/search", response_model=SearchResponse, responses=_REFUSALS)
async def search(service: Here, request: SearchRequest) -> Response:
    """Find items by words."""
    return await _search(service, request, request.query(), pictured=False)


@router.post("/search/upload", response_model=SearchResponse, responses=_REFUSALS)
async def search_upload(
    service: Here,
    image: Picture,
    text: Text = None,
    k: Count = None,
    filters: Filters = None,
    kind: Kind = None,
    verify: Verify = None,
) -> Response:
    """Find items by a picture, or by a picture and what to change in it."""
    request = _of_form(text, k, filters, kind, verify)
    return await _search(service, request, await _pictured(service, request, image), pictured=True)


@router.post("/explain", response_model=None, responses={**_REFUSALS, **_EXPLAINED})
async def explain(service: Here, request: SearchRequest) -> Response:
    """Tell how the answer to words was written: beams, alternatives, verification."""
    query = request.query()
    return as_json(await service.engine.explain(query, request.k, request.verify))


@router.post("/explain/upload", response_model=None, responses={**_REFUSALS, **_EXPLAINED})
async def explain_upload(
    service: Here,
    image: Picture,
    text: Text = None,
    k: Count = None,
    filters: Filters = None,
    kind: Kind = None,
    verify: Verify = None,
) -> Response:
    """Tell how the answer to a picture was written."""
    request = _of_form(text, k, filters, kind, verify)
    query = await _pictured(service, request, image)
    return as_json(await service.engine.explain(query, request.k, request.verify))


def _of_form(
    text: str | None, k: str | None, filters: str | None, kind: str | None, verify: str | None
) -> SearchRequest:
    """The same request from form fields; blank ones are as good as absent."""
    given: dict[str, Any] = {"text": text, "k": k, "kind": kind, "verify": verify}
    given = {name: value or None for name, value in given.items()}
    if verify in ("true", "false"):
        given["verify"] = verify == "true"
    return validated(SearchRequest, {**given, "filters": parsed_json("filters", filters)})


async def _pictured(service: Service, request: SearchRequest, image: UploadFile) -> Query:
    content = await image.read()
    await asyncio.to_thread(service.uploaded.check, content)
    return request.query(content)


async def _search(
    service: Service, request: SearchRequest, query: Query, *, pictured: bool
) -> Response:
    hits, seconds = await service.engine.search(query, request.k, request.verify)
    stages = {name: seconds.get(name, 0.0) for name in Seconds.model_fields}
    return as_json(
        SearchResponse(
            query=QueryEcho(
                text=query.text,
                image=pictured,
                filters=query.filters,
                kind=query.kind,
                k=request.k,
                verify=request.verify,
            ),
            hits=[HitView.of(hit, local=is_local(hit.item)) for hit in hits],
            seconds=Seconds(**stages),
        )
    )
