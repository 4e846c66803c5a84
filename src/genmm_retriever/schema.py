"""The plain data that walks through the rooms: items and queries in, hits with evidence out."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from genmm_retriever.open_pictures import encoded, is_open_picture

if TYPE_CHECKING:
    from PIL import Image

Scalar = str | int | float | bool | None


def _reference(given: object) -> str | bytes:
    """A picture as it may be given, in the form in which it is kept."""
    if isinstance(given, (str, bytes)):
        return given
    if isinstance(given, (bytearray, memoryview)):
        return bytes(given)
    if isinstance(given, os.PathLike):
        return os.fsdecode(given)
    if is_open_picture(given):
        return encoded(given)
    raise ValueError(
        f"a picture of type {type(given).__name__}; give a path, an address, encoded bytes, or an "
        "open PIL picture"
    )


ImageRef = Annotated[str | bytes, BeforeValidator(_reference)]
"""A path, a `file:`/`http(s):`/`data:` URI, or the encoded bytes of a picture."""
GivenImage: TypeAlias = "str | bytes | os.PathLike[str] | Image.Image"
"""What may stand for an `ImageRef`: an open PIL picture is kept as encoded bytes, upright."""

IDENTIFIERS_PER_ITEM = 4
"""Default number of ways that lead to an item."""

MAX_QUERY = 10_000
"""Most characters of a query's text."""

Kind = Literal["image", "text"]


