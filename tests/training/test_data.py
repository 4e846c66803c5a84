"""Captioned-images files and batches of features."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from genmm_retriever.errors import SourceError
from genmm_retriever.training.builtin.data import CaptionedImages, read_captioned


def write(path: Path, *lines: object) -> Path:
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return path


def test_paths_are_taken_from_the_file(tmp_path):
    source = write(
        tmp_path / "train.jsonl",
        {"id": "1", "image": "images/1.jpg", "captions": ["a", "b"]},
        "",
        {"id": "2", "image": str(tmp_path / "2.jpg"), "captions": ["c"]},
        {"id": "3", "image": "3.jpg", "captions": []},
        {"id": "4", "image": "4.jpg", "captions": ["  ", "d"]},
    )
    paths, captions = read_captioned(source)
    assert paths == [tmp_path / "images/1.jpg", tmp_path / "2.jpg", tmp_path / "4.jpg"]
    assert captions == [["a", "b"], ["c"], ["d"]]


def test_any_character_may_stand_in_a_caption(tmp_path):
    # U+2028 and U+0085 end lines for some readers; in JSON they are ordinary characters.
    odd = "one\u2028two\u0085three"
    record = json.dumps({"id": "1", "image": "1.jpg", "captions": [odd]}, ensure_ascii=False)
    assert read_captioned(write(tmp_path / "a.jsonl", record))[1] == [[odd]]


@pytest.mark.parametrize(
    "broken",
    [
        '{"id": "2", "image": ',
        "[1, 2]",
        {"id": "2", "captions": ["a"]},
        {"id": "2", "image": 7, "captions": ["a"]},
        {"id": "2", "image": "2.jpg", "captions": "not a list"},
        {"id": "2", "image": "2.jpg", "captions": [1]},
    ],
)
def test_a_broken_line_is_named(tmp_path, broken):
    good = {"id": "1", "image": "1.jpg", "captions": ["a"]}
    source = write(tmp_path / "train.jsonl", good, broken)
    with pytest.raises(SourceError, match=r"train\.jsonl.*line 2"):
        read_captioned(source)


def test_bytes_that_are_no_text_are_named(tmp_path):
    source = tmp_path / "train.jsonl"
    source.write_bytes(b'{"id": "1", "image": "1.jpg", "captions": ["\xff"]}\n')
    with pytest.raises(SourceError, match="line 1"):
        read_captioned(source)


def test_absent_and_empty_files_are_named(tmp_path):
    with pytest.raises(SourceError, match=r"nothing\.jsonl"):
        read_captioned(tmp_path / "nothing.jsonl")
    empty = write(tmp_path / "empty.jsonl", {"id": "1", "image": "1.jpg", "captions": []})
    with pytest.raises(SourceError, match="no captioned picture"):
        read_captioned(empty)


def test_mirrored_features_swap_the_columns_of_the_grid():
    cells = np.arange(2 * 9 * 2, dtype=np.float16).reshape(2, 9, 2)
    data = CaptionedImages([Path("a"), Path("b")], [["x"], ["y"]], cells)
    plain = data.batch([0, 1])
    assert torch.equal(plain, torch.from_numpy(cells))
    mixed = data.batch([1, 0], flip=[False, True])
    assert torch.equal(mixed[0], plain[1])
    assert torch.equal(mixed[1], plain[0][[2, 1, 0, 5, 4, 3, 8, 7, 6]])
    assert torch.equal(data.batch([0], flip=[False]), plain[:1])


def test_lower_layers_stay_where_they_are_in_a_mirror():
    rows = np.arange(5 * 2, dtype=np.float16).reshape(1, 5, 2)
    data = CaptionedImages([Path("a")], [["x"]], rows)
    [mirrored] = data.batch([0], flip=[True], grid=2)
    assert torch.equal(mirrored, torch.from_numpy(rows)[0][[1, 0, 3, 2, 4]])
    assert len(data) == 1


def test_a_collection_is_as_long_as_its_pictures():
    cells = np.zeros((2, 9, 2), dtype=np.float16)
    data = CaptionedImages([Path("a"), Path("b")], [["x"], ["y"]], cells)
    assert len(data) == 2
