"""Processes that are killed, disks that are full, files that are altered."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from genmm_retriever.corpus.store import IndexReader, IndexWriter, check_index, files
from genmm_retriever.corpus.store.manifest import SCHEMA_VERSION, Manifest
from genmm_retriever.corpus.store.staging import Staging
from genmm_retriever.errors import (
    IndexDamagedError,
    IndexStateError,
    IndexVersionError,
    StorageError,
)
from genmm_retriever.schema import Item

posix = pytest.mark.skipif(sys.platform == "win32", reason="uses POSIX signals or limits")


def contents(folder):
    """All that a reader can see, for comparison."""
    with IndexReader.open(folder) as reader:
        rows = reader.live_rows()
        pictures = reader.select({}, "image")
        items = [i.model_dump(exclude={"image"}) for i in reader.items(rows)]
        blobs = [Path(i.image).read_bytes() for i in reader.items(pictures)]
        return (
            rows.tolist(),
            items,
            blobs,
            reader.descriptions(rows),
            reader.identifiers_of(rows),
            reader.features(pictures).tolist(),
            {name: reader.array(name).tolist() for name in reader.arrays()},
            reader.json("scheme"),
            reader.counts(),
        )


def start(builder, *words):
    return subprocess.Popen(
        [sys.executable, builder.__file__, *map(str, words)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )


@pytest.fixture(scope="module")
def expected(builder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("expected") / "index"
    builder.run(folder)
    return contents(folder)


@posix
def test_killed_at_random_and_resumed_it_ends_with_the_same_index(tmp_path, builder, expected):
    generator = random.Random()
    folder = tmp_path / "killed"
    for _ in range(8):
        process = start(builder, folder, "run", 0.01)
        while process.poll() is None and not (folder / "writer.lock").exists():
            time.sleep(0.005)
        try:
            assert process.wait(timeout=0.3 + generator.random()) == 0
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
        if (folder / "manifest.json").exists():
            assert check_index(folder) == []
            with IndexReader.open(folder) as reader:
                assert len(reader) >= 24
    builder.run(folder)
    assert contents(folder) == expected
    assert check_index(folder) == []


@posix
@pytest.mark.parametrize(
    "step",
    [0, 2, 5, 14, 58, 66, 84, 93, 105, 111, 112, 113, 141, 151, 155, 158, 164, 166, 196],
)
def test_killed_at_a_file_operation_and_resumed(tmp_path, builder, expected, step):
    folder = tmp_path / "x"
    assert start(builder, folder, "die", step).wait() == -signal.SIGKILL
    if (folder / "manifest.json").exists():
        assert check_index(folder) == []
        contents(folder)
    builder.run(folder)
    assert contents(folder) == expected
    assert check_index(folder) == []


def test_work_before_a_kill_is_kept(tmp_path, builder):
    folder = tmp_path / "x"
    with IndexWriter.create(folder, builder.SETTINGS) as writer:
        writer.stage_items(builder.item(n) for n in range(8))
        writer.put_features([0, 2], np.stack([builder.feature(0), builder.feature(2)]))
    # What a killed process left behind the last durable row does no harm.
    with (folder / files.segment_name(1)).open("ab") as segment:
        segment.write(b"half a row")
    with IndexWriter.create(folder, builder.SETTINGS) as writer:
        assert writer.pending("features") == [4, 6]
        builder.fill(writer)
        writer.publish()
    with IndexReader.open(folder) as reader:
        rows = [0, 2, 4, 6]
        assert np.array_equal(reader.features(rows), [builder.feature(row) for row in rows])


def published(folder):
    return sorted(
        path for path in folder.rglob("*") if path.is_file() and path.name != "writer.lock"
    )


def use_all(folder):
    contents(folder)


def test_a_flipped_byte_in_any_file_is_found(index, builder):
    generator = random.Random(1)
    for path in published(index):
        original = path.read_bytes()
        relative = path.relative_to(index).as_posix()
        places = {0, len(original) - 1, *(generator.randrange(len(original)) for _ in range(12))}
        for place in places:
            altered = bytearray(original)
            altered[place] ^= 1 << generator.randrange(8)
            path.write_bytes(bytes(altered))
            with pytest.raises(IndexStateError) as caught:
                use_all(index)
            assert isinstance(caught.value, (IndexDamagedError, IndexVersionError))
            assert path.name in str(caught.value)
            assert "\n" not in str(caught.value)
            assert relative in {problem.file for problem in check_index(index)}
        path.write_bytes(original)
    assert check_index(index) == []


def test_missing_and_shortened_files_are_found(index):
    for path in published(index):
        original = path.read_bytes()
        relative = path.relative_to(index).as_posix()
        path.write_bytes(original[:-1])
        with pytest.raises(IndexDamagedError, match=path.name):
            use_all(index)
        assert relative in {problem.file for problem in check_index(index)}
        path.unlink()
        with pytest.raises(IndexDamagedError, match=path.name):
            use_all(index)
        assert relative in {problem.file for problem in check_index(index)}
        path.write_bytes(original)
    assert check_index(index) == []


def test_a_damaged_index_is_neither_changed_nor_resumed_but_overwritten(index, builder):
    path = index / "generations" / "000001" / "items.sqlite"
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 4
    path.write_bytes(bytes(body))
    with pytest.raises(IndexDamagedError, match=r"items\.sqlite"):
        IndexWriter.open(index)
    (index / "manifest.json").write_text('{"format": "genmm-index", "schema')
    with pytest.raises(IndexDamagedError, match=r"manifest\.json"):
        IndexWriter.create(index, builder.SETTINGS)
    with IndexWriter.create(index, builder.SETTINGS, overwrite=True) as writer:
        writer.stage_items(builder.item(n) for n in range(24))
        builder.fill(writer)
        assert writer.publish() == 2
    assert check_index(index) == []


def test_damage_of_the_work_in_progress(index, builder):
    with IndexWriter.open(index) as writer:
        writer.stage_items([builder.item(50)])
    work = index / "staging" / "work.sqlite"
    original = work.read_bytes()
    work.write_bytes(b"no database" * 1000)
    with pytest.raises(IndexDamagedError, match=r"work\.sqlite"):
        IndexWriter.open(index)
    [problem] = check_index(index)
    assert problem.file == "staging/work.sqlite"
    altered = original.replace(b"text 7 0", b"text 8 0")
    assert altered != original
    work.write_bytes(altered)
    with IndexWriter.open(index) as writer, pytest.raises(IndexDamagedError, match="checksum"):
        writer.items([7])
    shutil.rmtree(index / "staging")
    assert check_index(index) == []


def test_newer_versions_are_refused(index, builder):
    path = index / "manifest.json"
    body = json.loads(path.read_text())
    body["schema_version"] = SCHEMA_VERSION + 1
    path.write_text(json.dumps(body))
    for opener in (IndexReader.open, IndexWriter.open):
        with pytest.raises(IndexVersionError, match="schema version 3, this package reads 2"):
            opener(index)
    with pytest.raises(IndexVersionError):
        IndexWriter.create(index, builder.SETTINGS)
    assert [problem.file for problem in check_index(index)] == ["manifest.json"]


def test_a_picture_that_is_gone_is_reported(tmp_path, builder):
    with IndexWriter.create(tmp_path / "x", builder.SETTINGS) as writer:
        writer.stage_items([Item(id="a", image=str(tmp_path / "gone.png"))])
        writer.publish(require=None)
    [problem] = check_index(tmp_path / "x")
    assert problem.file.endswith("gone.png")


@posix
@pytest.mark.parametrize("limit", [2_000, 30_000, 120_000])
def test_a_full_disk_loses_nothing(index, builder, limit):
    before = contents(index)
    assert start(builder, index, "full", limit).wait() == 7
    assert contents(index) == before
    builder.grow(index)
    with IndexReader.open(index) as reader:
        assert len(reader) == 324
    assert check_index(index) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
@pytest.mark.parametrize("victim", ["manifest.json.tmp", "000002-live.safetensors.tmp"])
def test_a_write_that_fails_while_publishing(index, builder, monkeypatch, code, victim):
    before = contents(index)
    original = Path.open

    def failing(self, *values, **options):
        if self.name == victim:
            raise OSError(code, os.strerror(code))
        return original(self, *values, **options)

    with IndexWriter.open(index) as writer:
        writer.stage_items([builder.item(40)])
        builder.fill(writer)
        monkeypatch.setattr(Path, "open", failing)
        with pytest.raises(StorageError, match=os.strerror(code)):
            writer.publish()
        monkeypatch.setattr(Path, "open", original)
        assert contents(index) == before
        assert sorted(p.name for p in (index / "generations").iterdir()) == ["000001"]
        assert {p.name[:7] for p in (index / "arrays").iterdir()} == {"000001-"}
        assert writer.publish() == 2
    with IndexReader.open(index) as reader:
        assert len(reader) == 25


def test_a_failure_behind_the_rename_is_a_publication(index, builder, monkeypatch):
    original = files.sync_folder
    with IndexWriter.open(index) as writer:
        writer.stage_items([builder.item(40)])
        builder.fill(writer)

        def failing(path):
            if path == index and Manifest.read(index).generation == 2:
                raise OSError(errno.EIO, "late")
            original(path)

        monkeypatch.setattr(files, "sync_folder", failing)
        assert writer.publish() == 2
    with IndexReader.open(index) as reader:
        assert len(reader) == 25


def test_a_publication_that_is_not_put_away_is_never_written_over(index, builder, monkeypatch):
    settle = Staging.settle
    failures = [StorageError("cannot write the index: late")]

    def failing(self, generation, require):
        if failures:
            raise failures.pop()
        settle(self, generation, require)

    monkeypatch.setattr(Staging, "settle", failing)
    with IndexWriter.open(index) as writer:
        writer.stage_items([builder.item(40)])
        builder.fill(writer)
        with pytest.raises(StorageError, match="late"):
            writer.publish()
        before, bodies = contents(index), [path.read_bytes() for path in published(index)]
        assert before[-1]["items"] == 25
        changes = [
            writer.publish,
            lambda: writer.stage_items([builder.item(41)]),
            lambda: writer.delete(["i3"]),
            lambda: writer.put_features([2], builder.feature(9)[None]),
            lambda: writer.put_array("tokens", np.zeros(3)),
            lambda: writer.put_json("scheme", {}),
            writer.clear_identifiers,
            writer.publish,
        ]
        for change in changes:
            with pytest.raises(IndexStateError, match="open the index again"):
                change()
        assert contents(index) == before
        assert [path.read_bytes() for path in published(index)] == bodies
    assert contents(index) == before
    with IndexWriter.open(index) as writer:
        assert writer.pending("identifiers") == []
        writer.stage_items([builder.item(41)])
        builder.fill(writer)
        assert writer.publish() == 3
    with IndexReader.open(index) as reader:
        assert len(reader) == 26
        assert (reader.row("i40"), reader.row("i41")) == (24, 25)
    assert check_index(index) == []


def test_places_that_cannot_be_written(tmp_path, builder):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="cannot write the index"):
        IndexWriter.create(tmp_path / "file" / "index", builder.SETTINGS)
    if Path("/sys/kernel").is_dir():
        with pytest.raises(StorageError, match="cannot write the index"):
            IndexWriter.create("/sys/kernel/genmm-test-index", builder.SETTINGS)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write all")
def test_read_only_folder(index, builder):
    for path in [index, *index.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        with pytest.raises(StorageError):
            IndexWriter.open(index)
        with IndexReader.open(index) as reader:
            assert len(reader) == 24
    finally:
        for path in [index, *index.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)


def test_readers_while_publishing(index, builder):
    """Every reader sees one whole generation, whichever it opened."""
    stop = threading.Event()
    faults: list[BaseException] = []
    opened: set[int] = set()

    def read():
        try:
            while not stop.is_set():
                with IndexReader.open(index) as reader:
                    rows = reader.live_rows()
                    versions = {item.metadata["version"] for item in reader.items(rows)}
                    assert versions == {reader.generation - 1}
                    assert reader.features(reader.select({}, "image")) is not None
                    assert len(reader.array("tokens")) == 2 * len(rows)
                    opened.add(reader.generation)
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    with IndexWriter.open(index) as writer:
        for version in range(1, 5):
            writer.stage_items((builder.item(n, version) for n in range(24)), replace=True)
            builder.fill(writer, batch=24)
            writer.publish()
    stop.set()
    for thread in threads:
        thread.join()
    assert faults == []
    assert len(opened) > 1


def test_an_old_reader_lives_on_when_its_files_are_removed(index, builder):
    with IndexReader.open(index) as reader:
        for version in (1, 2, 3):
            with IndexWriter.open(index) as writer:
                writer.stage_items((builder.item(n, version) for n in range(24)), replace=True)
                builder.fill(writer, batch=24)
                writer.publish()
        assert not (index / "generations" / "000001").exists()
        assert [item.metadata["version"] for item in reader.items([1, 3])] == [0, 0]
        assert np.array_equal(reader.features([2])[0], builder.feature(2))


KILLED_IN_A_TRANSACTION = """
import os, signal, sys
from genmm_retriever.corpus.store import IndexWriter
from genmm_retriever.schema import Item

def items():
    for n in range(3000):  # more than SQLite keeps back: it has begun to write the database
        yield Item(id=f"new {n}", text=str(n) * 500)
    os.kill(os.getpid(), signal.SIGKILL)

IndexWriter.open(sys.argv[1]).stage_items(items())
"""


@posix
def test_a_journal_left_by_a_kill_is_no_damage(index, builder):
    command = [sys.executable, "-c", KILLED_IN_A_TRANSACTION, str(index)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    assert subprocess.run(command, env=environment, check=False).returncode == -signal.SIGKILL
    assert (index / "staging" / "work.sqlite-journal").stat().st_size
    assert check_index(index) == []
    with IndexWriter.open(index) as writer:
        assert writer.pending("identifiers") == []
