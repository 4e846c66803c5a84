"""`IndexWriter`: building and changing an index."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from genmm_retriever.corpus.store.adapters import (
    DOCUMENT,
    StoredAdapter,
    adapter_files,
    keep_adapter,
)
from genmm_retriever.corpus.store.checksums import verify_file
from genmm_retriever.corpus.store.database import (
    checksum,
    chunks,
    encode_descriptions,
    encode_identifier,
)
from genmm_retriever.corpus.store.features import Features
from genmm_retriever.corpus.store.publish import publish
from genmm_retriever.corpus.store.records import (
    Changes,
    Description,
    IdentifierRecord,
    IndexSettings,
    Stage,
    StageReport,
)
from genmm_retriever.corpus.store.stage import stage_items
from genmm_retriever.corpus.store.staged import Arrays
from genmm_retriever.corpus.store.staging import Staging, create, open_published, winners_sql
from genmm_retriever.errors import InputError
from genmm_retriever.schema import Item


class IndexWriter:
    """The one writer of an index; a context manager that holds its lock.

    Everything put is durable when the call returns, and invisible to readers until `publish`.
    A process that is killed loses at most the call in hand: `create` with the same settings
    (or `open`) goes on from there.

    Rows are integers that stay with an item for the life of the index; a replaced item gets a
    new row, and the old one is served until the new one is complete.

    Every method raises `StorageError` when the disk is full or cannot be written, and leaves
    what it had before; `IndexDamagedError` when a file does not hold what was written.

    Examples:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> settings = IndexSettings(model="builtin", model_fingerprint="0")
        >>> with IndexWriter.create(folder.name, settings) as writer:
        ...     report = writer.stage_items([Item(id="a", text="A dog runs.")])
        ...     [row] = writer.pending("identifiers")
        ...     writer.put_identifiers([IdentifierRecord(row, "animals, dog", (5, 6, 0))])
        ...     writer.publish()
        1
        >>> folder.cleanup()
    """

    def __init__(self, staging: Staging) -> None:
        self._staging = staging
        self._features = Features(staging)
        self._arrays = Arrays(staging)

    @classmethod
    def create(
        cls, path: str | Path, settings: IndexSettings, *, overwrite: bool = False
    ) -> IndexWriter:
        """Begin an index, go on with an unfinished one, or open a finished one.

        Args:
            path: Folder of the index, made if absent.
            settings: How the index is made.
            overwrite: Start from nothing. What is published is served until the new build
                is; an interrupted one is resumed by calling without `overwrite`.

        Raises:
            InputError: If the folder holds something else, or an index with other settings.
            IndexLockedError: If another writer is at work.
            StorageError: If the place cannot be written.
        """
        return cls(create(Path(path).absolute(), settings, overwrite=overwrite))

    @classmethod
    def open(cls, path: str | Path) -> IndexWriter:
        """Open a finished index to add, replace or delete items.

        Raises:
            IndexNotFoundError: If there is no finished index.
            IndexLockedError: If another writer is at work.
        """
        return cls(open_published(Path(path).absolute()))

    def __enter__(self) -> IndexWriter:
        """The writer itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close; nothing is published by this."""
        self.close()

    def close(self) -> None:
        """Release the lock; what is not published stays staged."""
        self._features.forget()
        self._arrays.forget()
        self._staging.close()

    @property
    def settings(self) -> IndexSettings:
        """How the index is made."""
        return self._staging.settings

    @property
    def path(self) -> Path:
        """The index folder."""
        return self._staging.folder

    def stage_items(
        self, items: Iterable[Item], *, replace: bool = False, only: bool = False
    ) -> StageReport:
        """Take in items, all or (on any error) none.

        Pictures given as bytes or `data:` URIs become files of the index; paths become
        absolute and are not copied.

        Args:
            items: The items; an id must not come twice.
            replace: Whether an id that the index has is replaced when its content (for a
                picture also its file's size or time) differs. Equal items stay as they are.
            only: Whether items that interrupted work staged, that no reader has seen and that
                are not among these are dropped.

        Raises:
            DuplicateIdError: If an id comes twice, or exists with other content and `replace`
                is false; both are named.
        """
        return stage_items(self._staging, items, replace=replace, only=only)

    def pending(self, stage: Stage) -> list[int]:
        """Rows that lack a stage, ascending; for `"features"` only rows with a picture."""
        kind = "AND i.kind = 'image'" if stage == "features" else ""
        sql = (
            f"SELECT i.row FROM items i WHERE NOT EXISTS (SELECT 1 FROM {stage} s "
            "WHERE s.row = i.row) AND NOT EXISTS (SELECT 1 FROM items o WHERE o.id = i.id "
            f"AND o.row > i.row) {kind} ORDER BY i.row"
        )
        with self._staging.errors():
            return [row for (row,) in self._staging.tables.run(sql)]

    def live_rows(self) -> np.ndarray:
        """Rows that `publish` would publish now, ascending, int64."""
        with self._staging.errors():
            found = self._staging.tables.run(winners_sql("identifiers"))
            return np.sort(np.fromiter((row for (row,) in found), dtype=np.int64))

    def items(self, rows: Sequence[int]) -> list[Item]:
        """The items at the rows, in their order."""
        with self._staging.errors():
            found = self._staging.tables.items(rows)
        self._require(rows, found)
        return [found[int(row)] for row in rows]

    def put_features(self, rows: Sequence[int], array: np.ndarray) -> None:
        """Keep features of rows.

        Args:
            rows: `n` rows.
            array: `[n, ...]`, kept in half precision; one shape per row for the whole index.

        Raises:
            InputError: If a row does not exist, the shape is another one than before, or a
                value is not finite in half precision.
        """
        self._require(rows, self._existing(rows))
        self._features.put(rows, array)

    def features(self, rows: Sequence[int]) -> np.ndarray | None:
        """Features of rows, `[n, ...]` half precision, or None if any row has none."""
        return self._features.get(rows)

    def put_descriptions(self, descriptions: Mapping[int, Sequence[Description]]) -> None:
        """Keep the descriptions of rows, in place of those they had."""
        rows = list(descriptions)
        self._require(rows, self._existing(rows))
        values = []
        for row, texts in descriptions.items():
            payload = encode_descriptions(texts)
            values.append((int(row), payload, checksum(payload)))
        with self._staging.transaction() as tables:
            sql = "INSERT OR REPLACE INTO descriptions VALUES(?, ?, ?)"
            tables.connection.executemany(sql, values)

    def descriptions(self, rows: Sequence[int]) -> list[list[Description]]:
        """Descriptions of rows, in their order; an empty list where there are none."""
        with self._staging.errors():
            found = self._staging.tables.descriptions(rows)
        return [found.get(int(row), []) for row in rows]

    def put_identifiers(self, records: Sequence[IdentifierRecord]) -> None:
        """Keep the identifiers of the rows that occur in `records`, in place of those they had."""
        rows = sorted({int(record.row) for record in records})
        self._require(rows, self._existing(rows))
        with self._staging.transaction() as tables:
            for marks, part in chunks(rows):
                tables.run(f"DELETE FROM identifiers WHERE row IN {marks}", part)
            tables.connection.executemany(
                "INSERT INTO identifiers VALUES(?, ?, ?, ?, ?, ?)",
                [(int(r.row), n, *encode_identifier(r)) for n, r in enumerate(records)],
            )

    def identifiers(self, rows: Sequence[int] | None = None) -> list[IdentifierRecord]:
        """Identifiers by row; by default of all rows that `publish` would publish."""
        if rows is None:
            rows = self.live_rows().tolist()
        with self._staging.errors():
            return self._staging.tables.identifiers(rows)

    def known_identifiers(self) -> set[str]:
        """Texts of all identifiers that are kept, those of rows included that others replace."""
        with self._staging.errors():
            rows = self._staging.tables.run("SELECT DISTINCT row FROM identifiers").fetchall()
            found = self._staging.tables.identifiers([row for (row,) in rows])
        return {record.text for record in found}

    def clear_identifiers(self, rows: Sequence[int] | None = None) -> None:
        """Drop the identifiers of rows, by default all."""
        with self._staging.transaction() as tables:
            if rows is None:
                tables.run("DELETE FROM identifiers")
                return
            for marks, part in chunks(rows):
                tables.run(f"DELETE FROM identifiers WHERE row IN {marks}", part)

    def skip(self, row: int, reason: str) -> None:
        """Leave out an item, for example a broken picture, and remember why."""
        self._require([row], self._existing([row]))
        row = int(row)
        with self._staging.transaction() as tables:
            tables.run("DELETE FROM skipped WHERE id = (SELECT id FROM items WHERE row=?)", (row,))
            tables.run(
                "INSERT INTO skipped SELECT row, id, stamp, payload, ? FROM items WHERE row=?",
                (reason.encode("utf-8", "backslashreplace").decode(), row),
            )
            tables.drop([row])

    def skipped(self) -> list[tuple[str, str]]:
        """Ids and reasons of what was left out."""
        with self._staging.errors():
            return self._staging.tables.skipped()

    def put_array(self, name: str, array: np.ndarray) -> None:
        """Publish one array; see `put_arrays`."""
        self._arrays.put({name: array})

    def put_arrays(
        self, arrays: Mapping[str, np.ndarray], *, replacing: Sequence[str] = ()
    ) -> None:
        """Publish arrays with the next generation; they stay until put again or dropped.

        Arrays whose names are equal up to the last `/` are a group and share a file, which is
        made anew when any of them changes; a group that comes whole in one call is written
        once, otherwise again at publication. An equal array changes nothing; that is found by
        reading it, and without reading when it is the one that `array` gave with
        `writeable=False`.

        Args:
            arrays: By name.
            replacing: Prefixes whose other arrays are dropped in the same step, so that work
                which is killed never leaves some of the old beside some of the new.

        Raises:
            InputError: If a name or a type cannot be kept; then nothing is.
        """
        self._arrays.put(arrays, replacing)

    def array(self, name: str, *, writeable: bool = True) -> np.ndarray | None:
        """An array as the next generation will have it, or None.

        Args:
            name: Its name.
            writeable: Whether the memory map may be written to, which changes no file.
        """
        with self._staging.errors():
            return self._arrays.get(name, writeable=writeable)

    def arrays(self) -> list[str]:
        """Names of the arrays that the next generation will have."""
        with self._staging.errors():
            return self._arrays.names()

    def arrays_under(self, prefix: str) -> dict[str, np.ndarray]:
        """The arrays whose names begin so, by the rest of their names.

        Their maps are read-only: they are known again, and not written, when they are put.
        """
        found = {}
        for name in self.arrays():
            if name.startswith(prefix):
                array = self.array(name, writeable=False)
                assert array is not None
                found[name.removeprefix(prefix)] = array
        return found

    def drop_arrays(self, prefix: str) -> int:
        """Leave the arrays whose names begin so out of the next generation.

        Returns:
            How many there were.
        """
        return self._arrays.drop(prefix)

    def put_json(self, name: str, value: Any) -> None:
        """Publish a JSON document with the next generation; it stays until put again."""
        payload = json.dumps(value, sort_keys=True)
        if self._staging.tables.document(name) == json.loads(payload):
            return
        with self._staging.transaction() as tables:
            sql = "INSERT OR REPLACE INTO documents VALUES(?, ?, ?)"
            tables.run(sql, (name, payload, checksum(payload)))

    def json(self, name: str) -> Any | None:
        """A JSON document as the next generation will have it, or None."""
        with self._staging.errors():
            return self._staging.tables.document(name)

    def put_adapter(self, folder: Path) -> str:
        """Publish a PEFT folder with the next generation; it stays until put again.

        Identifiers are scored with the adapted model, so whoever puts one scores them all anew
        and calls `provisional` before.

        Returns:
            What names it; see `StoredAdapter`.
        """
        with self._staging.errors():
            digest = keep_adapter(self.path, folder)
        self.put_json(DOCUMENT, digest)
        return digest

    def adapter(self) -> StoredAdapter | None:
        """The adapter that the next generation will have, verified as far as it is published."""
        digest = self.json(DOCUMENT)
        if digest is None:
            return None
        known = self._staging.manifest.files if self._staging.manifest is not None else {}
        for name in adapter_files(digest):
            if name in known:
                verify_file(self.path / name, known[name])
        return StoredAdapter((self.path / adapter_files(digest)[0]).parent, digest)

    def provisional(self) -> None:
        """Have what is staged, now and from here on, count only if this writer publishes it.

        Otherwise the next writer begins with what is published. For changes that are wrong by
        halves, such as scores of one model beside those of another.
        """
        with self._staging.transaction():
            self._staging.set_meta("provisional", 1)

    def delete(self, ids: Iterable[str]) -> int:
        """Drop items, also from what is staged; readers see it after `publish`.

        Returns:
            The number of items dropped.

        Raises:
            InputError: If an id is unknown; then nothing is dropped.
        """
        if not isinstance(ids, Iterable):
            raise InputError(f"the ids are {ids!r}", "give an id, or several; nothing was deleted")
        count = 0
        with self._staging.transaction() as tables:
            for each in [ids] if isinstance(ids, str) else dict.fromkeys(ids):
                rows = [r for (r,) in tables.run("SELECT row FROM items WHERE id=?", (each,))]
                dropped = tables.run("DELETE FROM skipped WHERE id=?", (each,)).rowcount
                if not rows and not dropped:
                    raise InputError(f"the index has no item {each!r}", "nothing was deleted")
                count += bool(rows)
                tables.drop(rows)
        return count

    def changes(self) -> Changes:
        """What `publish` would change for readers now, whichever writer staged it."""
        with self._staging.errors():
            return self._staging.changes("identifiers")

    def publish(self, *, require: Stage | None = "identifiers") -> int:
        """Make everything complete visible to readers, as one new generation.

        Args:
            require: The stage a row must have; others stay staged. None publishes all.

        Returns:
            The generation's number; the present one if nothing has changed.
        """
        self._features.compact()
        generation = publish(self._staging, self._arrays, require)
        self._features.forget()
        self._arrays.settle()
        return generation

    def _existing(self, rows: Sequence[int]) -> set[int]:
        found: set[int] = set()
        with self._staging.errors():
            for marks, part in chunks(rows):
                sql = f"SELECT row FROM items WHERE row IN {marks}"
                found.update(row for (row,) in self._staging.tables.run(sql, part))
        return found

    def _require(self, rows: Sequence[int], found: Iterable[int]) -> None:
        missing = {int(row) for row in rows} - set(found)
        if missing:
            raise InputError(f"the index has no row {min(missing)}")
