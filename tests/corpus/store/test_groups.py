"""Groups of arrays: what a publication writes, carries over, drops and verifies."""

from __future__ import annotations

import errno
import json
import os
import sqlite3
import tempfile
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from genmm_retriever.corpus.store import (
    IndexReader,
    IndexSettings,
    IndexWriter,
    check_index,
    checksums,
    manifest,
)
from genmm_retriever.errors import (
    IndexDamagedError,
    IndexVersionError,
    InputError,
    StorageError,
)

SETTINGS = IndexSettings(model="m", model_fingerprint="f")


def files_of(folder):
    return sorted(path.name for path in (folder / "arrays").iterdir())


def write(folder, arrays, drop=()):
    with IndexWriter.create(folder, SETTINGS) as writer:
        for prefix in drop:
            writer.drop_arrays(prefix)
        for name, array in arrays.items():
            writer.put_array(name, array)
        return writer.publish(require=None)


def read(folder):
    with IndexReader.open(folder) as reader:
        return {name: np.array(reader.array(name)) for name in reader.arrays()}


@pytest.fixture
def folder(tmp_path):
    """An index of three groups, one of them with two arrays."""
    path = tmp_path / "index"
    write(
        path, {"a/x": np.arange(5), "a/y": np.arange(6.0), "b/c/z": np.arange(7), "w": np.ones(2)}
    )
    return path


def test_a_publication_writes_the_groups_that_changed_and_no_other(folder, monkeypatch):
    old = {path.name: path.stat() for path in (folder / "arrays").iterdir()}
    assert sorted(old) == [
        "000001-.safetensors",
        "000001-a.safetensors",
        "000001-b%2fc.safetensors",
    ]
    touched = []
    original = Path.open

    def opened(self, *values, **options):
        touched.append(self.name)
        return original(self, *values, **options)

    with IndexWriter.open(folder) as writer:
        writer.put_array("a/y", np.zeros(3))
        monkeypatch.setattr(Path, "open", opened)
        assert writer.publish() == 2
        monkeypatch.undo()
    # Neither rewritten nor read for a checksum.
    assert not {"000001-.safetensors", "000001-b%2fc.safetensors"} & set(touched)
    for name in ("000001-.safetensors", "000001-b%2fc.safetensors"):
        now = (folder / "arrays" / name).stat()
        assert (now.st_ino, now.st_mtime_ns) == (old[name].st_ino, old[name].st_mtime_ns)
    assert files_of(folder) == [*sorted(old), "000002-a.safetensors"]  # the one before stays
    found = read(folder)
    assert sorted(found) == ["a/x", "a/y", "b/c/z", "w"]
    assert found["a/x"].tolist() == [0, 1, 2, 3, 4]
    assert found["a/y"].tolist() == [0, 0, 0]
    write(folder, {"w": np.zeros(2)})
    assert "000001-a.safetensors" not in files_of(folder)
    assert check_index(folder) == []


def test_dropped_arrays_and_groups_disappear(folder):
    with IndexWriter.open(folder) as writer:
        assert writer.drop_arrays("none/") == 0
        assert writer.publish() == 1
        assert writer.drop_arrays("b/") == 1
        assert writer.drop_arrays("a/x") == 1
        assert writer.arrays() == ["a/y", "w"]
        assert writer.array("a/x") is None
        assert writer.drop_arrays("b/") == 0
    assert sorted(read(folder)) == ["a/x", "a/y", "b/c/z", "w"]  # until it is published
    with IndexWriter.open(folder) as writer:
        assert writer.arrays() == ["a/y", "w"]
        assert writer.publish() == 2
    assert sorted(read(folder)) == ["a/y", "w"]
    write(folder, {"w": np.zeros(1)})
    assert files_of(folder) == [
        "000001-.safetensors",
        "000002-a.safetensors",
        "000003-.safetensors",
    ]
    assert check_index(folder) == []


