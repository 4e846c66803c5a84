"""The writer's durable work in progress: where it comes from and when it counts."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from genmm_retriever.corpus.store import files
from genmm_retriever.corpus.store.beforehand import check_settings
from genmm_retriever.corpus.store.database import Tables, connect_work
from genmm_retriever.corpus.store.lock import WriterLock
from genmm_retriever.corpus.store.manifest import (
    SCHEMA_VERSION,
    Manifest,
    is_index_folder,
    older_version,
)
from genmm_retriever.corpus.store.records import Changes, IndexSettings, Stage
from genmm_retriever.errors import (
    IndexDamagedError,
    IndexNotFoundError,
    IndexStateError,
    IndexVersionError,
    InputError,
)

_MARK_PUBLISHED = (
    "INSERT OR REPLACE INTO meta "
    "SELECT 'published_row', coalesce((SELECT value FROM meta WHERE key = 'next_row'), '0')"
)


def winners_sql(require: Stage | None) -> str:
    """SQL for the rows that a publication takes: of each id the newest complete row.

    So a replaced item stays served until its new row is complete.
    """
    complete = f"WHERE EXISTS (SELECT 1 FROM {require} r WHERE r.row = i.row)" if require else ""
    return f"SELECT max(i.row) AS row FROM items i {complete} GROUP BY i.id"


def unsettled(folder: Path) -> IndexStateError:
    """The error where a publication succeeded and the work behind it could not be put away."""
    return IndexStateError(
        f"the index {str(folder)!r} was published, but this writer could not finish after it",
        "open the index again: what was published is there, and the rest is put in order",
    )


class Staging:
    """An open work database, under the lock.

    Args:
        folder: The index folder.
        lock: Its lock, released by `close`.
        manifest: What is published now, or None.
        connection: The open `staging/work.sqlite`.

    Attributes:
        unsettled: Whether a publication has not been put away: nothing may be staged or
            published on its old base.
    """

    def __init__(
        self,
        folder: Path,
        lock: WriterLock,
        manifest: Manifest | None,
        connection: sqlite3.Connection,
    ) -> None:
        self.folder = folder
        self.manifest = manifest
        self.tables = Tables(connection, folder / files.WORK, folder)
        self.unsettled = False
        self._lock = lock
        with self.errors():
            settings = self.tables.meta("settings")
            if settings is None:
                raise self.tables.damaged("it has no settings")
            if self.number("schema_version") < SCHEMA_VERSION:
                raise older_version(self.tables.path, self.number("schema_version"))
            self.settings = IndexSettings.model_validate_json(settings)

    @property
    def base(self) -> int:
        """The generation that this work started from; 0 for none."""
        return self.number("base_generation")

    @property
    def fresh(self) -> bool:
        """Whether this work takes nothing over from the published generation."""
        return self.tables.meta("fresh") == "1"

    def number(self, key: str) -> int:
        """A counter of the `meta` table."""
        return int(self.tables.meta(key, "0") or 0)

    def set_meta(self, key: str, value: object) -> None:
        """Set a value of the `meta` table."""
        self.tables.run("INSERT OR REPLACE INTO meta VALUES(?, ?)", (key, str(value)))

    def errors(self) -> contextlib.AbstractContextManager[None]:
        """Translation of system errors for this index."""
        return files.storage_errors(self.folder)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Tables]:
        """All or nothing, durable at the end; counts as a change to be published.

        Raises:
            IndexStateError: If a publication has not been put away.
        """
        if self.unsettled:
            raise unsettled(self.folder)
        with self.errors():
            self.tables.run("BEGIN IMMEDIATE")
            try:
                yield self.tables
                self.set_meta("changes", self.number("changes") + 1)
                self.tables.run("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self.tables.run("ROLLBACK")
                raise

    def settle(self, generation: int, require: Stage | None) -> None:
        """Make a publication the new base: drop what it superseded, count changes anew."""
        self.manifest = Manifest.read(self.folder)
        with self.transaction() as tables:
            tables.run("CREATE TEMP TABLE settled(row INTEGER PRIMARY KEY)")
            tables.run(f"INSERT INTO settled {winners_sql(require)}")
            old = (
                "SELECT o.row FROM items o WHERE EXISTS (SELECT 1 FROM settled s "
                "JOIN items w ON w.row = s.row WHERE w.id = o.id AND w.row > o.row)"
            )
            tables.run(f"CREATE TEMP TABLE superseded AS {old}")
            for name in ("metadata", "features", "descriptions", "identifiers", "items"):
                tables.run(f"DELETE FROM {name} WHERE row IN (SELECT row FROM superseded)")
            tables.run("DROP TABLE settled")
            tables.run("DROP TABLE superseded")
            self.set_meta("base_generation", generation)
            self.set_meta("fresh", 0)
            tables.run(_MARK_PUBLISHED)
            tables.run("DELETE FROM staged_arrays")
            tables.run("DELETE FROM meta WHERE key='provisional'")
            self.set_meta("changes", -1)
        shutil.rmtree(self.folder / files.STAGED_ARRAYS, ignore_errors=True)

    def changes(self, require: Stage | None) -> Changes:
        """What publishing now would change, whichever call staged it."""
        new = f"FROM ({winners_sql(require)}) w JOIN items i ON i.row = w.row"
        count = self.tables.run
        if self.manifest is None or self.fresh:
            (added,) = count(f"SELECT count(*) {new}").fetchone()
            (skipped,) = count("SELECT count(*) FROM skipped").fetchone()
            return Changes(added, 0, skipped)
        base = files.generation_folder(self.manifest.generation)
        count("ATTACH ? AS seen", (str(self.folder / base / files.ITEMS_FILE),))
        try:
            others = f"{new} WHERE i.row NOT IN (SELECT row FROM seen.items)"
            known = "AND EXISTS (SELECT 1 FROM seen.items s WHERE s.id = i.id)"
            (both,) = count(f"SELECT count(*) {others}").fetchone()
            (replaced,) = count(f"SELECT count(*) {others} {known}").fetchone()
            left_out = "FROM skipped WHERE row NOT IN (SELECT row FROM seen.skipped)"
            (skipped,) = count(f"SELECT count(*) {left_out}").fetchone()
        finally:
            count("DETACH seen")
        return Changes(both - replaced, replaced, skipped)

    def is_published(self) -> bool:
        """Whether a reader sees everything that is here."""
        if self.manifest is None or self.number("changes"):
            return False
        (items,) = self.tables.run("SELECT count(*) FROM items").fetchone()
        return bool(items == self.manifest.counts["items"])

    def is_empty(self) -> bool:
        """Whether nothing was ever published or kept, as after a source that was refused."""
        return self.manifest is None and not self.number("changes")

    def close(self) -> None:
        """Close; remove the working files if all is published, or if there is nothing."""
        try:
            with contextlib.suppress(sqlite3.Error):
                done = self.is_published() or self.is_empty()
                self.tables.connection.close()
                if done:
                    shutil.rmtree(self.folder / files.STAGING, ignore_errors=True)
        finally:
            self.tables.connection.close()
            self._lock.release()


def _claim(folder: Path) -> WriterLock:
    """Lock a folder that is an index, empty or absent.

    Raises:
        InputError: If it holds something else; nothing of it is touched.
    """
    with files.storage_errors(folder):
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{str(folder)!r} is a file", "name a folder for the index")
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()) and not is_index_folder(folder):
            raise InputError(
                f"{str(folder)!r} is not empty and is not an index",
                "name a new or empty folder; nothing was changed",
            )
        return WriterLock(folder)


def _make_work(
    folder: Path, settings: IndexSettings, source: Path | None, base: int, fresh: bool
) -> None:
    """Write a new work database, whole or not at all, from a published one or empty."""
    final = folder / files.WORK
    final.parent.mkdir(exist_ok=True)
    temporary = final.with_name("new.sqlite")
    temporary.unlink(missing_ok=True)
    temporary.with_name("new.sqlite-journal").unlink(missing_ok=True)
    if source is not None:
        shutil.copyfile(source, temporary)
    connection = connect_work(temporary)
    try:
        connection.execute("BEGIN")
        values = {
            "settings": settings.model_dump_json(),
            "base_generation": str(base),
            "fresh": str(int(fresh)),
            "changes": "0",
            "schema_version": str(SCHEMA_VERSION),
        }
        connection.executemany("INSERT OR REPLACE INTO meta VALUES(?, ?)", values.items())
        if source is not None:
            connection.execute(_MARK_PUBLISHED)
        connection.execute("COMMIT")
    finally:
        connection.close()
    files.sync_file(temporary)
    temporary.with_name("new.sqlite-journal").unlink(missing_ok=True)
    temporary.replace(final)
    files.sync_folder(final.parent)
    files.sync_folder(folder)


def _from_published(folder: Path, manifest: Manifest) -> None:
    base = files.generation_folder(manifest.generation)
    source = manifest.verify(folder, f"{base}/{files.ITEMS_FILE}", full=True)
    _make_work(folder, manifest.settings, source, manifest.generation, fresh=False)


def _open_work(folder: Path, lock: WriterLock, manifest: Manifest | None) -> Staging:
    connection = connect_work(folder / files.WORK)
    try:
        return Staging(folder, lock, manifest, connection)
    except BaseException:
        connection.close()
        raise


def _resume(folder: Path, lock: WriterLock, manifest: Manifest | None) -> Staging:
    """Open the work database that is there and bring it in line with what is published."""
    staging = _open_work(folder, lock, manifest)
    try:
        return _reconciled(staging, lock)
    except BaseException:
        staging.tables.connection.close()
        raise


def _reconciled(staging: Staging, lock: WriterLock) -> Staging:
    folder, manifest = staging.folder, staging.manifest
    if staging.tables.run("PRAGMA quick_check(1)").fetchone() != ("ok",):
        raise staging.tables.damaged("SQLite finds its structure broken")
    current = manifest.generation if manifest else 0
    provisional = manifest is not None and staging.tables.meta("provisional") == "1"
    if current == staging.base and not provisional:
        return staging
    if manifest is None and staging.fresh:
        # It takes nothing over, so what it replaces need not be there.
        return staging
    publishing = json.loads(staging.tables.meta("publishing") or "[0, null]")
    if current == staging.base + 1 == publishing[0]:
        # The process died behind the rename.
        staging.settle(current, publishing[1])
        return staging
    staging.tables.connection.close()
    if manifest is None:
        raise IndexDamagedError(f"{folder / files.MANIFEST} is missing", files.DAMAGED_HINT)
    shutil.rmtree(folder / files.STAGING)
    _from_published(folder, manifest)
    return _open_work(folder, lock, manifest)


def _newest_generation(folder: Path) -> int:
    names = [path.name for path in (folder / files.GENERATIONS).glob("[0-9]*")]
    return max((int(name) for name in names if name.isdecimal()), default=0)


def create(folder: Path, settings: IndexSettings, *, overwrite: bool) -> Staging:
    """Begin, resume or redo a build; see `IndexWriter.create`."""
    lock = _claim(folder)
    try:
        with files.storage_errors(folder):
            manifest = _read_manifest(folder, tolerant=overwrite)
            if overwrite:
                base = manifest.generation if manifest else _newest_generation(folder)
                shutil.rmtree(folder / files.STAGING, ignore_errors=True)
                _make_work(folder, settings, None, base, fresh=True)
                return _open_work(folder, lock, manifest)
            if not (folder / files.WORK).exists():
                if manifest is None:
                    _make_work(folder, settings, None, 0, fresh=True)
                else:
                    _from_published(folder, manifest)
            staging = _resume(folder, lock, manifest)
    except BaseException:
        lock.release()
        raise
    try:
        check_settings(folder, staging.settings, settings)
    except InputError:
        staging.close()
        raise
    return staging


def open_published(folder: Path) -> Staging:
    """Open a finished index for changes; see `IndexWriter.open`."""
    Manifest.read(folder)
    lock = _claim(folder)
    try:
        with files.storage_errors(folder):
            manifest = Manifest.read(folder)
            if not (folder / files.WORK).exists():
                _from_published(folder, manifest)
            staging = _resume(folder, lock, manifest)
    except BaseException:
        lock.release()
        raise
    if staging.fresh:
        staging.close()
        raise IndexStateError(
            f"the index at {str(folder)!r} is in the middle of being built anew",
            "run that `genmm index` command again without --overwrite to finish it",
        )
    return staging


def _read_manifest(folder: Path, *, tolerant: bool) -> Manifest | None:
    try:
        return Manifest.read(folder)
    except IndexNotFoundError:
        return None
    except (IndexDamagedError, IndexVersionError):
        if tolerant:
            return None
        raise
