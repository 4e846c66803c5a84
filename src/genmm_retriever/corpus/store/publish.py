"""Publication: from the work database to a generation that readers see, atomically."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path

from genmm_retriever.corpus.store import files
from genmm_retriever.corpus.store.adapters import DOCUMENT, adapter_files
from genmm_retriever.corpus.store.arrays import finish_segment
from genmm_retriever.corpus.store.checksums import FileEntry, file_entry
from genmm_retriever.corpus.store.database import ROW_TABLES, TABLES, Tables, connect_readonly
from genmm_retriever.corpus.store.manifest import Manifest
from genmm_retriever.corpus.store.records import Stage
from genmm_retriever.corpus.store.staged import Arrays
from genmm_retriever.corpus.store.staging import Staging, unsettled, winners_sql
from genmm_retriever.errors import GenmmError


def publish(staging: Staging, arrays: Arrays, require: Stage | None) -> int:
    """Publish all complete rows as the next generation.

    Nothing that readers use is touched before the manifest is replaced, and that is atomic.

    Returns:
        The number of the generation.

    Raises:
        IndexStateError: If an earlier publication of this writer succeeded and could not be
            put away: it would be written over, under its readers.
    """
    old = staging.manifest
    if old is not None and not staging.fresh and not staging.number("changes"):
        return old.generation
    folder, generation = staging.folder, staging.base + 1
    if staging.unsettled or _is_current(folder, generation):
        raise unsettled(folder)
    place = folder / files.generation_folder(generation)
    with staging.errors():
        try:
            _finish_segment(staging, generation)
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
            counts = _write_items(staging.tables, place / files.ITEMS_FILE, require)
            entries = arrays.write_groups(generation)
            manifest = _manifest(staging, generation, counts, entries)
            for each in (place, place.parent, folder):
                files.sync_folder(each)
            staging.set_meta("publishing", json.dumps([generation, require]))
            manifest.write(folder)
        except BaseException:
            # A failure behind the rename is a success: readers see the new generation.
            if not _is_current(folder, generation):
                shutil.rmtree(place, ignore_errors=True)
                for path in (folder / files.ARRAYS).glob(f"{generation:06d}-*"):
                    _remove(path)
                raise
        try:
            staging.settle(generation, require)
        except BaseException:
            staging.unsettled = True
            raise
        _collect_garbage(staging, old)
    return generation


def _is_current(folder: Path, generation: int) -> bool:
    with contextlib.suppress(GenmmError):
        return Manifest.read(folder).generation == generation
    return False


def _finish_segment(staging: Staging, generation: int) -> None:
    """Close the segment that this work has filled, if any."""
    name = files.segment_name(generation)
    sql = "SELECT max(position) + 1 FROM features WHERE segment=?"
    (rows,) = staging.tables.run(sql, (name,)).fetchone()
    if rows:
        shape = json.loads(staging.tables.meta("feature_shape") or "[]")
        finish_segment(staging.folder / name, rows, shape)
        files.sync_folder((staging.folder / name).parent)


def _write_items(tables: Tables, path: Path, require: Stage | None) -> dict[str, int]:
    """Write the database of a generation and count what is in it."""
    run = tables.run
    run("ATTACH ? AS out", (str(path),))
    try:
        # The file is synced as a whole below, and thrown away after a crash.
        run("PRAGMA out.journal_mode=OFF")
        run("PRAGMA out.synchronous=OFF")
        for statement in TABLES.split(";"):
            if statement.strip():
                run(
                    statement.replace("TABLE IF NOT EXISTS ", "TABLE out.").replace(
                        "INDEX IF NOT EXISTS ", "INDEX out."
                    )
                )
        run("BEGIN")
        run("CREATE TEMP TABLE winners(row INTEGER PRIMARY KEY)")
        run(f"INSERT INTO winners {winners_sql(require)}")
        for name in ROW_TABLES:
            order = "row, n" if name == "identifiers" else "row"
            order = "key, value, row" if name == "metadata" else order
            run(
                f"INSERT INTO out.{name} SELECT * FROM main.{name} "
                f"WHERE row IN (SELECT row FROM winners) ORDER BY {order}"
            )
        run("INSERT INTO out.skipped SELECT * FROM main.skipped ORDER BY row")
        run("INSERT INTO out.documents SELECT * FROM main.documents ORDER BY name")
        run(
            "INSERT INTO out.meta SELECT * FROM main.meta "
            "WHERE key IN ('settings', 'feature_shape', 'next_row')"
        )
        run("DROP TABLE winners")
        run("COMMIT")
        counts = {
            "items": "SELECT count(*) FROM out.items",
            "images": "SELECT count(*) FROM out.items WHERE kind='image'",
            "texts": "SELECT count(*) FROM out.items WHERE kind='text'",
            "identifiers": "SELECT count(*) FROM out.identifiers",
        }
        result = {name: int(run(sql).fetchone()[0]) for name, sql in counts.items()}
    except BaseException:
        if tables.connection.in_transaction:
            run("ROLLBACK")
        raise
    finally:
        run("DETACH out")
    files.sync_file(path)
    return result


def _manifest(
    staging: Staging, generation: int, counts: dict[str, int], arrays: dict[str, FileEntry]
) -> Manifest:
    folder = staging.folder
    base = files.generation_folder(generation)
    database = Tables(connect_readonly(folder / base / files.ITEMS_FILE), folder / base, folder)
    with contextlib.closing(database.connection):
        segments = [n for (n,) in database.run("SELECT DISTINCT segment FROM features")]
        shape = json.loads(database.meta("feature_shape") or "null") if segments else None
    known = staging.manifest.files if staging.manifest is not None else {}
    entries = dict(arrays)
    adapter = staging.tables.document(DOCUMENT)
    adapted = adapter_files(adapter) if adapter else []
    for name in (f"{base}/{files.ITEMS_FILE}", *segments, *adapted):
        entries[name] = known[name] if name in known else file_entry(folder / name)
    return Manifest(generation, staging.settings, counts, tuple(shape) if shape else None, entries)


def _collect_garbage(staging: Staging, old: Manifest | None) -> None:
    """Remove what neither this generation nor the one before it uses.

    The one before stays because a reader may be about to open it. Failing is no fault: the
    next publication tries again.
    """
    folder, new = staging.folder, staging.manifest
    if new is None:
        return
    keep = set(new.files) | set(old.files if old else ())
    keep |= {name for (name,) in staging.tables.run("SELECT DISTINCT segment FROM features")}
    keep |= {files.generation_folder(m.generation) for m in (new, old) if m}
    keep |= {name.rpartition("/")[0] for name in keep if name.startswith(f"{files.ADAPTER}/")}
    if (folder / files.BLOBS).is_dir():
        keep |= {f"{files.BLOBS}/{name}" for name in _used_blobs(staging, old)}
    for kind in (files.GENERATIONS, files.ARRAYS, files.FEATURES, files.BLOBS, files.ADAPTER):
        with contextlib.suppress(OSError):
            for path in (folder / kind).iterdir():
                if f"{kind}/{path.name}" not in keep:
                    _remove(path)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


def _used_blobs(staging: Staging, old: Manifest | None) -> set[str]:
    used = blob_names(staging.tables)
    if old is not None:
        path = staging.folder / files.generation_folder(old.generation) / files.ITEMS_FILE
        if path.exists():
            with contextlib.closing(connect_readonly(path)) as connection:
                used |= blob_names(Tables(connection, path, staging.folder))
    return used


def blob_names(tables: Tables) -> set[str]:
    """Names of the blobs that items refer to, skipped ones included."""
    names: set[str] = set()
    for table in ("items", "skipped"):
        sql = f'SELECT payload FROM {table} WHERE payload LIKE \'%"image":{{"blob":%\''
        for (payload,) in tables.run(sql):
            image = json.loads(payload).get("image")
            if isinstance(image, dict):
                names.add(str(image["blob"]))
    return names