def test_an_equal_array_changes_nothing(folder, monkeypatch):
    with IndexWriter.open(folder) as writer:
        writer.put_array("a/x", np.arange(5))
        kept = writer.array("a/y", writeable=False)
        with pytest.raises(ValueError, match="read-only"):
            kept[0] = 1
        with monkeypatch.context() as patch:
            # The very array is known without looking into it.
            patch.setattr(np, "array_equal", None)
            writer.put_array("a/y", kept)
        changed = writer.array("a/y")
        changed[0] = 9
        assert writer.array("a/y")[0] == 0
        assert writer.publish() == 1
        writer.put_array("a/y", changed)
        assert writer.array("a/y")[0] == 9
        writer.put_array("a/x", np.arange(5, dtype=np.int32))  # equal numbers of another type
        assert writer.publish() == 2
    found = read(folder)
    assert found["a/y"][0] == 9
    assert found["a/x"].dtype == np.int32


def test_what_is_dropped_and_put_back_is_carried_over(folder):
    with IndexWriter.open(folder) as writer:
        writer.drop_arrays("")
        assert writer.arrays() == []
        writer.put_array("a/x", np.arange(5))
        writer.put_array("a/y", np.zeros(1))
        writer.put_array("a/y", np.arange(6.0))
        writer.put_array("w", np.zeros(2))
        writer.publish()
    assert sorted(json.loads((folder / "manifest.json").read_text())["files"]) == [
        "arrays/000001-a.safetensors",
        "arrays/000002-.safetensors",
        "generations/000002/items.sqlite",
    ]


def test_overwriting_carries_nothing_over(folder):
    with IndexWriter.create(folder, SETTINGS, overwrite=True) as writer:
        assert writer.arrays() == []
        writer.put_array("a/new", np.zeros(1))
        assert sorted(read(folder)) == ["a/x", "a/y", "b/c/z", "w"]
        writer.publish(require=None)
    assert sorted(read(folder)) == ["a/new"]


def test_names(tmp_path):
    with IndexWriter.create(tmp_path / "x", SETTINGS) as writer:
        for bad in ("", "a b", "ä", "a" * 101, "/" * 100, "A" * 80 + "/a", "a\n"):
            with pytest.raises(InputError, match="no name of an array"):
                writer.put_array(bad, np.zeros(1))
        names = ["A/x", "a/x", "../x", "x", "/x"]
        arrays = {name: np.full(1, n) for n, name in enumerate(names)}
        for name, array in arrays.items():
            writer.put_array(name, array)
        writer.publish(require=None)
    # A file system that takes "A" and "a" for the same name keeps them apart too.
    assert len({name.lower() for name in files_of(tmp_path / "x")}) == 4
    assert {name: int(array[0]) for name, array in read(tmp_path / "x").items()} == {
        name: int(array[0]) for name, array in arrays.items()
    }


@pytest.mark.parametrize("links", [True, False])
def test_a_group_that_comes_whole_is_written_once(folder, monkeypatch, links):
    def no_links(self, target):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    if not links:
        monkeypatch.setattr(Path, "hardlink_to", no_links)
    whole = {"new/x": np.arange(3), "new/y": np.ones(2), "a/x": np.zeros(1)}
    with IndexWriter.open(folder) as writer:
        writer.put_arrays(whole)
        staged = {path.stat().st_ino for path in (folder / "staging" / "arrays").iterdir()}
        assert len(staged) == 2
        with pytest.raises(InputError, match="type"):
            writer.put_arrays({"new/x": np.zeros(1), "new/z": np.array(["text"])})
        writer.publish()
        new = folder / "arrays" / "000002-new.safetensors"
        assert (new.stat().st_ino in staged) == links
        assert new.stat().st_nlink == 1
        # A part of a group does not become the group.
        assert (folder / "arrays" / "000002-a.safetensors").stat().st_ino not in staged
        writer.put_arrays({"new/x": np.zeros(4), "new/y": np.zeros(4)})
        writer.put_array("new/y", np.full(4, 7.0))
        writer.put_array("new/y", np.ones(2))
        writer.publish()
    found = read(folder)
    assert sorted(found) == ["a/x", "a/y", "b/c/z", "new/x", "new/y", "w"]
    assert found["new/x"].tolist() == [0, 0, 0, 0]
    assert found["new/y"].tolist() == [1, 1]
    assert found["a/x"].tolist() == [0]
    assert found["a/y"].tolist() == [0, 1, 2, 3, 4, 5]
    assert check_index(folder) == []


