"""The file of notes: durable, tidied, and never worse than what was written."""

from __future__ import annotations

import errno
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genmm_retriever import Item
from genmm_retriever.corpus.store import (
    NOTES_VERSION,
    IdentifierRecord,
    IndexReader,
    IndexSettings,
    IndexWriter,
    Note,
    NoteBook,
    NoteVersion,
    check_index,
    notes_by_row,
)
from genmm_retriever.errors import IndexLockedError, StorageError

NOW = NoteVersion(NOTES_VERSION, "m", "f")
ONE = Note("a", "0a", "dense", "A red bus.", NOW)
TWO = Note("b", "0b", "refined", "A red bus\u2028\u00e9 \U0001f408 \ud800.", NOW)
FAILED = Note("a", "0a", "knowledge", "", NOW, "it is empty")
ALL = ("0a", "0b")


def identified(writer):
    rows = writer.pending("identifiers")
    writer.put_identifiers([IdentifierRecord(row, f"a, {row}", (row + 5, 0)) for row in rows])
    return writer.publish()


@pytest.fixture
def index(tmp_path):
    (tmp_path / "p.png").write_bytes(b"a picture")
    items = [
        Item(id="text", text="A dog runs."),
        Item(id="bytes", image=b"bytes"),
        Item(id="both", image=str(tmp_path / "p.png"), text="The bus", title="Bus"),
    ]
    settings = IndexSettings(model="m", model_fingerprint="f")
    with IndexWriter.create(tmp_path / "index", settings) as writer:
        writer.stage_items(items)
        identified(writer)
    return tmp_path / "index"


def marks(index):
    with IndexReader.open(index) as reader:
        rows = reader.live_rows().tolist()
        return {i.id: m for i, m in zip(reader.items(rows), reader.marks(rows), strict=True)}


def put(index, *notes, keep=ALL):
    with NoteBook.writing(index, keep) as book:
        book.put(notes)


def test_notes_are_kept(tmp_path):
    put(tmp_path, ONE, TWO, FAILED)
    book = NoteBook(tmp_path)
    assert (book.note("0a", "dense"), book.note("0b", "refined")) == (ONE, TWO)
    assert book.note("0a", "knowledge") is None
    assert book.failed("0a", "knowledge", NOW)
    assert not book.failed("0a", "knowledge", NoteVersion(NOTES_VERSION, "m", "other"))
    assert book.note("0b", "dense") is None
    assert book.damaged == []
    assert not NoteVersion(NOTES_VERSION, "m", "f").is_outdated
    assert NoteVersion("0", "m", "f").is_outdated


def test_the_newest_note_counts_and_the_file_is_tidied(tmp_path):
    newer = Note("a", "0a", "dense", "A red bus in York.", NOW)
    put(tmp_path, ONE, TWO)
    put(tmp_path, newer)
    path = NoteBook(tmp_path).path
    assert len(path.read_bytes().splitlines()) == 3
    put(tmp_path, keep=["0a"])
    assert len(path.read_bytes().splitlines()) == 1
    assert NoteBook(tmp_path).note("0a", "dense") == newer
    assert NoteBook(tmp_path).note("0b", "refined") is None
    # What is tidy is not written again.
    before = path.stat().st_ino
    put(tmp_path, keep=["0a"])
    assert path.stat().st_ino == before


@given(length=st.integers(min_value=0))
def test_a_file_cut_anywhere_by_a_kill_holds_all_whole_notes(tmp_path_factory, length):
    index = tmp_path_factory.mktemp("cut")
    put(index, ONE, TWO)
    path = NoteBook(index).path
    whole = path.read_bytes()
    cut = whole[: length % len(whole)]
    path.write_bytes(cut)
    book = NoteBook(index)
    assert book.damaged == []
    kept = [book.note(n.mark, n.kind) for n in (ONE, TWO)]
    assert kept == [n if cut.count(b"\n") > i else None for i, n in enumerate((ONE, TWO))]
    put(index, *[n for n, k in zip((ONE, TWO), kept, strict=True) if k is None])
    assert path.read_bytes() == whole


