"""Items: looking at them, their pictures, and behind the token adding and deleting."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends, File, Form, Path, Query, Request, UploadFile
from fastapi.security import HTTPBearer
from pydantic import TypeAdapter, ValidationError
from starlette.convertors import Convertor, register_url_convertor
from starlette.responses import Response

from ...errors import first_problem
from ...schema import Item
from .forms import only
from .guard import check_token
from .pictures import LEAST_SIDE, MOST_SIDE, picture_response
from .requests import Metadata, Passage, ShortText, invalid, parsed_json
from .schemas import Added, Deleted, ItemView
from .service import Here, as_json, refusals

_METADATA: TypeAdapter[Any] = TypeAdapter(Metadata)
_TEXT: TypeAdapter[Any] = TypeAdapter(Passage | None)
_TITLE: TypeAdapter[Any] = TypeAdapter(ShortText | None)


class ItemIdConvertor(Convertor[str]):
    """Any id that an index can hold, with slashes and line ends, as the rest of an address."""

    regex = r"[\s\S]+"

    def convert(self, value: str) -> str:
        """The id."""
        return value

    def to_string(self, value: str) -> str:
        """The id."""
        return value


register_url_convertor("item_id", ItemIdConvertor())
router = APIRouter(prefix="/api", tags=["items"])
_bearer = HTTPBearer(auto_error=False, description="The token that the service was started with.")
Id = Annotated[str, Path(min_length=1, max_length=1024, description="The item's id.")]


def _permitted(request: Request, service: Here, _: Annotated[Any, Depends(_bearer)]) -> None:
    # The guard has looked before the body was read; a route must not depend on that.
    check_token(service.settings, request.headers.get("authorization"))


Permitted = Depends(_permitted)


@router.get(
    "/items/{id:item_id}", response_model=ItemView, responses=refusals(403, 404, 422, 500, 503)
)
def item(service: Here, id: Id) -> Response:
    """An item as the index knows it."""
    return as_json(service.catalogue.view(id))


@router.get(
    "/images/{id:item_id}",
    response_class=Response,
    responses={
        200: {"content": {"image/*": {}, "application/octet-stream": {}}},
        206: {"description": "A part, as the Range header asks."},
        304: {"description": "The client has it already."},
        **refusals(400, 404, 416, 422, 500, 503),
    },
)
def image(service: Here, id: Id, request: Request) -> Response:
    """The picture of an item, as it was indexed; what lies on other machines is not fetched."""
    return picture_response(service.catalogue.file(id), request)


@router.get(
    "/thumbnails/{id:item_id}",
    response_class=Response,
    responses={
        200: {"content": {"image/jpeg": {}}},
        304: {"description": "The client has it already."},
        **refusals(404, 422, 500, 503),
    },
)
def thumbnail(
    service: Here,
    id: Id,
    request: Request,
    size: Annotated[
        int, Query(ge=LEAST_SIDE, le=MOST_SIDE, description="Most pixels a side.")
    ] = 320,
) -> Response:
    """A small JPEG of an item's picture."""
    return service.thumbnails.response(service.catalogue.file(id), size, request)


@router.post(
    "/items",
    response_model=Added,
    status_code=201,
    dependencies=[Permitted, only("id", "image", "text", "title", "metadata", "replace")],
    responses={
        200: {"model": Added, "description": "It was there already, or was replaced."},
        **refusals(400, 401, 403, 408, 409, 413, 422, 500, 503, 507),
    },
)
async def add(
    service: Here,
    id: Annotated[str, Form(description="Unique within the index.")],
    image: Annotated[UploadFile | None, File(description="Its picture.")] = None,
    text: Annotated[str | None, Form(description="A passage.")] = None,
    title: Annotated[str | None, Form(description="A short name.")] = None,
    metadata: Annotated[str | None, Form(description="Flat values as a JSON object.")] = None,
    replace: Annotated[bool, Form(description="Replace an item of this id.")] = False,
) -> Response:
    """Store an item; 201 is sent when it is durable and found, never before."""
    content = None if image is None else await image.read()
    if content is not None:
        await asyncio.to_thread(service.uploaded.check, content)
    item = _made(id, content, text, title, metadata)
    outcome = await service.engine.add(item, replace=replace, holds=service.catalogue.holds)
    items = (await asyncio.to_thread(service.catalogue.counts))["items"]
    answer = Added(id=item.id, status=outcome, items=items)
    return as_json(answer, 201 if outcome == "added" else 200)


@router.delete(
    "/items/{id:item_id}",
    response_model=Deleted,
    dependencies=[Permitted],
    responses=refusals(401, 403, 404, 422, 500, 503, 507),
)
async def delete(service: Here, id: Id) -> Response:
    """Delete an item; nobody finds it from now on."""
    await asyncio.to_thread(service.catalogue.item, id)
    return as_json(Deleted(id=id, deleted=await service.engine.delete(id)))


def _made(
    item_id: str,
    content: bytes | None,
    text: str | None,
    title: str | None,
    metadata: str | None,
) -> Item:
    """The item of form fields.

    Raises:
        RequestValidationError: If one is out of range.
    """
    fields: dict[str, Any] = {"id": item_id, "image": content}
    for name, kind, value in (
        ("id", _TITLE, item_id),
        ("text", _TEXT, text or None),
        ("title", _TITLE, title or None),
        ("metadata", _METADATA, parsed_json("metadata", metadata) or {}),
    ):
        try:
            fields[name] = kind.validate_python(value)
        except ValidationError as error:
            raise invalid(name, first_problem(error)) from error
    try:
        return Item(**fields)
    except ValidationError as error:
        raise invalid("item", first_problem(error)) from error
