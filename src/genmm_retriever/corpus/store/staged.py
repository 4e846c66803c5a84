"""The writer's arrays: what is published, what is put in its place, what is dropped.

A put array lies in a file of its own in the staging folder and counts from the commit of its
row in the work database on; a row without a file drops a published array. Publication writes
one new container for each group that has such rows and carries all others over untouched.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable

import numpy as np

from genmm_retriever.corpus.store import files
from genmm_retriever.corpus.store.arrays import check_array, map_container, write_container
from genmm_retriever.corpus.store.checksums import FileEntry, verify_file
from genmm_retriever.corpus.store.groups import (
    array_files,
    check_name,
    group_file,
    group_of,
    group_of_file,
)
from genmm_retriever.corpus.store.staging import Staging
from genmm_retriever.errors import IndexDamagedError

_PIECE = 1 << 22


def staged_rows(connection: sqlite3.Connection) -> dict[str, tuple[str | None, FileEntry]]:
    """The staged arrays by name: their file, or None for one to be dropped, and its entry."""
    found = connection.execute("SELECT name, file, size, sha256, blocks FROM staged_arrays")
    return {name: (file, FileEntry(*entry)) for name, file, *entry in found.fetchall()}


class Arrays:
    """Arrays of a work database.

    Args:
        staging: The open work database.
    """

    def __init__(self, staging: Staging) -> None:
        self._staging = staging
        # Read-only maps by file.
        self._maps: dict[str, dict[str, np.ndarray]] = {}
        self._intact: set[str] = set()

    def forget(self) -> None:
        """Let go of the mapped files."""
        self._maps.clear()
        self._intact.clear()

    def settle(self) -> None:
        """Let go of the files that a publication has done away with."""
        known = self._known()
        self._maps = {file: arrays for file, arrays in self._maps.items() if file in known}
        self._intact &= known.keys()

    def names(self) -> list[str]:
        """See `IndexWriter.arrays`."""
        return sorted(self._places())

    def get(self, name: str, *, writeable: bool) -> np.ndarray | None:
        """See `IndexWriter.array`."""
        file = self._places().get(name)
        if file is None:
            return None
        self._verify(file)
        if not writeable:
            return self._map(file)[name]
        return map_container(self._staging.folder / file)[name]

    def put(self, name: str, array: np.ndarray) -> None:
        """See `IndexWriter.put_array`."""
        check_name(name)
        array = check_array(name, array)
        staging = self._staging
        with staging.errors():
            if self._holds(self._places().get(name), name, array):
                return
            before = self._rows().get(name, (None, None))[0]
            published = self._holds(self._published().get(name), name, array)
        with staging.transaction() as tables:
            if published:
                # What was put in its place, or that it was dropped, is taken back.
                tables.run("DELETE FROM staged_arrays WHERE name=?", (name,))
            else:
                number = staging.number("next_array")
                staging.set_meta("next_array", number + 1)
                file = f"{files.STAGED_ARRAYS}/{number:06d}.safetensors"
                entry = self._write(file, {name: array})
                sql = "INSERT OR REPLACE INTO staged_arrays VALUES(?, ?, ?, ?, ?)"
                values = (name, file, entry.size, entry.sha256, entry.blocks)
                tables.run(sql, values)
        self._remove([before])

    def drop(self, prefix: str) -> int:
        """See `IndexWriter.drop_arrays`."""
        with self._staging.errors():
            names = [name for name in self._places() if name.startswith(prefix)]
            rows = self._rows()
            published = self._published()
        if not names:
            return 0
        with self._staging.transaction() as tables:
            for name in names:
                tables.run("DELETE FROM staged_arrays WHERE name=?", (name,))
                if name in published:
                    tables.run("INSERT INTO staged_arrays(name) VALUES(?)", (name,))
        self._remove(rows[name][0] for name in names if name in rows)
        return len(names)

    def write_groups(self, generation: int) -> dict[str, FileEntry]:
        """Write the groups that have changed.

        Returns:
            All files of arrays of the generation, those carried over included.
        """
        places = self._places()
        changed = {group_of(name) for name in self._rows()}
        known = self._known()
        entries = {f: known[f] for f in array_files(known) if group_of_file(f) not in changed}
        for group in sorted(changed):
            members = {name: file for name, file in places.items() if group_of(name) == group}
            for file in set(members.values()):
                self._verify(file, full=True)
            arrays = {name: self._map(file)[name] for name, file in members.items()}
            if arrays:
                name = group_file(generation, group)
                entries[name] = self._write(name, arrays)
        return entries

    def _write(self, file: str, arrays: dict[str, np.ndarray]) -> FileEntry:
        path = self._staging.folder / file
        if not path.parent.exists():
            path.parent.mkdir()
            files.sync_folder(path.parent.parent)
        found: list[FileEntry] = []
        files.write_atomically(path, lambda handle: found.append(write_container(handle, arrays)))
        self._maps.pop(file, None)
        self._intact.add(file)
        return found[0]

    def _remove(self, names: Iterable[str | None]) -> None:
        """Remove staged files that no row names any more; failing does no harm."""
        for name in names:
            if name is not None:
                self._maps.pop(name, None)
                self._intact.discard(name)
                with contextlib.suppress(OSError):
                    (self._staging.folder / name).unlink(missing_ok=True)

    def _known(self) -> dict[str, FileEntry]:
        manifest = self._staging.manifest
        return {} if manifest is None or self._staging.fresh else manifest.files

    def _rows(self) -> dict[str, tuple[str | None, FileEntry]]:
        return staged_rows(self._staging.tables.connection)

    def _published(self) -> dict[str, str]:
        """File of each array of the published generation."""
        return {name: file for file in array_files(self._known()) for name in self._map(file)}

    def _places(self) -> dict[str, str]:
        """File of each array of the next generation."""
        places: dict[str, str | None] = dict(self._published())
        places.update((name, file) for name, (file, _) in self._rows().items())
        return {name: file for name, file in places.items() if file is not None}

    def _map(self, file: str) -> dict[str, np.ndarray]:
        if file not in self._maps:
            self._maps[file] = map_container(self._staging.folder / file, writeable=False)
        return self._maps[file]

    def _verify(self, file: str, *, full: bool = False) -> None:
        """Verify a file, once in the life of the writer."""
        if file in self._intact:
            return
        entries = {**self._known(), **{f: entry for f, entry in self._rows().values() if f}}
        entry = entries.get(file)
        verify_file(self._staging.folder / file, entry, full=full)
        if full or (entry is not None and not entry.blocks):
            self._intact.add(file)

    def _holds(self, file: str | None, name: str, array: np.ndarray) -> bool:
        """Whether a file has the very array, with as little reading as can be."""
        if file is None:
            return False
        try:
            present = self._map(file)[name]
        except IndexDamagedError:
            return False
        if present.dtype != array.dtype or present.shape != array.shape:
            return False
        if present.ctypes.data == array.ctypes.data:
            # The very map that `get` gave, which nobody can write to.
            return True
        one, other = (a.reshape(-1).view(np.uint8) for a in (present, array))
        pieces = range(0, len(one), _PIECE)
        return all(np.array_equal(one[n : n + _PIECE], other[n : n + _PIECE]) for n in pieces)
