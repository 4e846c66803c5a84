"""JSONL and the records of its lines: source lines and captioned-images lines."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from genmm_retriever.corpus.references import image_reference, is_uri
from genmm_retriever.errors import SourceError, first_problem
from genmm_retriever.schema import Item, is_unicode

Items = Literal["images", "captions"]
_FIELDS = frozenset(("id", "image", "text", "title", "names", "metadata", "captions"))


def iter_jsonl(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a JSONL file with their line numbers, from 1; empty lines are passed over.

    Raises:
        SourceError: If the file cannot be read or a line is no JSON object; both are named.
    """
    path = Path(path)
    try:
        with path.open("rb") as handle:
            for number, raw in enumerate(handle, start=1):
                line = raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
                if line.strip():
                    yield number, _parse(line, path, number)
    except OSError as error:
        raise SourceError(
            f"{str(path)!r} cannot be read: {error.strerror or error}",
            "check its name and that you may read it",
        ) from error


def _parse(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        record = json.loads(line.decode(), parse_constant=_refuse)
    except UnicodeDecodeError as error:
        raise line_error(path, number, f"it is not UTF-8 ({error.reason})") from error
    except json.JSONDecodeError as error:
        what = f"it is not JSON: {error.msg} at column {error.colno}"
        raise line_error(path, number, what) from error
    except (RecursionError, ValueError) as error:
        raise line_error(path, number, f"it is not JSON: {error}") from error
    if not isinstance(record, dict):
        raise line_error(path, number, "it is not a JSON object")
    if b"\\ud" in line.lower() and not is_unicode(json.dumps(record, ensure_ascii=False)):
        raise line_error(path, number, "it holds half of a surrogate pair, which is no character")
    return record


def _refuse(constant: str) -> None:
    raise ValueError(f"it has no {constant}")


def line_error(path: Path, number: int, what: str) -> SourceError:
    """The error for one line of a source."""
    return SourceError(f"{str(path)!r}, line {number}: {what}", "mend or remove that line")


def captions_of(record: Mapping[str, Any], path: Path, number: int) -> list[str]:
    """The captions of a line, none if it has none.

    Raises:
        SourceError: If they are not a list of strings.
    """
    captions = record.get("captions")
    if captions is None:
        return []
    if not isinstance(captions, list) or not all(isinstance(c, str) for c in captions):
        raise line_error(path, number, "`captions` is not a list of texts")
    return captions


def record_id(record: Mapping[str, Any], path: Path, number: int) -> str:
    """The id of a line; whole numbers count as their digits.

    Raises:
        SourceError: If there is none, or it is something else.
    """
    value = record.get("id")
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not (value is None or isinstance(value, str)):
        raise line_error(path, number, "its `id` is not a text")
    if value is None or not value.strip():
        raise line_error(path, number, "it has no `id`")
    return value


def resolve_image(image: object, path: Path) -> str | bytes | None:
    """An image field as a reference; relative paths are taken from the source's folder."""
    if isinstance(image, Mapping):
        # The form in which the `datasets` library keeps pictures in Parquet.
        image = image.get("bytes") or image.get("path")
    if image is None or isinstance(image, bytes):
        return image
    if not isinstance(image, str):
        raise ValueError("`image` is neither a path nor a URI")
    return image if is_uri(image) else image_reference(path.absolute().parent / image)


def items_of(
    record: Mapping[str, Any],
    path: Path,
    number: int,
    *,
    items: Items = "images",
    use_text: str | None = None,
) -> Iterator[Item]:
    """The items of one line.

    `names`, what else the thing of the title is called, become the metadata of that name.
    Captions are left out unless they are asked for, because what is indexed cannot be used to
    evaluate.

    Args:
        record: The line.
        path: Its file, for messages and relative paths.
        number: Its number.
        items: `"captions"` makes each caption a text item `<id>#<n>`, n from 0.
        use_text: A field whose text becomes (part of) the item's text: `"captions"`, `"text"`,
            `"title"` or a key of the metadata.

    Raises:
        SourceError: If the line has unknown fields or makes no valid item.
    """
    if unknown := sorted(set(record) - _FIELDS):
        names = ", ".join(f"`{name}`" for name in unknown)
        hint = (
            "this looks like a file of queries, not of items"
            if "relevant" in unknown
            else "put fields of your own under `metadata`"
        )
        raise SourceError(f"{str(path)!r}, line {number}: unknown fields {names}", hint)
    each_id = record_id(record, path, number)
    captions = captions_of(record, path, number)
    metadata = _metadata(record, path, number)
    try:
        if items == "captions" and record.get("captions") is not None:
            for n, caption in enumerate(captions):
                if caption.strip():
                    yield Item(id=f"{each_id}#{n}", text=caption.strip(), metadata=metadata)
            return
        if items == "captions" and record.get("image") is not None:
            raise ValueError("it has no `captions`, which items='captions' asks for")
        yield Item(
            id=each_id,
            image=resolve_image(record.get("image"), path),
            text=_text(record, captions, use_text),
            title=record.get("title"),
            metadata=metadata,
        )
    except ValidationError as error:
        raise line_error(path, number, first_problem(error)) from error
    except ValueError as error:
        raise line_error(path, number, str(error)) from error


def _metadata(record: Mapping[str, Any], path: Path, number: int) -> Any:
    """The metadata of a line, with its `names` among them."""
    metadata, names = record.get("metadata") or {}, record.get("names")
    if names is None:
        return metadata
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise line_error(path, number, "`names` is not a list of texts")
    if isinstance(metadata, Mapping) and "names" in metadata:
        raise line_error(path, number, "it has `names` of its own and under `metadata`")
    return {**metadata, "names": names} if isinstance(metadata, Mapping) else metadata


def _text(record: Mapping[str, Any], captions: list[str], use_text: str | None) -> str | None:
    """The item's own text and, if asked for, a further field; each once."""
    own = record.get("text")
    if use_text in (None, "text") or not (own is None or isinstance(own, str)):
        return own  # a text of another type is refused by the item itself
    if use_text == "captions":
        extra = "\n".join(caption.strip() for caption in captions if caption.strip())
    else:
        metadata = record.get("metadata")
        value = (
            record.get(use_text)
            if use_text == "title"
            else (metadata.get(use_text) if isinstance(metadata, Mapping) else None)
        )
        extra = value.strip() if isinstance(value, str) else ""
    parts = [part for part in (own, extra) if part and part.strip()]
    return "\n".join(dict.fromkeys(parts)) or None
