"""Questions: answered from what is found, or honestly not."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form
from starlette.responses import Response

from ...schema import Query
from .catalog import is_local
from .forms import ASKED, REFUSALS, Fields, Picture, only, pictured
from .requests import AskRequest, validated
from .schemas import AnswerResponse, AnswerSeconds, HitView, QueryEcho
from .service import Here, Service, as_json

router = APIRouter(prefix="/api", tags=["search"])
Threshold = Annotated[
    str | None,
    Form(description="Least probability of the best hit, below which nothing is answered."),
]


@router.post("/ask", response_model=AnswerResponse, responses=REFUSALS)
async def ask(service: Here, request: AskRequest) -> Response:
    """Answer a question from what is found, or say that it is not there."""
    return await _ask(service, request, request.query())


@router.post(
    "/ask/upload",
    dependencies=[only(*ASKED, "threshold")],
    response_model=AnswerResponse,
    responses=REFUSALS,
)
async def ask_upload(
    service: Here, image: Picture, fields: Fields, threshold: Threshold = None
) -> Response:
    """Answer a question about a picture from what is found."""
    request = validated(AskRequest, {**fields, "threshold": threshold or None})
    return await _ask(service, request, await pictured(service, request, image))


async def _ask(service: Service, request: AskRequest, query: Query) -> Response:
    answer, seconds = await service.engine.ask(
        query, request.k, request.verify, request.adapt, request.threshold
    )
    stages = {name: seconds.get(name, 0.0) for name in AnswerSeconds.model_fields}
    return as_json(
        AnswerResponse(
            query=QueryEcho.of(request, query),
            found=answer.found,
            text=answer.text,
            confidence=answer.confidence,
            reason=answer.reason,
            quoted=answer.quoted,
            sources=[HitView.of(hit, local=is_local(hit.item)) for hit in answer.sources],
            tokens=answer.tokens,
            seconds=AnswerSeconds(**stages),
        )
    )