def is_unicode(text: str) -> bool:
    r"""Whether a string can be written as UTF-8; one with lone surrogates cannot.

    Examples:
        >>> is_unicode("caf\u00e9"), is_unicode("caf\udce9")
        (True, False)
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _checked_id(value: str) -> str:
    if not value or not value.strip():
        raise ValueError("an item id must not be empty")
    if "\x00" in value or len(value) > 1024:
        raise ValueError("an item id has at most 1,024 characters and no NUL")
    return value


ItemId = Annotated[str, AfterValidator(_checked_id)]


def _checked_metadata(value: object) -> object:
    """Refuse values that are nested, or that JSON has no form for."""
    for key, values in value.items() if isinstance(value, dict) else ():
        if not isinstance(key, str):
            raise ValueError(f"the name {key!r} is no text; fields are named by texts")
        for each in values if isinstance(values, list) else [values]:
            if isinstance(each, (dict, list)):
                raise ValueError(
                    f"the value of {key!r} is nested; it may be a text, a number, true, false, "
                    "null, or a list of these"
                )
            if isinstance(each, float) and not math.isfinite(each):
                raise ValueError(f"the value of {key!r} is {each}, which is no finite number")
    return value


def _checked_ids(value: object) -> object:
    """Refuse one text, whose letters would be taken for ids elsewhere."""
    if isinstance(value, str):
        raise ValueError(f"{value!r} is one text; give a list of ids")
    return value


Metadata = Annotated[dict[str, Scalar | list[Scalar]], BeforeValidator(_checked_metadata)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Item(_Frozen):
    """A picture, a passage, or both: what an index holds and a query finds.

    Args:
        id: Unique within the index.
        image: Path, URI or encoded bytes, opened lazily and never kept decoded; or an open PIL
            picture, which is kept as encoded bytes.
        text: A passage, or human text that goes with the picture.
        title: A short name shown with the item.
        metadata: Flat values to filter by; lists of scalars match when any value matches.

    Raises:
        pydantic.ValidationError: If there is neither image nor text, or a field is unknown.

    Examples:
        >>> Item(id="7", text="A dog runs.", metadata={"year": 2013}).kind
        'text'
    """

    id: ItemId
    image: ImageRef | None = None
    text: str | None = None
    title: str | None = None
    metadata: Metadata = Field(default_factory=dict)

    @model_validator(mode="after")
    def _has_content(self) -> Item:
        if self.image is None and not (self.text and self.text.strip()):
            raise ValueError(f"item {self.id!r} has neither an image nor a text")
        return self

    @property
    def kind(self) -> Kind:
        """`"image"` if the item has a picture, else `"text"`."""
        return "image" if self.image is not None else "text"


class QueryStep(_Frozen):
    """Something that was done to a query before a search, or between two.

    Args:
        adapter: Who did it, such as `"rewrite"` or `"reason"`.
        text: What was searched for afterwards, with the context that was added.
        changed: False where the query was left as it was.
        note: Why it was left, or what was thought of what came back.
        tokens: Tokens that the model wrote for it, those of vain attempts included; None if
            its engine does not say.
        seconds: That this took, a batch's shared evenly; of a round those of its search too.
    """

    adapter: str
    text: str
    changed: bool = True
    note: str | None = None
    tokens: int | None = None
    seconds: float = 0.0


class Query(_Frozen):
    """What is looked for: text, a picture, or a picture with an instruction (composed).

    Args:
        text: Words, or for a composed query the instruction ("the same, but in red"); at most
            10,000 characters, of which a search reads 400 words and 4,000 characters.
        image: Path, URI or encoded bytes of the query picture, or an open PIL picture.
        filters: Metadata conditions, all of which must hold; a list means "one of".
            Applied before decoding, so that k hits come back whenever k items match. A field
            that no item of the index has is refused when it is asked.
        kind: Look only for pictures or only for text items; None looks for both.
        context: Words that guide what is written, such as a query adapter's reasoning, and that
            found items are *not* held against.
        ids: Look only among the items of these ids, as `filters` do before decoding; None looks
            among all, an empty one finds nothing. Ids that the index lacks are passed over.
        rewritings: Earlier forms of `text`, oldest first, kept by query adapters as evidence.
        steps: What query adapters did, and what it cost.

    Examples:
        >>> Query(text="a dog").is_composed
        False
    """

    text: str | None = None
    image: ImageRef | None = None
    filters: Metadata = Field(default_factory=dict)
    kind: Kind | None = None
    context: str | None = None
    ids: Annotated[tuple[ItemId, ...] | None, BeforeValidator(_checked_ids)] = None
    rewritings: tuple[str, ...] = ()
    steps: tuple[QueryStep, ...] = ()

    @model_validator(mode="after")
    def _has_content(self) -> Query:
        if self.image is None and not (self.text and self.text.strip()):
            raise ValueError("a query needs text, an image, or both")
        if self.text is not None and len(self.text) > MAX_QUERY:
            raise ValueError(f"the text of a query has at most {MAX_QUERY:,} characters")
        if not all(is_unicode(text) for text in (self.text, self.context) if text is not None):
            raise ValueError("the text of a query must be valid Unicode, such as UTF-8 input gives")
        return self

    @property
    def is_composed(self) -> bool:
        """Whether the query is a picture *and* an instruction."""
        return self.image is not None and bool(self.text and self.text.strip())


class GeneratedIdentifier(_Frozen):
    """An identifier that the model wrote and that leads to the hit.

    Args:
        text: The identifier.
        logprob: Natural log-probability of what was written given the query, with the end
            token where it was written to the end.
        score: What the beam was steered by: `logprob` minus the weighted unconditional one.
        written: The part of the text that the model wrote, if the rest was left open because
            few items are called so.
    """

    text: str
    logprob: float
    score: float
    written: str | None = None


class FoundClue(_Frozen):
    """A phrase of an item's text that the model wrote, or that the query has in common with it.

    Args:
        text: The phrase as written.
        logprob: Natural log-probability of its tokens given the query.
        score: What it adds to the item's sum, in squared nats of log-odds: how much likelier
            the query makes the phrase than the corpus does, less for repeated tokens; 0 for
            the best phrase of an item that no likelier one leads to.
        count: How often it occurs in what the query may find.
        documents: In how many passages, counted up to 1,000.
        given: True if it is a phrase of the query itself that the model did not write.
        seen: True if it names what the model's classifier sees in the query's picture.
        spans: Where it stands in `Evidence.caption`, as (start, end) in characters; places
            that a clue of more weight covers are left out.
    """

    text: str
    logprob: float
    score: float
    count: int
    documents: int
    given: bool = False
    seen: bool = False
    spans: tuple[tuple[int, int], ...] = ()


class Evidence(_Frozen):
    """Why an item is among the hits.

    Args:
        identifiers: What the model wrote for it, best first; empty if `filled`.
        clues: In an index of clues the phrases that cover its best passage, heaviest first.
        generation: The item's score after merging its identifiers, by logsumexp; with clues
            the square root of the sum of their scores, or at most 0 if none adds anything.
            Both in nats.
        verification: The verifier's calibrated probability, or None when it did not run.
        parts: The verifier's parts before fusion (`likelihood` in nats a token,
            `text_likelihood` the same given its caption, `contrastive` as a cosine; of a choice
            `choice`, `choice_1`, ... by each order of the options, and `choice_spread`; `yes`
            of yes and no), as far as they were computed: without `likelihood`, `choice` or
            `yes` the item was not looked at. After reranking also `first_stage`, the score
            that another retriever gave; after fusion `fused`, what `Hit.score` is then.
        filled: True if no generated identifier led here and the item fills up to k.
        caption: The words the index knows the item by; with clues the text they stand in.
        rewritings: Forms the query went through before decoding.
        steps: What query adapters did to the query, with tokens and seconds.
        problem: Why the item's picture could not be looked at.
    """

    identifiers: tuple[GeneratedIdentifier, ...] = ()
    clues: tuple[FoundClue, ...] = ()
    generation: float | None = None
    verification: float | None = None
    parts: dict[str, float] = Field(default_factory=dict)
    filled: bool = False
    caption: str | None = None
    rewritings: tuple[str, ...] = ()
    steps: tuple[QueryStep, ...] = ()
    problem: str | None = None


class Hit(_Frozen):
    """One found item; hits are sorted by `score`, best first.

    Args:
        item: The item as stored.
        score: In [0, 1]. The verifier's probability when verification ran, else the
            generation score normalised over the candidates (softmax). Where several rankings
            were fused (`is_fused`), what the hit has of the best rank in all of them: that is
            no probability, and the verifier's is in `evidence.verification`.
        rank: From 1.
        evidence: What led to it.
    """

    item: Item
    score: float
    rank: int
    evidence: Evidence = Evidence()

    @property
    def is_fused(self) -> bool:
        """Whether `score` comes of fused rankings and is no probability."""
        return "fused" in self.evidence.parts

    def to_json(self) -> dict[str, Any]:
        """The hit as the command line prints it; picture bytes are never included."""
        image = self.item.image if isinstance(self.item.image, str) else None
        return {
            "rank": self.rank,
            "id": self.item.id,
            "score": self.score,
            "image": image,
            "text": self.item.text,
            "title": self.item.title,
            "metadata": self.item.metadata,
            "evidence": self.evidence.model_dump(mode="json"),
        }
