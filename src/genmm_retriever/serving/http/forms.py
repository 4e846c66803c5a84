"""What is asked with a picture: a form of the same fields that JSON has."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import Depends, File, Form, Request, UploadFile

from ...schema import Query
from .requests import SearchRequest, invalid, parsed_json
from .service import Service, refusals

REFUSALS = refusals(400, 403, 408, 413, 422, 500, 501, 502, 503, 504)
Picture = Annotated[UploadFile, File(description="The query picture.")]
_Text = Annotated[
    str | None, Form(description="What to change in the picture, or what to answer about it.")
]
_Count = Annotated[str | None, Form(description="How many hits, 10 if left out, or sources, 3.")]
_Filters = Annotated[str | None, Form(description="Metadata conditions as a JSON object.")]
_Kind = Annotated[str | None, Form(description="`image` or `text`.")]
_Verify = Annotated[str | None, Form(description="How candidates are checked.")]
_Adapt = Annotated[
    list[str] | None,
    Form(description="What is done to the query first, one field each or with commas between."),
]


def _fields(
    text: _Text = None,
    k: _Count = None,
    filters: _Filters = None,
    kind: _Kind = None,
    verify: _Verify = None,
    adapt: _Adapt = None,
) -> dict[str, Any]:
    """A request's values; blank ones are as good as absent."""
    given: dict[str, Any] = {"text": text, "k": k, "kind": kind, "verify": verify}
    given = {name: value or None for name, value in given.items()}
    if verify in ("true", "false"):
        given["verify"] = verify == "true"
    names = [part.strip() for name in adapt or () for part in name.split(",")]
    return {
        **given,
        "filters": parsed_json("filters", filters),
        "adapt": [name for name in names if name],
    }


def only(*names: str) -> Any:
    """A dependency that refuses fields of other names, and more than one of a name.

    Args:
        names: What the form may hold; `adapt` may be there several times.
    """

    async def check(request: Request) -> None:
        given = [name for name, _ in (await request.form()).multi_items()]
        for name in given:
            if name not in names:
                raise invalid(name, f"there is no such field; there are {', '.join(names)}")
            if name != "adapt" and given.count(name) > 1:
                raise invalid(name, "is given more than once")

    return Depends(check)


ASKED = ("image", "text", "k", "filters", "kind", "verify", "adapt")
Fields = Annotated[dict[str, Any], Depends(_fields)]


async def pictured(service: Service, request: SearchRequest, image: UploadFile) -> Query:
    """A request's query with the uploaded picture, which was looked at.

    Raises:
        Refusal: 422 if it is no picture, broken or too large.
        RequestValidationError: As the request's `query`.
    """
    content = await image.read()
    await asyncio.to_thread(service.uploaded.check, content)
    return request.query(content)