def test_a_disk_that_is_full_while_an_array_is_put(folder, monkeypatch):
    original = Path.open

    def failing(self, *values, **options):
        if self.name.endswith(".safetensors.tmp"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(self, *values, **options)

    with IndexWriter.open(folder) as writer:
        monkeypatch.setattr(Path, "open", failing)
        with pytest.raises(StorageError, match="No space"):
            writer.put_array("a/x", np.zeros(1))
        monkeypatch.undo()
        assert writer.array("a/x").tolist() == [0, 1, 2, 3, 4]
        assert writer.publish() == 1
        writer.put_array("a/x", np.zeros(1))
        assert writer.publish() == 2
    assert read(folder)["a/x"].tolist() == [0]


@pytest.mark.parametrize("fails", [1, 2])
def test_what_replaces_others_does_so_at_once_or_not_at_all(folder, monkeypatch, fails):
    """As when the process is killed while the first or the second group is written."""
    original = Path.open
    written = []

    def failing(self, *values, **options):
        if self.name.endswith(".safetensors.tmp"):
            written.append(self.name)
            if len(written) == fails:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(self, *values, **options)

    new = {"a/x": np.zeros(2), "b/c/v": np.zeros(3)}
    with IndexWriter.open(folder) as writer:
        monkeypatch.setattr(Path, "open", failing)
        with pytest.raises(StorageError, match="No space"):
            writer.put_arrays(new, replacing=("a/", "b/"))
        monkeypatch.undo()
    with IndexWriter.open(folder) as writer:
        assert writer.arrays() == ["a/x", "a/y", "b/c/z", "w"]
        assert writer.array("a/x").tolist() == [0, 1, 2, 3, 4]
        writer.put_arrays(new, replacing=("a/", "b/"))
        assert writer.arrays() == ["a/x", "b/c/v", "w"]
        writer.put_arrays({}, replacing=("w",))
        writer.publish()
    assert sorted(read(folder)) == ["a/x", "b/c/v"]
    assert check_index(folder) == []


def test_damage_is_never_given_a_new_checksum(folder):
    """Neither that of an array in work, nor that of one that shares a group with a new one."""
    with IndexWriter.open(folder) as writer:
        writer.put_array("b/c/z", np.zeros(9))
    [staged] = (folder / "staging" / "arrays").iterdir()
    flip(staged, staged.stat().st_size - 1)
    assert [p.file for p in check_index(folder)] == [f"staging/arrays/{staged.name}"]
    with IndexWriter.open(folder) as writer:
        with pytest.raises(IndexDamagedError, match=staged.name):
            writer.publish()
        with pytest.raises(IndexDamagedError, match=staged.name):
            writer.array("b/c/z")
        staged.write_bytes(b"no header")
        writer.put_array("b/c/z", np.zeros(9))  # that mends it
        writer.drop_arrays("b/")
        published = folder / "arrays" / "000001-a.safetensors"
        flip(published, published.stat().st_size - 1)
        writer.put_array("a/x", np.zeros(1))
        with pytest.raises(IndexDamagedError, match=r"000001-a\.safetensors"):
            writer.publish()
        writer.put_array("a/y", np.zeros(1))  # nothing of the damaged file is needed now
        assert writer.publish() == 2
    assert check_index(folder) == []


def flip(path, place):
    body = bytearray(path.read_bytes())
    body[place] ^= 4
    path.write_bytes(bytes(body))


def test_large_files_are_sampled_on_opening_and_read_whole_by_the_check(tmp_path, monkeypatch):
    monkeypatch.setattr(checksums, "LARGE", 100_000)
    monkeypatch.setattr(checksums, "BLOCK", 1000)
    monkeypatch.setattr(checksums, "SAMPLED", 3)
    folder = tmp_path / "x"
    big = np.random.default_rng(0).integers(0, 255, 300_500).astype(np.uint8)
    write(folder, {"big/a": big, "small/a": big[:5000]})
    assert np.array_equal(read(folder)["big/a"], big)
    entries = manifest.Manifest.read(folder).files
    assert entries["arrays/000001-small.safetensors"].blocks == ""
    path = folder / "arrays" / "000001-big.safetensors"
    size = path.stat().st_size
    assert len(entries["arrays/000001-big.safetensors"].blocks) == 8 * -(-size // 1000)
    for place in (0, 20, 999, size - 1):  # the header and the last block: always
        flip(path, place)
        with pytest.raises(IndexDamagedError, match="000001-big"):
            IndexReader.open(folder)
        flip(path, place)
    flip(path, 150_000)
    with monkeypatch.context() as patch:
        patch.setattr(checksums.random, "sample", lambda population, count: [7, 8, 9])
        IndexReader.open(folder).close()
        patch.setattr(checksums.random, "sample", lambda population, count: [7, 150, 9])
        with pytest.raises(IndexDamagedError, match="000001-big"):
            IndexReader.open(folder)
    assert [problem.file for problem in check_index(folder)] == ["arrays/000001-big.safetensors"]
    with IndexWriter.open(folder) as writer:
        writer.put_array("big/b", np.zeros(1))
        with pytest.raises(IndexDamagedError, match="000001-big"):
            writer.publish()
    flip(path, 150_000)
    with path.open("ab") as handle:
        handle.write(b"x")
    with pytest.raises(IndexDamagedError, match="cut short or altered"):
        IndexReader.open(folder)


def test_checksums_do_not_depend_on_how_the_content_comes(tmp_path, monkeypatch):
    monkeypatch.setattr(checksums, "LARGE", 10)
    monkeypatch.setattr(checksums, "BLOCK", 16)
    body = os.urandom(16 * 5)
    for length in (0, 1, 10, 11, 16, 17, 32, 79, 80):
        (tmp_path / "file").write_bytes(body[:length])
        whole = checksums.file_entry(tmp_path / "file")
        digest = checksums.Digest()
        for start in range(0, length, 7):
            digest.update(body[start : min(start + 7, length)])
        assert digest.entry() == whole
        assert len(whole.blocks) == (8 * -(-length // 16) if length > 10 else 0)
        checksums.verify_file(tmp_path / "file", whole)
        checksums.verify_file(tmp_path / "file", whole, full=True)


def test_a_reader_shares_what_did_not_change_with_the_one_before(folder, monkeypatch):
    verified = []
    original = manifest.verify_file

    def spy(path, entry, *, full=False):
        verified.append(path.name)
        return original(path, entry, full=full)

    with IndexReader.open(folder) as before:
        write(folder, {"a/x": np.zeros(2)}, drop=["w"])
        monkeypatch.setattr(manifest, "verify_file", spy)
        with IndexReader.open(folder, previous=before) as after:
            assert verified == ["items.sqlite", "000002-a.safetensors"]
            assert after.arrays() == ["a/x", "a/y", "b/c/z"]
            assert after.array("b/c/z") is before.array("b/c/z")
            assert after.array("a/x").tolist() == [0, 0]
            assert before.array("a/x").tolist() == [0, 1, 2, 3, 4]
            before.close()
            assert after.array("b/c/z").tolist() == [0, 1, 2, 3, 4, 5, 6]
        with IndexReader.open(folder, previous=before) as again:  # closed: nothing to share
            assert again.array("b/c/z").tolist() == [0, 1, 2, 3, 4, 5, 6]


def test_arrays_that_cannot_be_promised_memory_are_read_only(folder, monkeypatch):
    original = np.memmap

    def refusing(path, dtype, mode, **options):
        if mode == "c":
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        return original(path, dtype, mode, **options)

    monkeypatch.setattr(np, "memmap", refusing)
    with IndexReader.open(folder) as reader:
        assert reader.array("a/x").tolist() == [0, 1, 2, 3, 4]
        assert not reader.array("a/x").flags.writeable


def test_older_versions_say_that_they_must_be_built_again(folder):
    path = folder / "manifest.json"
    body = json.loads(path.read_text())
    body["schema_version"] = 1
    body.pop("checksum")
    path.write_text(json.dumps({**body, "checksum": manifest._checksum(body)}))
    for opener in (IndexReader.open, IndexWriter.open):
        with pytest.raises(IndexVersionError, match="made by an older version") as caught:
            opener(folder)
        assert "build it again" in caught.value.hint
    [problem] = check_index(folder)
    assert "older version" in problem.what
    assert "build it again" in problem.mend
    with IndexWriter.create(folder, SETTINGS, overwrite=True) as writer:
        writer.put_array("new", np.zeros(1))
        assert writer.publish(require=None) == 2
    assert sorted(read(folder)) == ["new"]
    assert files_of(folder) == ["000002-.safetensors"]


def test_an_unfinished_build_of_an_older_version_is_not_resumed(tmp_path):
    folder = tmp_path / "x"
    with IndexWriter.create(folder, SETTINGS) as writer:
        writer.put_array("a", np.zeros(1))
    connection = sqlite3.connect(folder / "staging" / "work.sqlite", isolation_level=None)
    connection.execute("DELETE FROM meta WHERE key='schema_version'")
    connection.close()
    with pytest.raises(IndexVersionError, match="older version"):
        IndexWriter.create(folder, SETTINGS)
    with IndexWriter.create(folder, SETTINGS, overwrite=True) as writer:
        assert writer.arrays() == []


NAMES = st.sampled_from(["a/x", "a/y", "b/x", "z"])
PREFIXES = st.sampled_from(["a/", "a/x", "b", "z", ""])


class ArrayChanges(RuleBasedStateMachine):
    """Any sequence of changes leaves what the same changes leave in a dict."""

    @initialize()
    def begin(self):
        self.place = tempfile.TemporaryDirectory()
        self.folder = f"{self.place.name}/index"
        self.writer = IndexWriter.create(self.folder, SETTINGS)
        self.writer.publish(require=None)
        self.published = {}
        self.next = {}

    @rule(name=NAMES, value=st.integers(0, 2))
    def put(self, name, value):
        self.writer.put_array(name, np.arange(value, dtype=np.int16))
        self.next[name] = list(range(value))

    @rule(
        values=st.dictionaries(NAMES, st.integers(0, 2)), replacing=st.lists(PREFIXES, max_size=2)
    )
    def put_several(self, values, replacing):
        arrays = {n: np.arange(v, dtype=np.int16) for n, v in values.items()}
        self.writer.put_arrays(arrays, replacing=replacing)
        for name in [name for name in self.next if name.startswith(tuple(replacing))]:
            del self.next[name]
        self.next.update((name, list(range(value))) for name, value in values.items())

    @rule(prefix=PREFIXES)
    def drop(self, prefix):
        dropped = [name for name in self.next if name.startswith(prefix)]
        assert self.writer.drop_arrays(prefix) == len(dropped)
        for name in dropped:
            del self.next[name]

    @rule(name=NAMES)
    def put_back(self, name):
        array = self.writer.array(name, writeable=False)
        if array is not None:
            self.writer.put_array(name, array)

    @rule()
    def publish(self):
        self.writer.publish(require=None)
        self.published = dict(self.next)

    @rule()
    def reopen(self):
        self.writer.close()
        self.writer = IndexWriter.create(self.folder, SETTINGS)

    @invariant()
    def equal(self):
        if not hasattr(self, "writer"):
            return
        found = {name: self.writer.array(name).tolist() for name in self.writer.arrays()}
        assert found == self.next
        assert {name: array.tolist() for name, array in read(self.folder).items()} == self.published

    def teardown(self):
        if hasattr(self, "writer"):
            self.writer.close()
            assert check_index(self.folder) == []
            self.place.cleanup()


ArrayChanges.TestCase.settings = settings(max_examples=25, stateful_step_count=15, deadline=None)


def test_changes_of_arrays_equal_a_dict():
    ArrayChanges.TestCase("runTest").runTest()
