"""Annotation files of data sets: JSON that strangers wrote, and the pictures that it names."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from pydantic import ValidationError

from ..corpus.references import printable
from ..errors import SourceError, first_problem
from ..schema import is_unicode

_MEND = "take the file as published, or mend it"


def annotation_file(folder: Path, part: str, name: str) -> Path:
    """A file of a data set: in the published sub-folder, or else in the folder itself.

    Raises:
        SourceError: If it is in neither.
    """
    for path in (folder / part / name, folder / name):
        if path.is_file():
            return path
    raise SourceError(
        f"{printable(str(folder / part / name))} does not exist",
        f"name the folder that holds {part}/, as published, and the right split",
    )


def read_annotations(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        SourceError: If it cannot be read or is no JSON in UTF-8.
    """
    try:
        return json.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{path} is not JSON: {error}", _MEND) from error


def records_of(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The objects of a JSON list, with their numbers from 1.

    Raises:
        SourceError: If the file is no list of objects.
    """
    records = read_annotations(path)
    if not isinstance(records, list):
        raise SourceError(f"{path} is not a list of records", _MEND)
    for number, record in enumerate(records, start=1):
        with record_named(path, number):
            if not isinstance(record, dict):
                raise ValueError("it is not a JSON object")
        yield number, record


@contextmanager
def record_named(path: Path, number: int | str) -> Iterator[None]:
    """Whatever is wrong inside becomes a `SourceError` that names the file and the record."""
    try:
        yield
    except ValidationError as error:
        what = first_problem(error)
        raise SourceError(f"{path}, record {number}: {what}", _MEND) from error
    except ValueError as error:
        if isinstance(error, SourceError):
            raise
        raise SourceError(f"{path}, record {number}: {error}", _MEND) from error


def text_of(record: Mapping[str, Any], field: str) -> str:
    """A text of a record that is not empty.

    Raises:
        ValueError: If there is none.
    """
    value = record.get(field)
    if not isinstance(value, str) or not value.strip() or not is_unicode(value):
        raise ValueError(f'the field "{field}" must be a text that is not empty')
    return value


def texts_of(record: Mapping[str, Any], field: str) -> list[str]:
    """A list of texts of a record.

    Raises:
        ValueError: If it is none.
    """
    value = record.get(field)
    if not isinstance(value, list) or not all(isinstance(v, str) and is_unicode(v) for v in value):
        raise ValueError(f'the field "{field}" must be a list of texts')
    return value


def picture_within(images: Path, name: object, suffixes: Sequence[str] = ("",)) -> Path:
    """Where a picture lies that an annotation names, which need not exist.

    Names are taken by their letters: one that leads out of the folder is refused, while links
    that lie in the folder are followed, as its owner meant them.

    Args:
        images: The folder of the pictures.
        name: As in the annotation, with `/` between folders.
        suffixes: What may be missing at its end; the first that leads to a file is taken, or
            else the first.

    Raises:
        ValueError: If the name leads out of the folder, or is none.

    Examples:
        >>> picture_within(Path("/photos"), "./dev/a.png").as_posix()
        '/photos/dev/a.png'
        >>> picture_within(Path("/photos"), "../secret.png")
        Traceback (most recent call last):
            ...
        ValueError: the picture '../secret.png' does not lie within the folder of pictures
    """
    if not isinstance(name, str) or not name.strip() or "\x00" in name or not is_unicode(name):
        raise ValueError("the name of a picture must be a text that is not empty")
    # By the rules of every system, so that a file is safe on all or on none.
    forms = (PurePosixPath(name), PureWindowsPath(name))
    if any(form.anchor or ".." in form.parts for form in forms) or not forms[0].parts:
        raise ValueError(f"the picture {name!r} does not lie within the folder of pictures")
    found = [images / (name + suffix) for suffix in suffixes]
    return next((path for path in found if exists(path)), found[0])


def exists(path: Path) -> bool:
    """Whether there is such a file; a name that no file can have has none."""
    return os.path.isfile(path)  # noqa: PTH113
