"""The SQLite side of an index: its tables, and reading rows out of them.

A published `items.sqlite` and the writer's `staging/work.sqlite` have the same tables. Each
payload carries its CRC-32, so that damage is noticed in the working file as well, which
changes too often for one checksum over the whole.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import ValidationError

from genmm_retriever.corpus.store.files import DAMAGED_HINT
from genmm_retriever.corpus.store.records import Description, IdentifierRecord
from genmm_retriever.errors import IndexDamagedError, first_problem
from genmm_retriever.schema import Item, Kind, Scalar, is_unicode

TABLES = """
CREATE TABLE IF NOT EXISTS meta(key TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS items(
    row INTEGER PRIMARY KEY, id TEXT NOT NULL, kind TEXT NOT NULL, stamp TEXT,
    payload TEXT NOT NULL, crc INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS items_id ON items(id);
CREATE TABLE IF NOT EXISTS metadata(
    key TEXT, value TEXT, row INTEGER, PRIMARY KEY(key, value, row)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS metadata_row ON metadata(row);
CREATE TABLE IF NOT EXISTS features(
    row INTEGER PRIMARY KEY, segment TEXT NOT NULL, position INTEGER NOT NULL,
    crc INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS descriptions(
    row INTEGER PRIMARY KEY, payload TEXT NOT NULL, crc INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS identifiers(
    row INTEGER, n INTEGER, text TEXT NOT NULL, tokens BLOB NOT NULL, logprobs BLOB NOT NULL,
    crc INTEGER NOT NULL, PRIMARY KEY(row, n)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS skipped(
    row INTEGER PRIMARY KEY, id TEXT NOT NULL, stamp TEXT, payload TEXT NOT NULL,
    reason TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS skipped_id ON skipped(id);
CREATE TABLE IF NOT EXISTS documents(
    name TEXT PRIMARY KEY, payload TEXT NOT NULL, crc INTEGER NOT NULL) WITHOUT ROWID;
"""
# Of the work database alone; a row without a file drops a published array.
WORK_TABLES = """
CREATE TABLE IF NOT EXISTS staged_arrays(
    name TEXT PRIMARY KEY, file TEXT, size INTEGER, sha256 TEXT, blocks TEXT) WITHOUT ROWID;
"""
ROW_TABLES = ("items", "metadata", "features", "descriptions", "identifiers")
_CHUNK = 500
T = TypeVar("T")


def connect_readonly(path: Path) -> sqlite3.Connection:
    """Open a published database; it never changes, so that no lock or journal is needed."""
    uri = path.absolute().as_uri() + "?mode=ro&immutable=1"
    return sqlite3.connect(uri, uri=True, check_same_thread=False, isolation_level=None)


def connect_work(path: Path) -> sqlite3.Connection:
    """Open the writer's database; a commit is durable when it returns."""
    connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
    try:
        connection.execute("PRAGMA locking_mode=EXCLUSIVE")
        connection.execute("PRAGMA journal_mode=TRUNCATE")
        connection.execute("PRAGMA synchronous=FULL")
        connection.executescript(TABLES + WORK_TABLES)
    except BaseException:
        connection.close()
        raise
    return connection


def checksum(*parts: str | bytes) -> int:
    """CRC-32 over the parts, in order."""
    crc = 0
    for part in parts:
        crc = zlib.crc32(part.encode() if isinstance(part, str) else part, crc)
    return crc


def encode_metadata(value: Scalar) -> str:
    """The form in which metadata values are compared.

    `1` and `1.0` are the same, `1` and `True` are not.

    Examples:
        >>> encode_metadata(1.0) == encode_metadata(1), encode_metadata(True), encode_metadata("a")
        (True, 'true', '"a"')
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value)


def encode_item(item: Item, image: str | dict[str, str] | None) -> str:
    """An item as JSON, its image replaced by the given reference (a blob is a dict)."""
    fields: dict[str, Any] = item.model_dump(exclude={"image"}, exclude_defaults=True)
    if image is not None:
        fields["image"] = image
    return json.dumps(fields, sort_keys=True, separators=(",", ":"))


def encode_descriptions(descriptions: Iterable[Description]) -> str:
    """Descriptions of one item as JSON."""
    return json.dumps([[d.text, d.source] for d in descriptions])


def encode_identifier(record: IdentifierRecord) -> tuple[str, bytes, bytes, int]:
    """Text, token ids (int32), log-probabilities (float32) and their checksum."""
    tokens = np.asarray(record.tokens, dtype="<i4").tobytes()
    logprobs = np.asarray(record.null_logprobs, dtype="<f4").tobytes()
    return record.text, tokens, logprobs, checksum(record.text, tokens, logprobs)


def chunks(rows: Sequence[int]) -> Iterator[tuple[str, list[int]]]:
    """Parts of a list of rows that fit an SQL statement, with their placeholders."""
    for marks, part in _parts(rows):
        yield marks, [int(row) for row in part]


def _parts(values: Sequence[T]) -> Iterator[tuple[str, list[T]]]:
    for start in range(0, len(values), _CHUNK):
        part = list(values[start : start + _CHUNK])
        yield "(" + ",".join("?" * len(part)) + ")", part


class Tables:
    """Reading from an open database, published or in work.

    Args:
        connection: The database.
        path: Its file, named when it is damaged.
        folder: The index folder, where blobs lie.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path, folder: Path) -> None:
        self.connection = connection
        self.path = path
        self.folder = folder

    def damaged(self, what: str) -> IndexDamagedError:
        """The error for something wrong in this file."""
        return IndexDamagedError(f"{self.path} is damaged: {what}", DAMAGED_HINT)

    def run(self, sql: str, values: Sequence[object] = ()) -> sqlite3.Cursor:
        """Execute a statement."""
        return self.connection.execute(sql, values)

    def _verified(self, payload: str, crc: int, row: int | str) -> Any:
        if checksum(payload) != crc:
            raise self.damaged(f"the checksum of {row!r} does not match")
        return json.loads(payload)

    def meta(self, key: str, default: str | None = None) -> str | None:
        """A value of the `meta` table."""
        found = self.run("SELECT value FROM meta WHERE key=?", (key,)).fetchone()
        return found[0] if found else default

    def items(self, rows: Sequence[int]) -> dict[int, Item]:
        """The items at the rows that exist; images given as bytes come as paths of blobs."""
        result: dict[int, Item] = {}
        for marks, part in chunks(rows):
            sql = f"SELECT row, payload, crc FROM items WHERE row IN {marks}"
            for row, payload, crc in self.run(sql, part):
                fields = self._verified(payload, crc, row)
                if isinstance(fields.get("image"), dict):
                    fields["image"] = str(self.folder / "blobs" / fields["image"]["blob"])
                try:
                    result[row] = Item.model_validate(fields)
                except ValidationError as error:
                    # Older versions of this package took in what is none to this one.
                    raise self.damaged(f"row {row} is no item: {first_problem(error)}") from error
        return result

    def marks(self, rows: Sequence[int]) -> dict[int, str]:
        """A hash of the content of the rows that exist: id, picture, text and title."""
        result: dict[int, str] = {}
        for marks, part in chunks(rows):
            sql = f"SELECT row, stamp, payload, crc FROM items WHERE row IN {marks}"
            for row, stamp, payload, crc in self.run(sql, part):
                fields = self._verified(payload, crc, row)
                content = [stamp, *(fields.get(name) for name in ("id", "image", "text", "title"))]
                result[row] = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
        return result

    def descriptions(self, rows: Sequence[int]) -> dict[int, list[Description]]:
        """Descriptions of the rows that have them."""
        result: dict[int, list[Description]] = {}
        for marks, part in chunks(rows):
            sql = f"SELECT row, payload, crc FROM descriptions WHERE row IN {marks}"
            for row, payload, crc in self.run(sql, part):
                pairs = self._verified(payload, crc, row)
                result[row] = [Description(text, source) for text, source in pairs]
        return result

    def identifiers(self, rows: Sequence[int]) -> list[IdentifierRecord]:
        """Identifiers of the rows, by row and then in the order they were put."""
        records: list[IdentifierRecord] = []
        for marks, part in chunks(sorted({int(row) for row in rows})):
            sql = (
                "SELECT row, text, tokens, logprobs, crc FROM identifiers "
                f"WHERE row IN {marks} ORDER BY row, n"
            )
            for row, text, tokens, logprobs, crc in self.run(sql, part):
                if checksum(text, tokens, logprobs) != crc:
                    raise self.damaged(f"the checksum of an identifier of row {row} does not match")
                records.append(
                    IdentifierRecord(
                        row,
                        text,
                        tuple(np.frombuffer(tokens, "<i4").tolist()),
                        tuple(np.frombuffer(logprobs, "<f4").tolist()),
                    )
                )
        return records

    def feature_places(self, rows: Sequence[int]) -> dict[int, tuple[str, int, int]]:
        """Segment, position and checksum of each row that has features."""
        result: dict[int, tuple[str, int, int]] = {}
        for marks, part in chunks(rows):
            sql = f"SELECT row, segment, position, crc FROM features WHERE row IN {marks}"
            for row, segment, position, crc in self.run(sql, part):
                result[row] = (segment, position, crc)
        return result

    def drop(self, rows: Sequence[int]) -> None:
        """Delete all that is kept of rows; within the caller's transaction."""
        for marks, part in chunks(rows):
            for name in ROW_TABLES:
                self.run(f"DELETE FROM {name} WHERE row IN {marks}", part)

    def skipped(self) -> list[tuple[str, str]]:
        """Ids and reasons of items that were left out, in the order of staging."""
        return [(i, r) for i, r in self.run("SELECT id, reason FROM skipped ORDER BY row")]

    def document(self, name: str) -> Any | None:
        """A JSON document, or None if there is none of that name."""
        sql = "SELECT payload, crc FROM documents WHERE name=?"
        found = self.run(sql, (name,)).fetchone()
        return None if found is None else self._verified(found[0], found[1], name)

    def rows_of(self, ids: Sequence[str]) -> np.ndarray:
        """Rows of those ids that are there, ascending, int64."""
        # What is no Unicode cannot be stored, so it names nothing.
        wanted = sorted({item_id for item_id in ids if is_unicode(item_id)})
        found: list[int] = []
        for marks, part in _parts(wanted):
            sql = f"SELECT row FROM items WHERE id IN {marks}"
            found += [row for (row,) in self.run(sql, part)]
        return np.array(sorted(found), dtype=np.int64)

    def rows_where(
        self, filters: dict[str, Scalar | list[Scalar]], kind: Kind | None
    ) -> np.ndarray:
        """Rows that fulfil every condition, ascending, int64."""
        clauses = ["1"]
        values: list[object] = []
        if kind is not None:
            clauses.append("kind=?")
            values.append(kind)
        # SQLite takes only so many values and conditions in one statement.
        long: list[tuple[str, list[Scalar]]] = []
        for key, wanted in filters.items():
            options = wanted if isinstance(wanted, list) else [wanted]
            if len(values) + len(options) > _CHUNK:
                long.append((key, options))
                continue
            marks = ",".join("?" * len(options))
            clauses.append(f"row IN (SELECT row FROM metadata WHERE key=? AND value IN ({marks}))")
            values += [key, *(encode_metadata(option) for option in options)]
        sql = f"SELECT row FROM items WHERE {' AND '.join(clauses)} ORDER BY row"
        found = np.fromiter((row for (row,) in self.run(sql, values)), dtype=np.int64)
        for key, options in long:
            found = np.intersect1d(found, self._rows_with(key, options))
        return found

    def _rows_with(self, key: str, options: Sequence[Scalar]) -> np.ndarray:
        """Rows that have any of so many values, with duplicates."""
        rows: list[int] = []
        for marks, part in _parts(sorted({encode_metadata(option) for option in options})):
            sql = f"SELECT row FROM metadata WHERE key=? AND value IN {marks}"
            rows += [row for (row,) in self.run(sql, [key, *part])]
        return np.array(rows, dtype=np.int64)
