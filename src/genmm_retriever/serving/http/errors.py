"""One shape of every refusal: `{"error": what is wrong, "hint": the mend}`."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from ...errors import (
    CapabilityError,
    DuplicateIdError,
    GenmmError,
    ImageError,
    IndexLockedError,
    IndexStateError,
    InputError,
    MissingExtraError,
    ModelError,
    ModelNotFoundError,
    QueryError,
    RemoteBusyError,
    RemoteError,
    RemoteKeyError,
    RemoteRefusedError,
    RemoteTimeoutError,
    RemoteUnreachableError,
    StorageError,
    WriterError,
)
from ..console import printable

log = logging.getLogger(__name__)
RETRY_SECONDS = 2
_OWN_ERROR = "an error of the service's own"
_LOGGED = "the service's log has the details"
# What these say names files, folders and processes of this machine: the log alone has it. The
# first that fits counts, so the special come before the general.
_OWN: tuple[tuple[type[GenmmError], int, str, str], ...] = (
    (IndexLockedError, 503, "another process writes the index", "try again in a moment"),
    (IndexStateError, 503, "the index cannot be read now", _LOGGED),
    (CapabilityError, 422, "the model of this service cannot do that", "see /docs, or ask without"),
    (ModelError, 500, "the model of this service failed", _LOGGED),
    (ImageError, 500, "a picture of the index cannot be opened", "`genmm check` names it"),
)
# What a writer's errors say is for who runs the service: addresses, quotas, its own words.
_WRITER: tuple[tuple[type[GenmmError], int, str], ...] = (
    (RemoteBusyError, 503, "is busy"),
    (RemoteTimeoutError, 504, "did not answer in time"),
    (RemoteUnreachableError, 502, "cannot be reached"),
    (RemoteKeyError, 502, "does not know this service"),
    (RemoteRefusedError, 502, "does not take this request"),
    (RemoteError, 502, "failed"),
    (ModelNotFoundError, 502, "is not there"),
    (WriterError, 502, "gave no usable answer"),
)
_EXPECTED = "see /docs for what is expected"
_JSON = "send a JSON object in UTF-8, with the header Content-Type: application/json"
_HINTS = {
    400: "send JSON in UTF-8 with Content-Type: application/json, or a form as curl -F makes it",
    404: "see /docs for what there is",
    405: "see /docs for the methods of this address",
    413: "send less",
    416: "ask for a range within the picture, or for all of it",
    500: _LOGGED,
}


class Refusal(HTTPException):
    """A request that is not answered, with the reason and the mend."""

    def __init__(
        self, status: int, message: str, hint: str = "", *, retry_after: int | None = None
    ) -> None:
        headers = None if retry_after is None else {"Retry-After": str(retry_after)}
        super().__init__(status, detail=message, headers=headers)
        self.hint = hint


def busy(
    message: str, hint: str = "try again later", *, retry_after: int = RETRY_SECONDS
) -> Refusal:
    """A 503 that says when to come again."""
    return Refusal(503, message, hint, retry_after=retry_after)


def error_response(
    status: int, message: str, hint: str = "", headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """A refusal as it is sent; one line each, whatever the text holds."""
    body = {"error": printable(message), "hint": printable(hint)}
    return JSONResponse(body, status_code=status, headers=dict(headers or {}))


def response_to(error: Exception) -> JSONResponse:
    """The response to anything that was raised while a request was answered."""
    if isinstance(error, HTTPException):
        hint = error.hint if isinstance(error, Refusal) else _HINTS.get(error.status_code, "")
        return error_response(error.status_code, str(error.detail), hint, error.headers)
    if isinstance(error, RequestValidationError):
        return error_response(422, *_first_problem(error))
    if isinstance(error, DuplicateIdError):
        # The error's own words tell where pictures lie on this machine.
        message = f"the id {error.item_id!r} is in the index with other content"
        return error_response(409, message, "send replace=true, delete it first, or use another id")
    if isinstance(error, (RemoteError, ModelNotFoundError, WriterError)):
        return _of_writer(error)
    if isinstance(error, MissingExtraError):
        return error_response(501, error.message, error.hint)
    if isinstance(error, GenmmError) and not _is_clients(error):
        return _of_own(error)
    if isinstance(error, GenmmError):
        return error_response(422, error.message, error.hint)
    log.error("a request failed", exc_info=error)
    return error_response(500, _OWN_ERROR, _LOGGED)


def _is_clients(error: GenmmError) -> bool:
    """Whether an error is about what the client gave, and says nothing of this machine."""
    return isinstance(error, QueryError) or type(error) is InputError


def _of_own(error: GenmmError) -> JSONResponse:
    """A refusal where the index, the model or the disk fails; the log has the details."""
    log.error("%s", printable(str(error)))
    if isinstance(error, StorageError) and (why := _unwritable(error.__cause__)):
        return error_response(507, f"the index cannot be written: {why}", _LOGGED)
    for kind, status, message, hint in _OWN:
        if isinstance(error, kind):
            headers = {"Retry-After": str(RETRY_SECONDS)} if status == 503 else None
            return error_response(status, message, hint, headers)
    return error_response(500, _OWN_ERROR, _LOGGED)


def _unwritable(cause: BaseException | None) -> str:
    """The system's words for a place that is full or closed; "" if it is gone instead."""
    if isinstance(cause, (FileNotFoundError, NotADirectoryError)):
        return ""
    if isinstance(cause, OSError):
        return cause.strerror or "the place is closed"
    return "the disk is full" if "full" in str(cause) else ""


