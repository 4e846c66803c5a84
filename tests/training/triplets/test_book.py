"""The file: appended to, mended, read, and refused by name."""

from __future__ import annotations

import errno
import json
import os

import pytest

from genmm_retriever.errors import IndexLockedError, InputError, SourceError, StorageError
from genmm_retriever.training.triplets.book import (
    Triplet,
    TripletBook,
    read_lines,
    read_triplets,
)

ONE = Triplet("a", "b", "in snow", "on grass", {"fit": 0.5}, "m", "1")
TWO = Triplet("b", "c\u00e9", "with a caf\u00e9", None, {"fit": 0.25}, "m", "1")


def opened(path, **options):
    return TripletBook(path, {"seed": 0} | options)


def test_what_was_put_stays_and_a_cut_line_is_removed(tmp_path):
    path = tmp_path / "t.jsonl"
    with opened(path) as book:
        book.put([ONE], [("x", "y", "unfit")])
        book.put([TWO], [("x", "z", "unfit"), ("y", "z", "length")])
    assert list(read_lines(path)) == [ONE, TWO]
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for cut in range(first, len(whole)):
        path.write_bytes(whole[:cut])
        with opened(path) as book:
            kept = len(book)
            assert kept == (2 if cut == len(whole) - 1 else 1)
            assert ("x", "z") in book
            assert (("b", "c\u00e9") in book) == (kept == 2)
            assert book.dropped == {"unfit": 2, "length": 1}
            if kept == 1:
                book.put([TWO], [])
        assert path.read_bytes() == whole


def test_other_files_are_left_alone(tmp_path):
    path = tmp_path / "captions.jsonl"
    for content in ("hello", '{"id": 1}\n', '{"id": 1}', '{"id": 1}\nhel'):
        path.write_text(content)
        with pytest.raises(SourceError, match=r"captions\.jsonl"):
            opened(path)
        assert path.read_text() == content
    assert not (tmp_path / "captions.jsonl.work").exists()


def test_one_writer_and_the_same_options(tmp_path):
    path = tmp_path / "t.jsonl"
    with opened(path), pytest.raises(IndexLockedError, match=r"t\.jsonl"):
        opened(path)
    with pytest.raises(InputError, match="begun with seed 0, not 7"):
        opened(path, seed=7)
    with opened(path):
        pass


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("[]", "not a JSON object"),
        ({"target": "b", "text": "t"}, "`reference`"),
        ({"reference": "a", "target": 3, "text": "t"}, "its `target` is not a text"),
        ({"reference": "a", "target": "b", "text": " "}, "it has no `text`"),
        ({"reference": "a", "target": "a", "text": "t"}, "same item"),
        ({"reference": "a", "target": "b", "text": "t", "reverse": 1}, "`reverse`"),
        ({"reference": "a", "target": "b", "text": "t", "scores": [1]}, "`scores`"),
        ({"reference": "a", "target": "b", "text": "t", "colour": 1}, "`colour`"),
    ],
)
def test_broken_lines_are_named(tmp_path, line, match):
    path = tmp_path / "t.jsonl"
    text = line if isinstance(line, str) else json.dumps(line)
    path.write_text(f"{json.dumps(ONE.to_json())}\n{text}\n")
    with pytest.raises(SourceError, match=f"line 2.*{match}"):
        list(read_lines(path))


def test_items_that_the_index_lacks_are_passed_over(tmp_path):
    path, again = tmp_path / "t.jsonl", tmp_path / "u.jsonl"
    lines = [ONE, TWO, Triplet("a", "gone", "x y")]
    path.write_text("\n".join(json.dumps(one.to_json()) for one in lines))
    again.write_text(json.dumps({"reference": "a", "target": "b", "text": "in snow"}))
    rows = {"a": 4, "b": 9, "c\u00e9": 5}
    found, missing = read_triplets([path, again, path], rows.get)
    assert missing == 2
    assert [(one.reference, one.target, one.text, one.reverse) for one in found] == [
        (4, 9, "in snow", "on grass"),
        (9, 5, "with a caf\u00e9", None),
        (4, 9, "in snow", None),
    ]
    assert read_triplets([], rows.get) == ([], 0)
    with pytest.raises(InputError, match=r"t\.jsonl.*no triplet is about items.*3 were read"):
        read_triplets([path], {}.get)
    with pytest.raises(SourceError, match=r"none\.jsonl"):
        read_triplets([tmp_path / "none.jsonl"], rows.get)


def test_a_full_disk_is_named_and_leaves_what_was_there(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "t.jsonl"
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(StorageError, match=r"options\.json.*No space"):
            opened(path)
    with opened(path) as book:
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", full)
            with pytest.raises(StorageError, match=r"t\.jsonl.*No space"):
                book.put([ONE], [])
        assert not len(book)
        assert not path.exists()
        book.put([TWO], [])
    assert list(read_lines(path)) == [TWO]
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"t\.jsonl\.work"):
        opened(tmp_path / "file" / "t.jsonl")
