"""What interrupted work leaves behind, when something else is asked for next."""

from __future__ import annotations

import os
import shutil

import pytest

from genmm_retriever.corpus.store import (
    IdentifierRecord,
    IndexReader,
    IndexSettings,
    IndexWriter,
    check_index,
    check_place,
)
from genmm_retriever.corpus.store.manifest import Manifest
from genmm_retriever.errors import IndexDamagedError, IndexNotFoundError, InputError, StorageError
from genmm_retriever.schema import Item

SETTINGS = IndexSettings(model="m", model_fingerprint="f")


def texts(*names):
    return [Item(id=name, text=f"text of {name}") for name in names]


def complete(writer):
    rows = writer.pending("identifiers")
    writer.put_identifiers(
        [IdentifierRecord(row, f"name {row}", (row + 1, 0), (-1.0, -1.0)) for row in rows]
    )
    return writer.publish()


def published(path):
    with IndexReader.open(path) as reader:
        return [item.id for item in reader.items(reader.live_rows())]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_first_build_of_another_source_drops_the_interrupted_one(tmp_path, overwrite):
    path = tmp_path / "index"
    if overwrite:
        with IndexWriter.create(path, SETTINGS) as writer:
            writer.stage_items(texts("old"))
            complete(writer)
    with IndexWriter.create(path, SETTINGS, overwrite=overwrite) as writer:
        writer.stage_items(texts("a", "b", "c"), only=True)
    with IndexWriter.create(path, SETTINGS) as writer:
        report = writer.stage_items(texts("b", "d"), only=True)
        assert (report.added, report.unchanged) == (1, 1)
        complete(writer)
    assert published(path) == ["b", "d"]


def test_without_asking_for_it_nothing_is_dropped(tmp_path):
    with IndexWriter.create(tmp_path / "index", SETTINGS) as writer:
        writer.stage_items(texts("a"))
        writer.stage_items(texts("b"))
        complete(writer)
    assert published(tmp_path / "index") == ["a", "b"]


@pytest.mark.parametrize("reopened", [False, True])
def test_what_readers_have_seen_is_never_dropped(tmp_path, reopened):
    path = tmp_path / "index"
    writer = IndexWriter.create(path, SETTINGS)
    writer.stage_items(texts("a", "b"), only=True)
    complete(writer)
    if reopened:
        writer.close()
        writer = IndexWriter.open(path)
    writer.stage_items(texts("c"), only=True)
    writer.close()
    with IndexWriter.open(path) as writer:
        writer.stage_items(texts("d"), only=True)
        complete(writer)
    assert published(path) == ["a", "b", "d"]


def test_a_dropped_replacement_leaves_what_it_would_have_replaced(tmp_path):
    path = tmp_path / "index"
    with IndexWriter.create(path, SETTINGS) as writer:
        writer.stage_items(texts("a"), only=True)
        complete(writer)
    with IndexWriter.open(path) as writer:
        writer.stage_items([Item(id="a", text="changed")], replace=True, only=True)
    with IndexWriter.open(path) as writer:
        writer.stage_items(texts("b"), only=True)
        complete(writer)
    with IndexReader.open(path) as reader:
        found = reader.items(reader.live_rows())
        assert [item.text for item in found] == ["text of a", "text of b"]


def test_skipped_items_of_interrupted_work_are_forgotten(tmp_path):
    with IndexWriter.create(tmp_path / "index", SETTINGS) as writer:
        writer.stage_items(texts("a", "bad"), only=True)
        writer.skip(1, "broken")
    with IndexWriter.create(tmp_path / "index", SETTINGS) as writer:
        writer.stage_items(texts("b"), only=True)
        assert writer.skipped() == []
        complete(writer)
    assert published(tmp_path / "index") == ["b"]


def test_broken_input_drops_nothing(tmp_path):
    def broken():
        yield from texts("b")
        raise RuntimeError("the source is broken")

    with IndexWriter.create(tmp_path / "index", SETTINGS) as writer:
        writer.stage_items(texts("a"), only=True)
        with pytest.raises(RuntimeError, match="broken"):
            writer.stage_items(broken(), only=True)
        complete(writer)
    assert published(tmp_path / "index") == ["a"]


