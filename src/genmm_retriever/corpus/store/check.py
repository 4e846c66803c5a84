"""`check_index`: reads every byte of an index and says what is wrong."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from genmm_retriever.corpus.references import local_path
from genmm_retriever.corpus.store import files
from genmm_retriever.corpus.store.checksums import verify_file
from genmm_retriever.corpus.store.database import Tables, chunks, connect_readonly
from genmm_retriever.corpus.store.manifest import Manifest
from genmm_retriever.corpus.store.notes import NoteBook
from genmm_retriever.corpus.store.publish import blob_names
from genmm_retriever.corpus.store.reader import IndexReader
from genmm_retriever.corpus.store.records import Problem
from genmm_retriever.corpus.store.staged import staged_rows
from genmm_retriever.errors import IndexDamagedError, IndexVersionError

_RESTORE = "restore it from a backup, or build the index again with --overwrite"
_BLOB = "restore it from a backup, or add its item again with --replace"
_NOTES = "run `genmm describe` again: it drops what is damaged and writes it anew"
_STAGING = "delete the folder staging/; what is published is not touched by that"


def check_index(path: str | Path) -> list[Problem]:
    """Verify every checksum of an index, and that what it refers to is there.

    Returns:
        What is wrong, with the file relative to the index (or the picture's own path) and the
        mend; empty if nothing is.

    Raises:
        IndexNotFoundError: If there is no finished index.
    """
    folder = Path(path).absolute()
    try:
        manifest = Manifest.read(folder)
    except IndexVersionError as error:
        return [Problem(files.MANIFEST, error.message, error.hint)]
    except IndexDamagedError as error:
        return [Problem(files.MANIFEST, error.message, _RESTORE)]
    problems = list(_published(folder, manifest))
    database = f"{files.generation_folder(manifest.generation)}/{files.ITEMS_FILE}"
    if not any(problem.file == database for problem in problems):
        problems += _contents(folder, folder / database)
    if not problems:
        try:
            IndexReader.open(folder).close()
        except IndexDamagedError as error:
            problems.append(Problem(".", error.message, _RESTORE))
    problems += _staged(folder)
    problems += _notes(folder)
    return problems


def _published(folder: Path, manifest: Manifest) -> Iterator[Problem]:
    for name in sorted(manifest.files):
        try:
            manifest.verify(folder, name, full=True)
        except IndexDamagedError as error:
            yield Problem(name, f"it {error.message.removeprefix(f'{folder / name} ')}", _RESTORE)


def _contents(folder: Path, database: Path) -> Iterator[Problem]:
    """Blobs, and picture files outside the index."""
    with contextlib.closing(connect_readonly(database)) as connection:
        tables = Tables(connection, database, folder)
        try:
            for name in sorted(blob_names(tables)):
                blob = folder / files.BLOBS / name
                if not blob.exists():
                    yield Problem(f"{files.BLOBS}/{name}", "it is missing", _BLOB)
                elif files.file_sha256(blob) != name:
                    yield Problem(f"{files.BLOBS}/{name}", "its checksum does not match", _BLOB)
            rows = tables.rows_where({}, "image").tolist()
            for _, part in chunks(rows):
                for item in tables.items(part).values():
                    file = local_path(item.image) if isinstance(item.image, str) else None
                    if file is None or file.parent == folder / files.BLOBS or file.exists():
                        continue
                    yield Problem(
                        str(item.image),
                        f"the picture of item {item.id!r} is no longer there",
                        "put it back, or delete the item",
                    )
        except sqlite3.Error as error:
            yield Problem(str(database.relative_to(folder)), str(error), _RESTORE)
        except IndexDamagedError as error:
            yield Problem(str(database.relative_to(folder)), error.message, _RESTORE)


def _notes(folder: Path) -> Iterator[Problem]:
    for number in NoteBook(folder).damaged:
        yield Problem(files.NOTES, f"line {number} is not as it was written", _NOTES)


def _staged_arrays(folder: Path, connection: sqlite3.Connection) -> Iterator[Problem]:
    for name, entry in staged_rows(connection).values():
        try:
            if name is not None:
                verify_file(folder / name, entry, full=True)
        except IndexDamagedError as error:
            yield Problem(name or "", error.message, _STAGING)


def _staged(folder: Path) -> Iterator[Problem]:
    """The work in progress; a running writer holds it, then there is nothing to check."""
    path = folder / files.WORK
    if not path.exists():
        return
    try:
        uri = path.as_uri() + "?mode=ro"
        with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=0.1)) as connection:
            found = connection.execute("PRAGMA integrity_check(1)").fetchone()
            if found != ("ok",):
                yield Problem(files.WORK, str(found[0]), _STAGING)
                return
            yield from _staged_arrays(folder, connection)
    except sqlite3.OperationalError as error:
        # After a kill within a transaction there is a journal, which the next writer plays back
        # before it verifies the database; a check writes nothing.
        if "lock" not in str(error) and "readonly" not in str(error):
            yield Problem(files.WORK, str(error), _STAGING)
    except sqlite3.DatabaseError as error:
        yield Problem(files.WORK, str(error), _STAGING)
