"""Human texts for training: query lines and captioned-images lines, matched to an index."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genmm_retriever.corpus.lines import (
    captions_of,
    iter_jsonl,
    line_error,
    record_id,
    resolve_image,
)
from genmm_retriever.errors import InputError

_CAPTIONED = {"id", "image", "captions", "text", "title", "metadata"}
_QUERY = {"id", "text", "image", "relevant"}


@dataclass(frozen=True)
class HumanQuery:
    """A query that a person wrote, or a picture, and the rows of the items that answer it.

    Attributes:
        text: Its words, or None.
        image: Its picture, or None.
        rows: Rows of the index, ascending, at least one.
    """

    text: str | None
    image: str | bytes | None
    rows: tuple[int, ...]


def read_texts(path: Path, row_of: Callable[[str], int | None]) -> list[HumanQuery]:
    """Queries of a JSONL file whose items are in the index.

    A captioned line `{"id", "image", "captions": [...]}` asks for the item `id` by each of its
    captions; where the captions are items (`<id>#<n>`), its picture asks for them. A query
    line is `{"text"?, "image"?, "relevant": [ids]}`. Lines about other items are passed over.

    Args:
        path: The file.
        row_of: The row of an id, or None.

    Raises:
        SourceError: If the file cannot be read or a line is broken; it is named.
        InputError: If no line is about an item of the index.
    """
    found: list[HumanQuery] = []
    lines = 0
    for number, record in iter_jsonl(path):
        lines += 1
        captioned = "captions" in record
        unknown = sorted(set(record) - (_CAPTIONED if captioned else _QUERY))
        if unknown:
            raise line_error(path, number, f"it has the unknown field `{unknown[0]}`")
        read = _captioned if captioned else _asked
        found += read(record, path, number, row_of)
    if not found:
        raise InputError(
            f"{str(path)!r} is about no item of the index ({lines} lines were read)",
            "give lines whose `id` or `relevant` are ids of its items",
        )
    return found


def _captioned(
    record: dict[str, Any], path: Path, number: int, row_of: Callable[[str], int | None]
) -> Iterator[HumanQuery]:
    name = record_id(record, path, number)
    captions = [(n, text) for n, text in enumerate(captions_of(record, path, number))]
    row = row_of(name)
    texts = [text.strip() for _, text in captions if text.strip()]
    if row is not None:
        for text in dict.fromkeys(texts):
            yield HumanQuery(text, None, (row,))
    own = [row_of(f"{name}#{n}") for n, _ in captions]
    rows = tuple(sorted(row for row in own if row is not None))
    if rows and record.get("image") is not None:
        yield HumanQuery(None, _picture(record, path, number), rows)


def _asked(
    record: dict[str, Any], path: Path, number: int, row_of: Callable[[str], int | None]
) -> Iterator[HumanQuery]:
    relevant = record.get("relevant")
    if not isinstance(relevant, list) or not all(isinstance(one, str) for one in relevant):
        raise line_error(path, number, "`relevant` is not a list of item ids")
    text = record.get("text")
    if not (text is None or isinstance(text, str)):
        raise line_error(path, number, "`text` is not a text")
    image = None if record.get("image") is None else _picture(record, path, number)
    if image is None and not (text and text.strip()):
        raise line_error(path, number, "it has neither `text` nor `image`")
    rows = sorted({row for row in map(row_of, relevant) if row is not None})
    if rows:
        yield HumanQuery(text.strip() if text and text.strip() else None, image, tuple(rows))


def _picture(record: dict[str, Any], path: Path, number: int) -> str | bytes | None:
    try:
        return resolve_image(record["image"], path)
    except ValueError as error:
        raise line_error(path, number, str(error)) from error