def test_damage_is_found_told_and_dropped(index):
    own = marks(index)
    notes = [Note(name, mark, "dense", "A bus", NOW) for name, mark in own.items()]
    put(index, *notes, keep=own.values())
    assert check_index(index) == []
    path = NoteBook(index).path
    path.write_bytes(path.read_bytes().replace(b"A bus", b"A bun", 1))
    [problem] = check_index(index)
    assert problem.file == "notes/notes.jsonl"
    assert problem.what.startswith("line 1 ")
    assert "genmm describe" in problem.mend
    with IndexReader.open(index) as reader:
        assert len(notes_by_row(reader)) == 2
    put(index, keep=own.values())
    assert check_index(index) == []


@pytest.mark.parametrize(
    "line", [b"", b"[]", b'{"crc": 1}', b'{"crc": 223132457, "note": {}}', b"\xff"]
)
def test_lines_of_another_kind_are_damage(tmp_path, line):
    put(tmp_path, ONE)
    with NoteBook(tmp_path).path.open("ab") as file:
        file.write(line + b"\n")
    assert NoteBook(tmp_path).damaged == [2]
    assert NoteBook(tmp_path).note("0a", "dense") == ONE


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    put(tmp_path, ONE)
    before = NoteBook(tmp_path).path.read_bytes()

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with NoteBook.writing(tmp_path, ALL) as book:
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", full)
            with pytest.raises(StorageError, match="No space"):
                book.put([TWO])
        assert book.path.read_bytes() == before
        book.put([TWO])
    assert NoteBook(tmp_path).note("0b", "refined") == TWO


def test_one_writes_at_a_time_while_others_read(tmp_path):
    with NoteBook.writing(tmp_path, ALL) as book:
        book.put([ONE])
        assert NoteBook(tmp_path).note("0a", "dense") == ONE
        with (
            pytest.raises(IndexLockedError, match="notes"),
            NoteBook.writing(tmp_path, ALL),
        ):
            pass


def test_notes_stay_with_their_content(index, tmp_path):
    first = marks(index)
    assert len(set(first.values())) == 3
    notes = [Note(name, mark, "dense", f"Of {name}", NOW) for name, mark in first.items()]
    put(index, *notes, keep=first.values())
    with IndexWriter.open(index) as writer:
        writer.delete(["bytes"])
        writer.stage_items(
            [
                Item(id="new", text="A cat sleeps."),
                Item(id="text", text="A dog walks."),
                Item(
                    id="both", image=str(tmp_path / "p.png"), text="The bus", title="Bus",
                    metadata={"a": 1},
                ),
            ],
            replace=True,
        )  # fmt: skip
        identified(writer)
    second = marks(index)
    assert second["text"] != first["text"]
    assert second["both"] == first["both"]  # metadata are no content
    assert check_index(index) == []
    with IndexReader.open(index) as reader:
        [[note]] = notes_by_row(reader).values()
        assert note.text == "Of both"
    # A picture whose file is another one now.
    (tmp_path / "p.png").write_bytes(b"another picture")
    with IndexWriter.open(index) as writer:
        writer.stage_items(
            [Item(id="both", image=str(tmp_path / "p.png"), text="The bus", title="Bus")],
            replace=True,
        )
        identified(writer)
    assert marks(index)["both"] != first["both"]
    with IndexReader.open(index) as reader:
        assert notes_by_row(reader) == {}


def test_an_index_built_anew_finds_its_notes_again(index):
    first = marks(index)
    put(index, Note("text", first["text"], "knowledge", "Dogs bark.", NOW), keep=first.values())
    settings = IndexSettings(model="other", model_fingerprint="g")
    with IndexWriter.create(index, settings, overwrite=True) as writer:
        writer.stage_items([Item(id="x", text="x"), Item(id="text", text="A dog runs.")])
        identified(writer)
    with IndexReader.open(index) as reader:
        [(row, [note])] = notes_by_row(reader).items()
        assert (reader.item(row).id, note.text) == ("text", "Dogs bark.")