def _of_writer(error: GenmmError) -> JSONResponse:
    """A refusal where the model that writes for the service fails; the log has the details."""
    status, what = next((code, what) for kind, code, what in _WRITER if isinstance(error, kind))
    log.error("%s", printable(str(error)))
    headers = {"Retry-After": str(RETRY_SECONDS)} if status == 503 else None
    return error_response(
        status, f"the model that writes {what}", "try again later, or search without it", headers
    )


def plain_refusal(status: int) -> tuple[str, str]:
    """Message and hint for a refusal that a library worded for itself."""
    reasons = {
        400: "the request makes no sense, or its Host header names nobody who is answered",
        404: "there is nothing here",
        416: "no such range",
    }
    hints = {**_HINTS, 400: "`genmm serve --allowed-host NAME` answers to further names"}
    return reasons.get(status, "the request was refused"), hints.get(status, "")


def install(app: FastAPI) -> None:
    """Answer every refusal in the one shape."""

    async def answer(_: Request, error: Exception) -> JSONResponse:
        return response_to(error)

    for kind in (HTTPException, RequestValidationError, GenmmError):
        app.add_exception_handler(kind, answer)


def _first_problem(error: RequestValidationError) -> tuple[str, str]:
    """The first thing that was wrong: where and what, never the value itself; and the mend."""
    problems = error.errors()
    if not problems:
        return "the request cannot be read", _EXPECTED
    kind, loc = problems[0]["type"], problems[0]["loc"]
    if kind == "json_invalid":
        return "the body is no JSON", _JSON
    if tuple(loc) == ("body",) and kind in ("missing", "model_attributes_type", "model_type"):
        return "the body is no JSON object, or is not said to be JSON", _JSON
    if "Expected UploadFile" in problems[0]["msg"]:
        return f"`{loc[-1]}`: this is a text, not a file", f"with curl: -F {loc[-1]}=@FILE"
    if kind == "extra_forbidden":
        return f"`{_place(loc)}`: there is no such field", _EXPECTED
    return f"`{_place(loc)}`: {problems[0]['msg'].removeprefix('Value error, ')}", _EXPECTED


def _place(loc: Sequence[object]) -> str:
    return ".".join(str(part) for part in loc)[:200]
