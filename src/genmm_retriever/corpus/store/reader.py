"""`IndexReader`: one published generation, for any number of readers."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from genmm_retriever.corpus.store import files
from genmm_retriever.corpus.store.adapters import StoredAdapter, adapter_among, adapter_files
from genmm_retriever.corpus.store.arrays import (
    gather,
    map_container,
    map_segment,
    row_bytes,
    segment_header,
)
from genmm_retriever.corpus.store.checksums import FileEntry
from genmm_retriever.corpus.store.database import Tables, connect_readonly
from genmm_retriever.corpus.store.fields import check_fields
from genmm_retriever.corpus.store.groups import array_files
from genmm_retriever.corpus.store.manifest import Manifest
from genmm_retriever.corpus.store.records import Description, IdentifierRecord, IndexSettings
from genmm_retriever.errors import IndexDamagedError, IndexStateError, InputError
from genmm_retriever.schema import Item, Kind, Scalar

_ATTEMPTS = 20


class IndexReader:
    """A published generation, opened read-only; later publications do not disturb it.

    But for embedded pictures: those of items that were deleted go with the second publication
    after, and a reader that is still at theirs raises `IndexStateError`.

    The database and the arrays are verified against their checksums on opening (files above
    1 GiB in size, header and sampled blocks, see `checksums`), feature rows and blobs when they
    are read. Methods may be called from several threads.

    Every method raises `IndexDamagedError`, naming the file, when a file does not hold what
    was written.
    """

    def __init__(
        self, folder: Path, manifest: Manifest, previous: IndexReader | None = None
    ) -> None:
        self.path = folder
        self._manifest = manifest
        base = files.generation_folder(manifest.generation)
        database = manifest.verify(folder, f"{base}/{files.ITEMS_FILE}")
        self._lock = threading.Lock()
        self._live: np.ndarray | None = None
        self._verified_blobs: set[str] = set()
        # First of all: once it is open, a later removal does no harm.
        self._tables = _opened(database, folder)
        try:
            self._containers = _map_containers(folder, manifest, previous)
            self._arrays = {n: a for arrays in self._containers.values() for n, a in arrays.items()}
            self._segments = _map_segments(folder, manifest)
        except BaseException:
            self._tables.connection.close()
            raise

    @classmethod
    def open(cls, path: str | Path, *, previous: IndexReader | None = None) -> IndexReader:
        """Open the present generation of an index.

        Args:
            path: The index folder.
            previous: An open reader of an earlier generation. The files of arrays that did
                not change since are shared with it (what one writes into an array, the other
                sees) and not verified again, so that opening does not cost the whole index.

        Raises:
            IndexNotFoundError: If there is no finished index.
            IndexVersionError: If a version of this package wrote it that keeps it otherwise.
            IndexDamagedError: If a file is missing, cut short or altered.
        """
        folder = Path(path).absolute()
        for _ in range(_ATTEMPTS):
            manifest = Manifest.read(folder)
            try:
                return cls(folder, manifest, previous)
            except IndexDamagedError:
                # Two publications since the manifest was read remove its files.
                if Manifest.stat(folder) == manifest.stamp:
                    raise
        raise IndexDamagedError(
            f"{folder} is published anew faster than it can be opened", "try again later"
        )

    def __enter__(self) -> IndexReader:
        """The reader itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """Let go of the files; harmless when called twice."""
        with self._lock:
            self._tables.connection.close()
            self._arrays = {}
            self._containers = {}
            self._segments = {}

    def _shareable(self) -> dict[str, tuple[FileEntry, dict[str, np.ndarray]]]:
        """The verified files of arrays, with what the manifest says of them."""
        with self._lock:
            known = self._manifest.files
            return {name: (known[name], arrays) for name, arrays in self._containers.items()}

    @contextlib.contextmanager
    def _reading(self) -> Iterator[Tables]:
        with self._lock:
            try:
                yield self._tables
            except sqlite3.ProgrammingError:
                raise
            except sqlite3.Error as error:
                raise self._tables.damaged(str(error)) from error

    @property
    def settings(self) -> IndexSettings:
        """How the index was made."""
        return self._manifest.settings

    @property
    def generation(self) -> int:
        """Number of the publication, from 1."""
        return self._manifest.generation

    def __len__(self) -> int:
        """Number of items."""
        return self._manifest.counts["items"]

    def counts(self) -> dict[str, int]:
        """Numbers of `items`, `images`, `texts` and `identifiers`."""
        return dict(self._manifest.counts)

    @property
    def adapter_digest(self) -> str | None:
        """What names the trained adapter, or None if there is none; see `adapter`."""
        return adapter_among(self._manifest.files)

    def adapter(self) -> StoredAdapter | None:
        """The trained adapter that belongs to the index's model, verified; None if there is none.

        The unconditional log-probabilities of the identifiers are those of the model with it.
        """
        digest = self.adapter_digest
        if digest is None:
            return None
        paths = [self._manifest.verify(self.path, name) for name in adapter_files(digest)]
        return StoredAdapter(paths[0].parent, digest)

    def is_stale(self) -> bool:
        """Whether another generation has been published since; costs one `stat`."""
        return Manifest.stat(self.path) not in (self._manifest.stamp, (0, 0, 0))

    def items(self, rows: Sequence[int]) -> list[Item]:
        """The items at the rows, in their order.

        Raises:
            InputError: If a row does not exist.
        """
        with self._reading() as tables:
            found = tables.items(rows)
        missing = {int(row) for row in rows} - set(found)
        if missing:
            raise InputError(f"the index has no row {min(missing)}")
        items = [found[int(row)] for row in rows]
        for item in items:
            self._verify_blob(item)
        return items

    def item(self, row: int) -> Item:
        """The item at a row."""
        return self.items([row])[0]

    def marks(self, rows: Sequence[int]) -> list[str]:
        """What is another one as soon as an item's picture, text, title or id is, by row.

        A picture's file counts by its size and time when it was taken in. Unlike rows, marks
        stay the same when the index is built anew.
        """
        with self._reading() as tables:
            found = tables.marks(rows)
        return [found[int(row)] for row in rows]

    def _verify_blob(self, item: Item) -> None:
        blobs = self.path / files.BLOBS
        if not isinstance(item.image, str) or item.image in self._verified_blobs:
            return
        if not item.image.startswith(str(blobs)):
            return
        path = Path(item.image)
        try:
            intact = files.file_sha256(path) == path.name
        except OSError as error:
            if self.is_stale():
                raise IndexStateError(
                    f"{path} belongs to an item that has been deleted since", "open the index again"
                ) from error
            raise IndexDamagedError(f"{path} is missing", files.DAMAGED_HINT) from error
        if not intact:
            raise IndexDamagedError(
                f"{path} is damaged: its checksum does not match", files.DAMAGED_HINT
            )
        self._verified_blobs.add(item.image)

    def row(self, item_id: str) -> int | None:
        """The row of an id, or None."""
        with self._reading() as tables:
            found = tables.run("SELECT row FROM items WHERE id=?", (item_id,)).fetchone()
        return None if found is None else int(found[0])

    def live_rows(self) -> np.ndarray:
        """All rows, ascending, int64; not to be written to."""
        if self._live is None:
            with self._reading() as tables:
                rows = tables.rows_where({}, None)
            rows.flags.writeable = False
            self._live = rows
        return self._live

    def select(
        self,
        filters: dict[str, Scalar | list[Scalar]] | None = None,
        kind: Kind | None = None,
        ids: Sequence[str] | None = None,
    ) -> np.ndarray | None:
        """Rows that fulfil every condition.

        Args:
            filters: Metadata. A list as condition means "one of"; an item whose metadata is a
                list matches when any of its values does. `1` equals `1.0` and not `True`; None
                matches an explicit null.
            kind: Only pictures, or only texts.
            ids: Only these items; ids that the index lacks are passed over.

        Returns:
            Rows, ascending, int64, or None if there is no condition (all rows).
        """
        if not filters and kind is None and ids is None:
            return None
        with self._reading() as tables:
            if ids is None:
                return tables.rows_where(filters or {}, kind)
            named = tables.rows_of(ids)
            if not filters and kind is None:
                return named
            return np.intersect1d(named, tables.rows_where(filters or {}, kind))

    def check_fields(self, filters: Mapping[str, Scalar | list[Scalar]]) -> None:
        """Refuse filters that no item can match; an empty index refuses none.

        It costs a few looks into the database's index for each field.

        Raises:
            QueryError: If no item has one of the fields, or none has a value of such a kind in it
                (text, number, true or false).
        """
        if filters and len(self):
            with self._reading() as tables:
                check_fields(tables, filters)

    def features(self, rows: Sequence[int]) -> np.ndarray | None:
        """Features of rows, `[n, ...]` half precision, or None if any row has none."""
        with self._reading() as tables:
            places = tables.feature_places(rows)
        shape = self._manifest.feature_shape
        if shape is None or not all(int(row) in places for row in rows):
            return None
        wanted = [places[int(row)] for row in rows]
        return gather(self.path, self._segments, wanted, shape)

    def descriptions(self, rows: Sequence[int]) -> list[list[Description]]:
        """Descriptions of rows, in their order; an empty list where there are none."""
        with self._reading() as tables:
            found = tables.descriptions(rows)
        return [found.get(int(row), []) for row in rows]

    def identifiers_of(self, rows: Sequence[int]) -> list[list[str]]:
        """Identifier texts of rows, in their order."""
        found: dict[int, list[str]] = {int(row): [] for row in rows}
        with self._reading() as tables:
            for record in tables.identifiers(rows):
                found[record.row].append(record.text)
        return [found[int(row)] for row in rows]

    def identifiers(self, rows: Sequence[int]) -> list[IdentifierRecord]:
        """Identifiers of rows, those of a row together, rows ascending."""
        with self._reading() as tables:
            return tables.identifiers(rows)

    def skipped(self) -> list[tuple[str, str]]:
        """Ids and reasons of what the build left out."""
        with self._reading() as tables:
            return tables.skipped()

    def array(self, name: str) -> np.ndarray:
        """A memory-mapped array; writing to it changes this process's copy only.

        Raises:
            InputError: If there is none of that name.
        """
        try:
            return self._arrays[name]
        except KeyError:
            raise InputError(f"the index has no array {name!r}") from None

    def arrays(self) -> list[str]:
        """Names of the arrays."""
        return sorted(self._arrays)

    def arrays_under(self, prefix: str) -> dict[str, np.ndarray]:
        """The arrays whose names begin so, by the rest of their names; see `array`."""
        names = [name for name in self.arrays() if name.startswith(prefix)]
        return {name.removeprefix(prefix): self.array(name) for name in names}

    def json(self, name: str) -> Any:
        """A JSON document.

        Raises:
            InputError: If there is none of that name.
        """
        with self._reading() as tables:
            found = tables.run("SELECT 1 FROM documents WHERE name=?", (name,)).fetchone()
            if found is not None:
                return tables.document(name)
        raise InputError(f"the index has no document {name!r}")

    def find_json(self, name: str) -> Any | None:
        """A JSON document, or None if there is none of that name."""
        with self._reading() as tables:
            return tables.document(name)


