"""What goes over the wire, in one place; OpenAPI is made from these."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal
from urllib.parse import quote

from fastapi.exceptions import RequestValidationError
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    Strict,
    StrictBool,
    StringConstraints,
    ValidationError,
)

from ...schema import Evidence, Hit, Item, Kind, Query, Scalar, is_unicode

MAX_K = 1_000
MAX_TEXT = 2_000
MAX_PASSAGE = 100_000
MAX_VALUE = 1_000
MAX_METADATA = 64
_INT64 = 2**63 - 1
Verify = Literal["likelihood", "choice", "yesno", "off"]


def _plain(text: str) -> str:
    if "\x00" in text or not is_unicode(text):
        raise ValueError("must be valid Unicode without NUL")
    return text


Words = Annotated[str, StringConstraints(max_length=MAX_TEXT), AfterValidator(_plain)]
Passage = Annotated[str, StringConstraints(max_length=MAX_PASSAGE), AfterValidator(_plain)]
ShortText = Annotated[str, StringConstraints(max_length=MAX_VALUE), AfterValidator(_plain)]
Integer = Annotated[int, Strict(), Field(ge=-_INT64, le=_INT64)]
Value = StrictBool | Integer | Annotated[FiniteFloat, Strict()] | ShortText | None
Values = Annotated[list[Value], Field(max_length=100)]
Metadata = Annotated[dict[ShortText, Value | Values], Field(max_length=MAX_METADATA)]


class ErrorBody(BaseModel):
    """Every refusal."""

    error: str = Field(description="What is wrong.")
    hint: str = Field(description="What to do about it.")


class SearchRequest(BaseModel):
    """What is looked for."""

    model_config = ConfigDict(extra="forbid")

    text: Words | None = Field(None, description="Words; beside a picture, what to change in it.")
    k: int = Field(10, ge=1, le=MAX_K, description="How many hits.")
    filters: Metadata = Field(
        default_factory=dict,
        description="Metadata that hits must have; a list means one of. Applied before decoding.",
    )
    kind: Kind | None = Field(None, description="Only pictures, or only texts.")
    verify: Verify | StrictBool | None = Field(
        None, description="How candidates are checked; the service's own way if left out."
    )

    def query(self, image: bytes | None = None) -> Query:
        """As the retriever takes it.

        Raises:
            RequestValidationError: If there is neither text nor a picture.
        """
        text = self.text if self.text and self.text.strip() else None
        if text is None and image is None:
            raise invalid("text", "the query is empty: give some words, a picture, or both")
        return Query(text=text, image=image, filters=self.filters, kind=self.kind)


class QueryEcho(BaseModel):
    """The query as it was understood."""

    text: str | None
    image: bool = Field(description="Whether a picture was given.")
    filters: dict[str, Scalar | list[Scalar]]
    kind: Kind | None
    k: int
    verify: str | bool | None


class Seconds(BaseModel):
    """Where the time went; all but `total` are of the batch that the query was answered in."""

    encode: float
    decode: float
    verify: float
    total: float = Field(description="Of this request, with the time that it waited.")


class HitView(BaseModel):
    """One found item."""

    rank: int
    id: str
    score: float
    kind: Kind
    title: str | None
    text: str | None
    metadata: dict[str, Scalar | list[Scalar]]
    image: str | None = Field(description="Address of the picture; null if it is not kept here.")
    thumbnail: str | None = Field(description="Address of a small form of the picture.")
    evidence: Evidence

    @classmethod
    def of(cls, hit: Hit, *, local: bool) -> HitView:
        """A hit as it is shown; `local` tells whether its picture can be served."""
        return cls(rank=hit.rank, score=hit.score, evidence=hit.evidence, **_shown(hit.item, local))


class SearchResponse(BaseModel):
    """Hits, best first."""

    query: QueryEcho
    hits: list[HitView]
    seconds: Seconds


class ItemView(BaseModel):
    """An item as the index knows it."""

    id: str
    kind: Kind
    title: str | None
    text: str | None
    metadata: dict[str, Scalar | list[Scalar]]
    image: str | None
    thumbnail: str | None
    captions: list[str] = Field(description="What the model says of it.")
    identifiers: list[str] = Field(description="What leads to it.")

    @classmethod
    def of(
        cls, item: Item, *, local: bool, captions: list[str], identifiers: list[str]
    ) -> ItemView:
        """An item as it is shown."""
        return cls(captions=captions, identifiers=identifiers, **_shown(item, local))


class Added(BaseModel):
    """An item that is stored durably and found from now on."""

    id: str
    status: Literal["added", "replaced", "unchanged"]
    items: int = Field(description="Items in the index now.")


class Deleted(BaseModel):
    """An item that is found no longer."""

    id: str
    deleted: int


class Info(BaseModel):
    """What is served."""

    items: int
    images: int
    texts: int
    identifiers: int
    identifier_kind: str
    model: str
    generation: int
    version: str
    writable: bool = Field(description="Whether items can be added and deleted with a token.")
    limits: dict[str, float]


class Health(BaseModel):
    """How the service is."""

    status: Literal["ok", "loading", "ready", "stopping", "failed"]


def invalid(place: str, message: str) -> RequestValidationError:
    """A refusal of one field of a request."""
    return RequestValidationError([{"loc": ("body", place), "msg": message, "type": "value_error"}])


def parsed_json(place: str, text: str | None) -> Any:
    """A form field that holds JSON; None if it is absent or blank.

    Raises:
        RequestValidationError: If it is no JSON.
    """
    if text is None or not text.strip():
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise invalid(place, "is no JSON") from error


def validated(model: type[SearchRequest], values: dict[str, Any]) -> SearchRequest:
    """A request from form fields, those that are None left out.

    Raises:
        RequestValidationError: As for a JSON body.
    """
    try:
        return model.model_validate({k: v for k, v in values.items() if v is not None})
    except ValidationError as error:
        problems = error.errors(include_input=False, include_url=False, include_context=False)
        raise RequestValidationError(
            [{**problem, "loc": ("body", *problem["loc"])} for problem in problems]
        ) from error


def address(folder: str, item_id: str) -> str:
    """Where something of an item lies.

    Examples:
        >>> address("images", "a b/c.png")
        '/api/images/a%20b%2Fc.png'
    """
    return f"/api/{folder}/{quote(item_id, safe='')}"


def _shown(item: Item, local: bool) -> dict[str, Any]:
    return {
        "id": item.id,
        "kind": item.kind,
        "title": item.title,
        "text": item.text,
        "metadata": item.metadata,
        "image": address("images", item.id) if local else None,
        "thumbnail": address("thumbnails", item.id) if local else None,
    }
