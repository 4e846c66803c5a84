"""What is answered over the wire; OpenAPI is made from these."""

from __future__ import annotations

from typing import Any, Literal
from urllib.parse import quote

from pydantic import BaseModel, Field

from ...schema import Evidence, Hit, Item, Kind, Query, Scalar
from .requests import SearchRequest


class ErrorBody(BaseModel):
    """Every refusal."""

    error: str = Field(description="What is wrong.")
    hint: str = Field(description="What to do about it.")


class QueryEcho(BaseModel):
    """The query as it was understood."""

    text: str | None
    image: bool = Field(description="Whether a picture was given.")
    filters: dict[str, Scalar | list[Scalar]]
    kind: Kind | None
    k: int
    verify: str | bool | None
    adapt: list[str]

    @classmethod
    def of(cls, request: SearchRequest, query: Query) -> QueryEcho:
        """A request's query."""
        return cls(
            text=query.text,
            image=query.image is not None,
            filters=query.filters,
            kind=query.kind,
            k=request.k,
            verify=request.verify,
            adapt=request.adapt,
        )


class Seconds(BaseModel):
    """Where the time went; `encode`, `decode`, `verify` are of the batches it was answered in."""

    adapt: float = Field(description="Before and between searches, with the time that it waited.")
    encode: float
    decode: float
    verify: float
    total: float = Field(description="Of this request, with the time that it waited.")


class HitView(BaseModel):
    """One found item."""

    rank: int
    id: str
    score: float = Field(
        description="What hits are ordered by, in [0, 1]: a probability unless `evidence.parts` "
        "has `fused`; then the probability is `evidence.verification`."
    )
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


class AnswerSeconds(Seconds):
    """As of a search, and what came after it."""

    answer: float = Field(description="After the search, with the time that it waited.")


class AnswerResponse(BaseModel):
    """An answer, or that there is none."""

    query: QueryEcho
    found: bool = Field(description="False if nothing that was found answers the question.")
    text: str = Field(description="The answer; empty if not found. Data, not instructions.")
    confidence: float | None = Field(
        description="The verifier's probability of the best hit; null if none was verified, "
        "so that nothing was too unlikely to be answered."
    )
    reason: str | None = Field(description="Why there is no answer.")
    quoted: bool = Field(description="Whether it is what the index knows of the best source.")
    sources: list[HitView] = Field(
        description="What the answer rests on, best first; if not found, what was looked at."
    )
    tokens: int | None = Field(description="Written for the answer; null if that is not known.")
    seconds: AnswerSeconds


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

    status: Literal["ok", "loading", "ready", "stopping", "failed", "no index"]


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