def _map_containers(
    folder: Path, manifest: Manifest, previous: IndexReader | None
) -> dict[str, dict[str, np.ndarray]]:
    """Arrays by file."""
    shared = {} if previous is None or previous.path != folder else previous._shareable()
    containers: dict[str, dict[str, np.ndarray]] = {}
    for name in array_files(manifest.files):
        entry, arrays = shared.get(name, (None, {}))
        same = entry == manifest.files[name]
        containers[name] = arrays if same else map_container(manifest.verify(folder, name))
    return containers


def _opened(database: Path, folder: Path) -> Tables:
    """A published database, opened and looked at once.

    Raises:
        IndexDamagedError: If it cannot be opened, or is no database.
    """
    connection = None
    try:
        connection = connect_readonly(database)
        tables = Tables(connection, database, folder)
        tables.meta("settings")
    except sqlite3.Error as error:
        if connection is not None:
            connection.close()
        raise IndexDamagedError(
            f"{database} is missing or damaged: {error}", files.DAMAGED_HINT
        ) from error
    return tables


def _map_segments(folder: Path, manifest: Manifest) -> dict[str, np.ndarray]:
    """Map all feature segments now, so that none can vanish under an old reader."""
    segments: dict[str, np.ndarray] = {}
    shape = manifest.feature_shape or ()
    for name, entry in manifest.files.items():
        if not name.startswith(f"{files.FEATURES}/"):
            continue
        path = folder / name
        segments[name] = rows = map_segment(path, shape)
        header = segment_header(len(rows), shape)
        try:
            with path.open("rb") as handle:
                intact = handle.read(len(header)) == header
        except OSError as error:
            raise IndexDamagedError(f"{path} is missing", files.DAMAGED_HINT) from error
        if not intact or entry.size != len(header) + len(rows) * row_bytes(shape):
            raise IndexDamagedError(f"{path} is cut short or altered", files.DAMAGED_HINT)
    return segments


def settings_of(path: str | Path) -> IndexSettings:
    """The settings of a finished index, from its manifest alone."""
    return Manifest.read(Path(path).absolute()).settings
