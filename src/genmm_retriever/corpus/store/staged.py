"""The writer's arrays: what is published, what is put in its place, what is dropped.

Arrays that are put lie in files of the staging folder, those of one call and group in one, and
count from the commit of their rows in the work database on; a row without a file drops a
published array. Publication makes one new container for each group that has such rows (a file
that has the whole group becomes it as it is) and carries all others over untouched.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from genmm_retriever.corpus.store import files
from genmm_retriever.corpus.store.arrays import check_array, map_container, write_container
from genmm_retriever.corpus.store.checksums import FileEntry, verify_file
from genmm_retriever.corpus.store.database import Tables
from genmm_retriever.corpus.store.groups import (
    SUFFIX,
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

    def put(self, arrays: Mapping[str, np.ndarray], replacing: Sequence[str] = ()) -> None:
        """See `IndexWriter.put_arrays`."""
        new: dict[str, dict[str, np.ndarray]] = {}
        taken_back: list[str] = []
        with self._staging.errors():
            places, published = self._places(), self._published()
            for name, array in arrays.items():
                check_name(name)
                array = check_array(name, array)
                if self._holds(places.get(name), name, array):
                    continue
                if self._holds(published.get(name), name, array):
                    taken_back.append(name)
                else:
                    new.setdefault(group_of(name), {})[name] = array
            gone = [n for n in places if n.startswith(tuple(replacing)) and n not in arrays]
        if not new and not taken_back and not gone:
            return
        with self._changing() as tables:
            self._drop(tables, gone, published)
            for name in taken_back:
                # What was put in its place, or that it was dropped.
                tables.run("DELETE FROM staged_arrays WHERE name=?", (name,))
            for group in new.values():
                self._stage(tables, group)

    def _stage(self, tables: Tables, arrays: Mapping[str, np.ndarray]) -> None:
        number = self._staging.number("next_array")
        self._staging.set_meta("next_array", number + 1)
        file = f"{files.STAGED_ARRAYS}/{number:06d}{SUFFIX}"
        entry = self._write(file, arrays)
        tables.connection.executemany(
            "INSERT OR REPLACE INTO staged_arrays VALUES(?, ?, ?, ?, ?)",
            [(name, file, entry.size, entry.sha256, entry.blocks) for name in arrays],
        )

    def drop(self, prefix: str) -> int:
        """See `IndexWriter.drop_arrays`."""
        with self._staging.errors():
            names = [name for name in self._places() if name.startswith(prefix)]
            published = self._published()
        if not names:
            return 0
        with self._changing() as tables:
            self._drop(tables, names, published)
        return len(names)

    @staticmethod
    def _drop(tables: Tables, names: Sequence[str], published: Container[str]) -> None:
        for name in names:
            tables.run("DELETE FROM staged_arrays WHERE name=?", (name,))
            if name in published:
                tables.run("INSERT INTO staged_arrays(name) VALUES(?)", (name,))

    @contextlib.contextmanager
    def _changing(self) -> Iterator[Tables]:
        """A transaction, behind which the files that no row names any more are removed."""
        before = {file for file, _ in self._rows().values() if file}
        with self._staging.transaction() as tables:
            yield tables
        for file in before - {file for file, _ in self._rows().values()}:
            self._maps.pop(file, None)
            self._intact.discard(file)
            # Failing does no harm: publication removes the whole folder.
            with contextlib.suppress(OSError):
                (self._staging.folder / file).unlink(missing_ok=True)

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
            if members:
                name = group_file(generation, group)
                entries[name] = self._link(name, members) or self._write(
                    name, {each: self._map(file)[each] for each, file in members.items()}
                )
        return entries

    def _link(self, name: str, members: Mapping[str, str]) -> FileEntry | None:
        """Publish the one staged file that has the whole group, without writing it again.

        Returns:
            Its entry, or None if there is no such file or the file system has no hard links.
        """
        file = next(iter(members.values()))
        if set(members.values()) != {file} or self._map(file).keys() != members.keys():
            return None
        entry = next((entry for staged, entry in self._rows().values() if staged == file), None)
        if entry is None:
            return None
        path = self._new_file(name)
        try:
            path.unlink(missing_ok=True)
            path.hardlink_to(self._staging.folder / file)
        except (OSError, NotImplementedError):
            return None
        files.sync_folder(path.parent)
        return entry

    def _write(self, file: str, arrays: Mapping[str, np.ndarray]) -> FileEntry:
        path = self._new_file(file)
        found: list[FileEntry] = []
        files.write_atomically(path, lambda handle: found.append(write_container(handle, arrays)))
        self._maps.pop(file, None)
        self._intact.add(file)
        return found[0]

    def _new_file(self, file: str) -> Path:
        """The path of a file to be written, in a folder that is there."""
        path = self._staging.folder / file
        if not path.parent.exists():
            path.parent.mkdir()
            files.sync_folder(path.parent.parent)
        return path

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
