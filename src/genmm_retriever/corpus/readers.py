"""Sources of items: folders, picture files, JSONL, Parquet, BEIR folders."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from pydantic import ValidationError

from genmm_retriever.corpus.images import IMAGE_SUFFIXES
from genmm_retriever.corpus.lines import Items, items_of, iter_jsonl, line_error
from genmm_retriever.corpus.references import image_reference, printable
from genmm_retriever.errors import EmptyCorpusError, InputError, MissingExtraError, SourceError
from genmm_retriever.schema import Item

PathLike: TypeAlias = "str | os.PathLike[str]"
Source: TypeAlias = "PathLike | Item"
_JSONL_SUFFIXES = (".jsonl", ".ndjson", ".json")
_BATCH_ROWS = 64
_UNREADABLE = "see to it that you may read it, or name another source"


def read_sources(
    sources: Source | Sequence[Source],
    *,
    items: Items = "images",
    use_text: str | None = None,
    limit: int | None = None,
) -> Iterator[Item]:
    """The items of sources, one after another.

    Args:
        sources: One or several of: a folder of pictures (taken recursively, sorted; the id is
            the path below the folder), a BEIR folder (with `corpus.jsonl`), a picture, a JSONL
            or Parquet file, or an item itself. Pictures are not opened.
        items: `"captions"` makes each caption of captioned lines a text item `<id>#<n>`.
        use_text: A field whose text is indexed beside the picture: `"captions"`, `"text"`,
            `"title"` or a key of the metadata. Captions are otherwise ignored.
        limit: Most items to give.

    Raises:
        SourceError: If a source or a line of it cannot be read; it is named.
        EmptyCorpusError: If a source holds nothing.
        MissingExtraError: If Parquet is to be read and `pyarrow` is absent.
    """
    if limit is not None and limit < 1:
        raise InputError(f"limit is {limit}, but must be at least 1")
    if isinstance(sources, (str, os.PathLike, Item)):
        sources = [sources]
    if not isinstance(sources, Iterable):
        raise _no_source(sources)
    chain = itertools.chain.from_iterable(
        _read_one(source, items=items, use_text=use_text, limit=limit) for source in sources
    )
    return itertools.islice(chain, limit)


def _read_one(
    source: Source, *, items: Items, use_text: str | None, limit: int | None
) -> Iterator[Item]:
    if isinstance(source, Item):
        yield source
        return
    if not isinstance(source, (str, os.PathLike)):
        raise _no_source(source)
    path = Path(source)
    name = repr(printable(str(path)))
    suffix = path.suffix.lower()
    try:
        if not path.exists():
            raise SourceError(f"{name} does not exist", "name a folder, picture, JSONL or Parquet")
        is_folder = path.is_dir()
    except SourceError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SourceError(f"{name} cannot be read: {reason}", _UNREADABLE) from error
    if is_folder and (path / "corpus.jsonl").is_file():
        found = _read_beir(path / "corpus.jsonl")
    elif suffix in _JSONL_SUFFIXES:
        found = _read_lines(iter_jsonl(path), path, items, use_text, limit)
    elif suffix == ".parquet":
        found = _read_lines(_iter_parquet(path), path, items, use_text, limit)
    elif items == "captions":
        raise SourceError(
            f"{name} has no captions to index", "name a JSONL or Parquet file with captions"
        )
    elif is_folder:
        found = _read_folder(path)
    elif suffix in IMAGE_SUFFIXES:
        found = iter([_picture(path, path.name)])
    else:
        raise SourceError(
            f"{name} is no source of items",
            "name a folder, a picture, or a .jsonl or .parquet file",
        )
    first = next(found, None)
    if first is None:
        what = "no picture" if is_folder else "no item"
        raise EmptyCorpusError(f"{name} holds {what}", "name a source that does")
    yield first
    yield from found


def _no_source(given: object) -> SourceError:
    hint = "give paths, or items, such as Item(id='7', image=...)"
    return SourceError(f"a source of type {type(given).__name__}", hint)


def _picture(path: Path, name: str) -> Item:
    try:
        return Item(id=printable(name), image=image_reference(path.absolute()))
    except ValidationError as error:
        what = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise SourceError(f"{printable(str(path))!r}: {what}", "rename it") from error


def _read_folder(folder: Path) -> Iterator[Item]:
    """Pictures below a folder, hidden ones passed over, in the byte order of their names."""

    def stop(error: OSError) -> None:
        raise SourceError(
            f"{printable(str(error.filename))!r} cannot be read: {error.strerror}", _UNREADABLE
        ) from error

    names: list[str] = []
    for place, folders, files in os.walk(folder, onerror=stop):
        folders[:] = [name for name in folders if not name.startswith(".")]
        below = Path(place).relative_to(folder)
        names += [
            (below / name).as_posix()
            for name in files
            if not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES
        ]
    for name in sorted(names, key=os.fsencode):
        yield _picture(folder / name, name)


def _read_lines(
    records: Iterator[tuple[int, dict[str, Any]]],
    path: Path,
    items: Items,
    use_text: str | None,
    limit: int | None,
) -> Iterator[Item]:
    met = use_text in (None, "text")
    lines = given = 0
    for number, record in records:
        lines += 1
        met = met or use_text in record or use_text in (record.get("metadata") or ())
        for item in items_of(record, path, number, items=items, use_text=use_text):
            given += 1
            if given == limit and not met:
                # Nobody asks for more, so this is the last chance to say it.
                raise _no_field(path, use_text, f"none of the first {lines:,} lines")
            yield item
    if lines and not met:
        raise _no_field(path, use_text, "no line")


def _no_field(path: Path, field: str | None, which: str) -> SourceError:
    return SourceError(
        f"{which} of {str(path)!r} has the field {field!r}",
        "name `captions`, `text`, `title` or a key of the metadata",
    )


def _iter_parquet(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a Parquet file with their numbers, from 1; absent values are left out."""
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "parquet") from error
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                for record in batch.to_pylist():
                    number += 1
                    if isinstance(record.get("metadata"), dict):
                        # A struct column gives every row the fields of all rows.
                        metadata = record["metadata"].items()
                        record["metadata"] = {k: v for k, v in metadata if v is not None}
                    yield number, {k: v for k, v in record.items() if v is not None}
    except (arrow.ArrowException, OSError) as error:
        raise SourceError(f"{str(path)!r} is no Parquet file that can be read: {error}") from error


def _read_beir(path: Path) -> Iterator[Item]:
    """The passages of a BEIR corpus; further fields with plain values become metadata."""
    for number, record in iter_jsonl(path):
        each_id = record.get("_id", record.get("id"))
        if each_id is None:
            raise line_error(path, number, "it has no `_id`")
        title = str(record.get("title") or "").strip() or None
        text = str(record.get("text") or "").strip() or title
        further = {**record, **_mapping(record.get("metadata"))}
        own = ("_id", "id", "title", "text", "metadata")
        try:
            yield Item(
                id=str(each_id),
                text=text,
                title=title,
                metadata={k: v for k, v in further.items() if k not in own and _is_plain(v)},
            )
        except ValidationError as error:
            what = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise line_error(path, number, what) from error


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _is_plain(value: object) -> bool:
    values = value if isinstance(value, list) else [value]
    return all(each is None or isinstance(each, (str, int, float, bool)) for each in values)
