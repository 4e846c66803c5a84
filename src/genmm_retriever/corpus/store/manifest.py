"""`manifest.json`: the one file that says which files are the index."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from genmm_retriever.corpus.store.checksums import FileEntry, verify_file
from genmm_retriever.corpus.store.files import (
    ARRAYS,
    DAMAGED_HINT,
    FEATURES,
    GENERATIONS,
    LOCK,
    MANIFEST,
    WORK,
    write_atomically,
)
from genmm_retriever.corpus.store.lock import LOCK_MAGIC
from genmm_retriever.corpus.store.records import IndexSettings
from genmm_retriever.errors import IndexDamagedError, IndexNotFoundError, IndexVersionError

FORMAT = "genmm-index"
SCHEMA_VERSION = 2
_LARGEST = 16 << 20


@dataclass(frozen=True)
class Manifest:
    """What is published.

    Args:
        generation: Number of the publication, from 1.
        settings: How the index is made.
        counts: Numbers of items, images, texts and identifiers.
        feature_shape: Shape of one row of features, or None if there are none.
        files: Published files by path relative to the index folder, with `/`.
        stamp: What a later `stat` of the file is compared with; not written.
    """

    generation: int
    settings: IndexSettings
    counts: dict[str, int]
    feature_shape: tuple[int, ...] | None
    files: dict[str, FileEntry]
    stamp: tuple[int, int, int] = field(default=(0, 0, 0), compare=False)

    def write(self, folder: Path) -> None:
        """Replace the folder's manifest, atomically and durably."""
        body: dict[str, Any] = {
            "format": FORMAT,
            "schema_version": SCHEMA_VERSION,
            "generation": self.generation,
            "settings": self.settings.model_dump(mode="json"),
            "counts": self.counts,
            "feature_shape": self.feature_shape and list(self.feature_shape),
            "files": {
                name: {key: value for key, value in asdict(entry).items() if value != ""}
                for name, entry in sorted(self.files.items())
            },
        }
        body["checksum"] = _checksum(body)
        text = json.dumps(body, indent=1)
        write_atomically(folder / MANIFEST, lambda handle: handle.write(text.encode()))

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read and verify a folder's manifest.

        Raises:
            IndexNotFoundError: If there is none, or it belongs to something else.
            IndexVersionError: If a version of this package wrote it that keeps it otherwise.
            IndexDamagedError: If it was cut short, altered or taken away.
        """
        path = folder / MANIFEST
        try:
            with path.open("rb") as handle:
                stat = os.fstat(handle.fileno())
                raw = handle.read(_LARGEST)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise _not_found(folder) from error
        except OSError as error:
            raise IndexDamagedError(
                f"{path} cannot be read: {error.strerror or error}", DAMAGED_HINT
            ) from error
        body = _parse(raw, path)
        try:
            return cls(
                generation=int(body["generation"]),
                settings=IndexSettings.model_validate(body["settings"]),
                counts={str(k): int(v) for k, v in body["counts"].items()},
                feature_shape=body["feature_shape"] and tuple(body["feature_shape"]),
                files={
                    str(name): FileEntry(
                        int(entry["size"]), str(entry["sha256"]), str(entry.get("blocks", ""))
                    )
                    for name, entry in body["files"].items()
                },
                stamp=(stat.st_ino, stat.st_mtime_ns, stat.st_size),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise IndexDamagedError(f"{path} is damaged", DAMAGED_HINT) from error

    def verify(self, folder: Path, name: str, *, full: bool = False) -> Path:
        """The path of a published file whose size and checksums hold; see `verify_file`."""
        return verify_file(folder / name, self.files.get(name), full=full)

    @staticmethod
    def stat(folder: Path) -> tuple[int, int, int]:
        """What `stamp` is now; three zeros if the file is gone."""
        try:
            found = (folder / MANIFEST).stat()
        except OSError:
            return (0, 0, 0)
        return (found.st_ino, found.st_mtime_ns, found.st_size)


def _parse(raw: bytes, path: Path) -> dict[str, Any]:
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise IndexDamagedError(f"{path} is damaged", DAMAGED_HINT) from error
    if not isinstance(body, dict) or body.get("format") != FORMAT:
        if FORMAT.encode() in raw or b"schema_version" in raw or is_index_folder(path.parent):
            raise IndexDamagedError(f"{path} is damaged", DAMAGED_HINT)
        raise _not_found(path.parent)
    # The version comes before the checksum: a newer one may compute it in another way.
    version = body.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION and "checksum" in body:
        raise IndexVersionError(
            f"{path} has schema version {version}, this package reads {SCHEMA_VERSION}",
            "upgrade it: pip install -U genmm-retriever",
        )
    stored = body.pop("checksum", None)
    # A bool is an int, and none of the versions.
    if type(version) is not int or stored != _checksum(body):
        raise IndexDamagedError(f"{path} is damaged", DAMAGED_HINT)
    if version != SCHEMA_VERSION:
        raise older_version(path, version)
    return body


def older_version(path: Path, version: int) -> IndexVersionError:
    """The error for what an older version of this package made."""
    return IndexVersionError(
        f"{path} was made by an older version of this package (schema version {version}, "
        f"this one reads {SCHEMA_VERSION})",
        "build it again: run its `genmm index` command with --overwrite",
    )


def _checksum(body: dict[str, Any]) -> str:
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _not_found(folder: Path) -> IndexNotFoundError | IndexDamagedError:
    """The error for a folder without a manifest of ours."""
    if not folder.exists():
        return IndexNotFoundError(
            f"there is no index at {str(folder)!r}", "build one with `genmm index`"
        )
    if is_index_folder(folder) and _was_published(folder):
        return IndexDamagedError(f"{folder / MANIFEST} is missing", DAMAGED_HINT)
    if is_index_folder(folder) and not (folder / WORK).exists():
        return IndexNotFoundError(
            f"the index at {str(folder)!r} is empty: its build took nothing in",
            "build it with `genmm index`",
        )
    if is_index_folder(folder):
        return IndexNotFoundError(
            f"the index at {str(folder)!r} is unfinished",
            "run the same `genmm index` command again, it goes on where it stopped",
        )
    return IndexNotFoundError(
        f"{str(folder)!r} is not an index", "name a folder that `genmm index` has written"
    )


def _was_published(folder: Path) -> bool:
    """Whether something was published in a folder whose manifest is gone.

    Work in progress puts files beside what is published before there is a manifest, so where
    there is some it is asked what it began with.
    """
    if not (folder / WORK).exists():
        kinds = (folder / kind for kind in (GENERATIONS, ARRAYS, FEATURES))
        return any(kind.is_dir() and any(kind.iterdir()) for kind in kinds)
    meta = work_meta(folder)
    return meta.get("base_generation", "0") != "0" and meta.get("fresh") != "1"


def work_meta(folder: Path) -> dict[str, str]:
    """What the work in progress of an index says of itself, without taking hold of it.

    Nothing where there is none, where a running writer holds it, or where the next one has to
    mend it first.
    """
    work = folder / WORK
    if not work.exists():
        return {}
    uri = work.absolute().as_uri() + "?mode=ro"
    try:
        with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=0.1)) as connection:
            return dict(connection.execute("SELECT key, value FROM meta"))
    except sqlite3.Error:
        return {}


def is_index_folder(folder: Path) -> bool:
    """Whether a folder was made by this package, finished or not, damaged or not."""
    try:
        with (folder / LOCK).open("rb") as handle:
            if handle.read(len(LOCK_MAGIC)) == LOCK_MAGIC:
                return True
    except OSError:
        pass
    try:
        with (folder / MANIFEST).open("rb") as handle:
            return f'"{FORMAT}"'.encode() in handle.read(4096)
    except OSError:
        return False
