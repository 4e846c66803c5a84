"""What is asked over the wire; OpenAPI is made from these."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, TypeVar

from fastapi.exceptions import RequestValidationError
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    Strict,
    StrictBool,
    StringConstraints,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
)

from ...checks import ADAPTERS, read_adapter
from ...schema import Kind, Query, is_unicode

MAX_K = 1_000
MAX_TEXT = 2_000
MAX_PASSAGE = 100_000
MAX_VALUE = 1_000
MAX_METADATA = 64
MAX_SOURCES = 20
_INT64 = 2**63 - 1
RequestT = TypeVar("RequestT", bound="SearchRequest")
Verify = Literal["likelihood", "choice", "yesno", "off"]
_VERIFY = "must be likelihood, choice, yesno, off, true or false"


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


def _said(expected: str) -> WrapValidator:
    """One sentence for whatever is wrong, instead of one for each member of a union."""

    def checked(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except ValidationError as error:
            raise ValueError(expected) from error

    return WrapValidator(checked)


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")
    return value


_EXPECTED = (
    f"must be a text of at most {MAX_VALUE:,} characters, a finite number, true, false, null, "
    "or a list of at most 100 of these"
)
Metadata = Annotated[
    dict[ShortText, Annotated[Value | Values, _said(_EXPECTED)]], Field(max_length=MAX_METADATA)
]
Number = BeforeValidator(_no_bool)


def _adapter(name: str) -> str:
    read_adapter(name)
    return name


Adapter = Annotated[
    str,
    StringConstraints(max_length=20),
    AfterValidator(_adapter),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": "^(resolve|rewrite|compose|(expand|reason)(:[1-8])?|consistency)$",
        }
    ),
]


class SearchRequest(BaseModel):
    """What is looked for."""

    model_config = ConfigDict(extra="forbid")

    text: Words | None = Field(None, description="Words; beside a picture, what to change in it.")
    k: Annotated[int, Number] = Field(10, ge=1, le=MAX_K, description="How many hits.")
    filters: Metadata = Field(
        default_factory=dict,
        description="Metadata that hits must have; a list means one of. Applied before decoding.",
    )
    kind: Kind | None = Field(None, description="Only pictures, or only texts.")
    verify: Annotated[Verify | StrictBool | None, _said(_VERIFY)] = Field(
        None, description="How candidates are checked; the service's own way if left out."
    )
    adapt: list[Adapter] = Field(
        default_factory=list,
        max_length=len(ADAPTERS),
        description="What is done to the query first: `resolve`, `rewrite`, `compose`, "
        "`expand:N` (N other forms, 3 if left out), `reason:N` (N rounds at most, 3); and to what "
        "a composed query found: `consistency`.",
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


class ExplainRequest(SearchRequest):
    """What is looked for, and in one search."""

    def query(self, image: bytes | None = None) -> Query:
        """As the retriever takes it.

        Raises:
            RequestValidationError: Also if an adapter would search more than once.
        """
        for name in self.adapt:
            if (kind := read_adapter(name)[0]) in ("expand", "reason", "consistency"):
                raise invalid("adapt", f"an explanation is of one search: leave out {kind}")
        return super().query(image)


class AskRequest(SearchRequest):
    """What is to be answered."""

    text: Words | None = Field(None, description="The question.")
    k: Annotated[int, Number] = Field(
        3, ge=1, le=MAX_SOURCES, description="How many sources are read."
    )
    threshold: Annotated[float | None, Number] = Field(
        None,
        ge=0,
        le=1,
        description="Least probability of the best hit, below which nothing is answered; "
        "the calibrated one if left out. Not with `verify` off, when everything is answered.",
    )

    def query(self, image: bytes | None = None) -> Query:
        """As the retriever takes it.

        Raises:
            RequestValidationError: If there is no question.
        """
        if not (self.text and self.text.strip()):
            raise invalid("text", "there is no question: give some words")
        return super().query(image)


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


def validated(model: type[RequestT], values: dict[str, Any]) -> RequestT:
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
