"""One tree of exceptions: every one says what is wrong and, in `hint`, what to do about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class GenmmError(Exception):
    """Base of everything this package raises on purpose.

    Args:
        message: What is wrong, naming the thing (file, option, id, model).
        hint: What the user can do about it; printed after the message.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        """Message and hint on one line."""
        return f"{self.message} ({self.hint})" if self.hint else self.message


class InputError(GenmmError, ValueError):
    """The caller gave something unusable; the command line exits 2."""

    exit_code = 2


class SourceError(InputError):
    """A source of items (folder, JSONL, Parquet) cannot be read."""


class ImageError(InputError):
    """One picture is broken, too large, or not a picture."""


class DuplicateIdError(InputError):
    """Two items share an id.

    Args:
        message: What is wrong.
        hint: What to do about it.
        item_id: The id.
    """

    def __init__(self, message: str, hint: str, item_id: str) -> None:
        super().__init__(message, hint)
        self.item_id = item_id


class EmptyCorpusError(InputError):
    """There is nothing to index."""


class QueryError(InputError):
    """A query is empty, or asks for what the index does not have."""


class IndexStateError(InputError):
    """Base of what can be wrong with an index folder."""


class IndexNotFoundError(IndexStateError):
    """There is no finished index at the path."""


class IndexVersionError(IndexStateError):
    """The index was written by an incompatible (usually newer) version."""


class IndexDamagedError(IndexStateError):
    """A file of the index is missing, cut short or altered."""


class IndexLockedError(IndexStateError):
    """Another process is writing this index."""


class StorageError(IndexStateError):
    """The disk is full, or the place cannot be written."""


class ModelError(InputError):
    """A model cannot be found, loaded or used."""


class ModelNotFoundError(ModelError):
    """No such model, or its files cannot be reached."""


class CapabilityError(ModelError):
    """The model cannot do what is asked (for example give log-probabilities)."""


class MissingExtraError(ModelError, ImportError):
    """An optional dependency is absent; the message names the extra that brings it."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"this needs the package {package!r}, which is not installed",
            f'pip install "genmm-retriever[{extra}]", or ".[{extra}]" where its sources lie',
        )
        self.package = package
        self.extra = extra


class RemoteError(GenmmError):
    """A remote engine failed, or answered what cannot be used."""


class RemoteKeyError(ModelError, RemoteError):
    """There is no API key for a remote engine, or it is refused."""


class RemoteRefusedError(ModelError, RemoteError):
    """A remote engine does not take this request."""


class RemoteBusyError(RemoteError):
    """A remote engine's limit of requests is reached, also after waiting."""


class RemoteUnreachableError(RemoteError):
    """A remote engine cannot be reached."""


class RemoteTimeoutError(RemoteUnreachableError):
    """A remote engine did not answer in time."""


class WriterError(GenmmError):
    """A model that was to answer wrote nothing that can be used, however often it was asked."""


def first_problem(error: ValidationError) -> str:
    """The first thing that pydantic found wrong, on one line: the field and what is wrong."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    what = first["msg"].removeprefix("Value error, ")
    return f"`{place}`: {what}" if place else what
