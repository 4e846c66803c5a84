"""Durable file operations, and the translation of system errors into the package's own."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from genmm_retriever.errors import IndexDamagedError, StorageError

MANIFEST = "manifest.json"
LOCK = "writer.lock"
STAGING = "staging"
WORK = "staging/work.sqlite"
STAGED_ARRAYS = "staging/arrays"
GENERATIONS = "generations"
ARRAYS = "arrays"
FEATURES = "features"
BLOBS = "blobs"
ADAPTER = "adapter"
NOTES = "notes/notes.jsonl"
ITEMS_FILE = "items.sqlite"

DAMAGED_HINT = (
    "run `genmm check` for the full list; restore the file from a backup, "
    "or build the index again with --overwrite"
)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def lacks_space(error: OSError) -> bool:
    """Whether more space would have let a write through."""
    return error.errno in _FULL


def generation_folder(generation: int) -> str:
    """Path of a generation's folder inside the index."""
    return f"{GENERATIONS}/{generation:06d}"


def segment_name(generation: int) -> str:
    """Path of the feature segment that a generation brings, inside the index."""
    return f"{FEATURES}/seg-{generation:06d}.npy"


@contextlib.contextmanager
def storage_errors(path: Path, database: str = WORK) -> Iterator[None]:
    """Turn system and SQLite errors of a write into this package's own.

    Args:
        path: The index folder, for the message.
        database: Relative name of the SQLite file that may be damaged.

    Raises:
        StorageError: If the disk is full or the place cannot be written.
        IndexDamagedError: If the SQLite file is no longer one.
    """
    try:
        yield
    except sqlite3.OperationalError as error:
        if "malformed" in str(error):
            raise _damaged_database(path, database) from error
        raise StorageError(
            f"cannot write the index {str(path)!r}: {error}",
            "free some space or choose another folder; what was published is untouched",
        ) from error
    except sqlite3.DatabaseError as error:
        raise _damaged_database(path, database) from error
    except OSError as error:
        hint = (
            "free some space or choose another folder; what was published is untouched"
            if lacks_space(error)
            else "choose a folder that you may write; what was published is untouched"
        )
        raise StorageError(
            f"cannot write the index {str(path)!r}: {error.strerror or error}", hint
        ) from error


def _damaged_database(path: Path, database: str) -> IndexDamagedError:
    return IndexDamagedError(f"{path / database} is damaged", DAMAGED_HINT)


def sync_folder(path: Path) -> None:
    """Make renames and new names inside a folder durable, where the system can."""
    if os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_file(path: Path) -> None:
    """Make the content of a file durable."""
    with path.open("r+b") as handle:
        os.fsync(handle.fileno())


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file so that it has either its old or its whole new content after a crash."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as handle:
            write(handle)
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def append_durably(path: Path, content: bytes) -> None:
    """Put content behind that of a file, which is made if absent: all, or on any error none."""
    is_new = not path.exists()
    try:
        with path.open("ab", buffering=0) as file:
            before = file.seek(0, os.SEEK_END)
            try:
                if file.write(content) != len(content):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(file.fileno())
            except OSError:
                file.truncate(before)
                raise
    except OSError:
        if is_new:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
        raise


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