def test_a_first_source_that_was_refused_leaves_nothing_unfinished(tmp_path):
    path = tmp_path / "index"
    broken = (item for item in [*texts("a"), None])
    with IndexWriter.create(path, SETTINGS) as writer, pytest.raises(AttributeError):
        writer.stage_items(broken)
    with pytest.raises(IndexNotFoundError) as caught:
        IndexReader.open(path)
    assert "unfinished" not in str(caught.value)
    other = SETTINGS.model_copy(update={"seed": 5})
    with IndexWriter.create(path, other) as writer:
        writer.stage_items(texts("a"))
        complete(writer)
    assert published(path) == ["a"]


@pytest.fixture
def finished(tmp_path):
    """An index of one item."""
    with IndexWriter.create(tmp_path / "index", SETTINGS) as writer:
        writer.stage_items(texts("old"))
        complete(writer)
    return tmp_path / "index"


@pytest.mark.parametrize("content", [None, "[]", "{}", ""])
@pytest.mark.parametrize("adding", [False, True])
def test_a_manifest_that_is_gone_lets_nobody_begin_from_nothing(finished, content, adding):
    if adding:
        with IndexWriter.open(finished) as writer:
            writer.stage_items(texts("new"))
    manifest = finished / "manifest.json"
    manifest.unlink()
    if content is not None:
        manifest.write_text(content)
    with pytest.raises(IndexDamagedError, match="missing" if content is None else "damaged"):
        IndexReader.open(finished)
    assert [problem.file for problem in check_index(finished)] == ["manifest.json"]
    before = sorted(finished.rglob("*"))
    with pytest.raises(IndexDamagedError, match="--overwrite"):
        IndexWriter.create(finished, SETTINGS)
    assert sorted(finished.rglob("*")) == before
    with IndexWriter.create(finished, SETTINGS, overwrite=True) as writer:
        writer.stage_items(texts("other"))
        complete(writer)
    assert published(finished) == ["other"]


def test_a_new_beginning_without_a_manifest_is_gone_on_with(finished):
    (finished / "manifest.json").unlink()
    with IndexWriter.create(finished, SETTINGS, overwrite=True) as writer:
        writer.stage_items(texts("a"))
    with pytest.raises(IndexNotFoundError, match="is unfinished"):
        IndexReader.open(finished)
    with IndexWriter.create(finished, SETTINGS) as writer:
        assert writer.stage_items(texts("a")).unchanged == 1
        complete(writer)
    assert published(finished) == ["a"]


def test_a_first_build_that_died_while_publishing_is_gone_on_with(tmp_path, monkeypatch):
    path = tmp_path / "index"
    with IndexWriter.create(path, SETTINGS) as writer:
        writer.stage_items(texts("a"))
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "rmtree", lambda *_, **__: None)
            patch.setattr(Manifest, "write", _interrupted)
            with pytest.raises(KeyboardInterrupt):
                complete(writer)
    assert (path / "generations" / "000001").is_dir()
    with pytest.raises(IndexNotFoundError, match="is unfinished"):
        IndexReader.open(path)
    with IndexWriter.create(path, SETTINGS) as writer:
        complete(writer)
    assert published(path) == ["a"]


def _interrupted(*_):
    raise KeyboardInterrupt


@pytest.mark.parametrize("unfinished", [False, True])
def test_a_place_is_refused_before_anything_is_made(finished, tmp_path, monkeypatch, unfinished):
    path = finished
    if unfinished:
        path = tmp_path / "new"
        with IndexWriter.create(path, SETTINGS) as writer:
            writer.stage_items(texts("a"))
    check_place(path, overwrite=False, identifiers_per_item=SETTINGS.identifiers_per_item)
    check_place(path, overwrite=True, identifiers_per_item=1)
    with pytest.raises(InputError, match="identifiers_per_item: 4 -> 1"):
        check_place(path, overwrite=False, identifiers_per_item=1)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(InputError, match="is not an index"):
        check_place(tmp_path / "other", overwrite=True)
    with pytest.raises(InputError, match="is a file"):
        check_place(tmp_path / "other" / "file", overwrite=True)
    with monkeypatch.context() as patched:
        patched.setattr(os, "access", lambda *_: False)
        with pytest.raises(StorageError, match="Permission denied"):
            check_place(tmp_path / "absent" / "index", overwrite=False)
    assert not (tmp_path / "absent").exists()
    (path / "manifest.json").write_text("")
    with pytest.raises(IndexDamagedError):
        check_place(path, overwrite=False)
    check_place(path, overwrite=True)
