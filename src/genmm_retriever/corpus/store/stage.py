"""Taking in items: identity, duplicates, replacement, and where their pictures are kept."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Container, Iterable, Iterator
from pathlib import Path

from genmm_retriever.corpus.references import (
    decode_data_uri,
    image_reference,
    local_path,
)
from genmm_retriever.corpus.store import files
from genmm_retriever.corpus.store.database import (
    Tables,
    checksum,
    chunks,
    encode_item,
    encode_metadata,
)
from genmm_retriever.corpus.store.records import StageReport
from genmm_retriever.corpus.store.staging import Staging
from genmm_retriever.errors import DuplicateIdError, ImageError, InputError
from genmm_retriever.schema import Item, is_unicode


def stage_items(
    staging: Staging, items: Iterable[Item], *, replace: bool, only: bool = False
) -> StageReport:
    """Stage all items or none; see `IndexWriter.stage_items`."""
    counts = {"added": 0, "replaced": 0, "unchanged": 0, "left_out": 0}
    seen: dict[str, tuple[int, str]] = {}
    with staging.errors():
        before = staging.number("changes")
    with _of_their_own(), staging.transaction() as tables:
        for number, item in enumerate(_given(items), start=1):
            if item.id in seen:
                first, what = seen[item.id]
                raise DuplicateIdError(
                    f"two items have the id {item.id!r}: number {first} ({what}) and "
                    f"number {number} ({_describe(item)})",
                    "give every item an id of its own",
                    item.id,
                )
            seen[item.id] = number, _describe(item)
            counts[_stage_one(staging, tables, item, replace=replace)] += 1
        dropped = _drop_others(staging, tables, seen) if only else 0
        if not counts["added"] and not counts["replaced"] and not dropped:
            staging.set_meta("changes", before - 1)
    return StageReport(**counts)


class _SourceFailed(Exception):
    """What whoever gives the items raised: no fault of the index."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


def _given(items: Iterable[Item]) -> Iterator[Item]:
    try:
        yield from items
    except Exception as error:
        raise _SourceFailed(error) from error


@contextlib.contextmanager
def _of_their_own() -> Iterator[None]:
    """Let errors of the items' source go on as they were raised."""
    try:
        yield
    except _SourceFailed as failed:
        error = failed.error
    else:
        return
    raise error


def _drop_others(staging: Staging, tables: Tables, wanted: Container[str]) -> int:
    """Drop what interrupted work staged and never published, unless it is wanted now."""
    first = (staging.number("published_row"),)

    def others(table: str) -> list[int]:
        staged = tables.run(f"SELECT row, id FROM {table} WHERE row >= ?", first)
        return [row for row, name in staged.fetchall() if name not in wanted]

    items, skipped = others("items"), others("skipped")
    tables.drop(items)
    for marks, part in chunks(skipped):
        tables.run(f"DELETE FROM skipped WHERE row IN {marks}", part)
    return len(items) + len(skipped)


def _stage_one(staging: Staging, tables: Tables, item: Item, *, replace: bool) -> str:
    image, stamp = _keep_image(staging.folder, item)
    payload = encode_item(item, image)
    if "\\ud" in payload and not is_unicode(json.dumps(json.loads(payload), ensure_ascii=False)):
        raise InputError(f"item {item.id!r} holds half of a surrogate pair, which is no character")
    newest = "SELECT row, payload, stamp FROM {} WHERE id=? ORDER BY row DESC LIMIT 1"
    held = tables.run(newest.format("items"), (item.id,)).fetchone()
    skipped = tables.run(newest.format("skipped"), (item.id,)).fetchone()
    if skipped is not None and skipped[1:] == (payload, stamp):
        return "left_out" if skipped[0] < staging.number("published_row") else "unchanged"
    if skipped is not None:
        # It has been mended: it may try again.
        tables.run("DELETE FROM skipped WHERE id=?", (item.id,))
    if held is not None:
        if held[1] == payload and (held[2] == stamp or not replace):
            return "unchanged"
        if not replace and skipped is None:
            [present] = tables.items([held[0]]).values()
            raise DuplicateIdError(
                f"the id {item.id!r} is in the index with other content: "
                f"{_difference(present, item)}",
                "replace it on purpose (`genmm add --replace`, in Python `replace=True`), "
                "delete it first, or use another id",
                item.id,
            )
    row = staging.number("next_row")
    staging.set_meta("next_row", row + 1)
    values = (row, item.id, item.kind, stamp, payload, checksum(payload))
    tables.run("INSERT INTO items VALUES(?, ?, ?, ?, ?, ?)", values)
    for key, value in item.metadata.items():
        for each in value if isinstance(value, list) else [value]:
            entry = (key, encode_metadata(each), row)
            tables.run("INSERT OR IGNORE INTO metadata VALUES(?, ?, ?)", entry)
    return "added" if held is None else "replaced"


def _difference(present: Item, given: Item) -> str:
    if (held := _describe(present)) != (new := _describe(given)):
        return f"it has {held}, the source gives {new}"
    fields = (name for name in ("image", "text", "metadata"))
    names = [name for name in fields if getattr(present, name) != getattr(given, name)]
    return f"the {' and the '.join(names) or 'content'} of {held} is not the same"


def _describe(item: Item) -> str:
    if isinstance(item.image, str):
        return item.image if len(item.image) <= 200 else item.image[:200] + "..."
    if item.image is not None:
        return f"a picture of {len(item.image):,} bytes"
    text = item.text or ""
    return repr(text if len(text) <= 60 else text[:60] + "...")


def _keep_image(folder: Path, item: Item) -> tuple[str | dict[str, str] | None, str | None]:
    """How the index refers to a picture, and by what a change of its file is noticed."""
    image = item.image
    if image is None:
        return None, None
    if isinstance(image, str) and image[:5].lower() == "data:":
        with contextlib.suppress(ImageError):
            # A malformed one stays as it is, and is reported when it is described.
            image = decode_data_uri(image)
    if isinstance(image, bytes):
        return {"blob": _write_blob(folder, image)}, None
    path = local_path(image)
    if path is None:
        return image, None
    path = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow links
    if path.parent == folder / files.BLOBS:
        return {"blob": path.name}, None
    try:
        stat = path.stat()
        stamp = f"{stat.st_size}:{stat.st_mtime_ns}"
    except OSError:
        # Whether the picture can be opened is found out, and reported, when it is described.
        stamp = None
    return image_reference(path), stamp


def _write_blob(folder: Path, content: bytes) -> str:
    name = hashlib.sha256(content).hexdigest()
    path = folder / files.BLOBS / name
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        files.write_atomically(path, lambda handle: handle.write(content))
    return name
