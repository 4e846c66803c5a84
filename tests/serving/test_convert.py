from __future__ import annotations

import errno
import json
import os

import pytest


def dump(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture
def cirr(tmp_path):
    folder = tmp_path / "my data"
    names = ["a", "b", "c"]
    dump(folder / "image_splits/split.rc2.val.json", {name: f"./dev/{name}.png" for name in names})
    record = {"pairid": 1, "reference": "a", "target_hard": "b", "caption": "in red"}
    dump(folder / "captions/cap.rc2.val.json", [record | {"img_set": {"members": names}}])
    (folder / "dev").mkdir()
    for name in names:
        (folder / "dev" / f"{name}.png").touch()
    return folder


def test_convert_writes_both_files_and_says_how_to_go_on(genmm, cirr, tmp_path):
    output = tmp_path / "val"
    arguments = ("convert", "cirr", cirr, "--images", cirr, "--output", output)
    code, out, err = genmm(*arguments)
    assert (code, err) == (0, "")
    assert "3 pictures, 1 queries" in out
    assert f"genmm index {output}/items.jsonl --output {output}/index" in out
    assert f"genmm eval {output}/index {output}/queries.jsonl -k 1,5,10,50" in out
    assert json.loads((output / "queries.jsonl").read_text()) == {
        "id": "1",
        "text": "in red",
        "image": str(cirr / "dev/a.png"),
        "relevant": ["b"],
        "reference": "a",
        "subset": ["b", "c"],
    }
    code, out, err = genmm(*arguments)
    assert (code, out) == (2, "")
    assert "items.jsonl is there already" in err
    code, out, err = genmm(*arguments, "--overwrite", "--json")
    assert code == 0
    assert json.loads(out) == {
        "items": str(output / "items.jsonl"),
        "queries": str(output / "queries.jsonl"),
        "pictures": 3,
        "asked": 1,
        "missing": [],
        "dropped": 0,
    }


def test_names_with_blanks_are_quoted(genmm, cirr, tmp_path):
    code, out, _ = genmm("convert", "cirr", cirr, "-i", cirr, "-o", tmp_path / "a b")
    assert code == 0
    assert f"genmm index '{tmp_path}/a b/items.jsonl'" in out


def test_missing_pictures(genmm, cirr, tmp_path):
    (cirr / "dev/c.png").unlink()
    arguments = ("convert", "cirr", cirr, "--images", cirr, "-o", tmp_path / "val")
    code, out, err = genmm(*arguments)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "dev/c.png" in err
    assert "--skip-missing" in err
    assert not (tmp_path / "val").exists()
    code, out, err = genmm(*arguments, "--skip-missing", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["missing"] == ["c"]
    code, out, _ = genmm(*arguments, "--skip-missing", "--overwrite", "-q")
    assert code == 0
    assert "Left out: 1 pictures without a file, for example c, and" in out


def test_fashioniq_by_category(genmm, tmp_path):
    dump(tmp_path / "split.dress.val.json", ["A", "B"])
    record = {"candidate": "A", "target": "B", "captions": ["is red", "is long"]}
    dump(tmp_path / "cap.dress.val.json", [record])
    for name in ("A", "B"):
        (tmp_path / f"{name}.jpg").touch()
    arguments = ("convert", "fashioniq", tmp_path, "-i", tmp_path, "-o", tmp_path / "out")
    code, out, err = genmm(*arguments, "--category", "dress")
    assert (code, err) == (0, "")
    assert out.rstrip().endswith("-k 10,50")
    line = json.loads((tmp_path / "out/queries.jsonl").read_text())
    assert (line["text"], line["group"]) == ("is red and is long", "dress")
    assert line["filters"] == {"category": "dress"}
    assert genmm(*arguments, "--category", "hat")[0] == 2
    code, _, err = genmm(*arguments)
    assert code == 2
    assert "split.shirt.val.json does not exist" in err


def test_what_does_not_go_together(genmm, cirr, tmp_path):
    code, _, err = genmm(
        "convert", "cirr", cirr, "-i", cirr, "-o", tmp_path / "x", "--category", "dress"
    )
    assert code == 2
    assert "cirr has no categories" in err
    assert genmm("convert", "coco", cirr, "-i", cirr, "-o", tmp_path / "x")[0] == 2


@pytest.mark.parametrize("last", [1, 2])
def test_a_full_disk_does_not_stand_in_the_way_of_the_next_try(
    genmm, cirr, tmp_path, monkeypatch, last
):
    synced = []

    def full(handle):
        synced.append(handle)
        if len(synced) >= last:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    output = tmp_path / "val"
    arguments = ("convert", "cirr", cirr, "--images", cirr, "--output", output)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        patched.setattr("genmm_retriever.corpus.store.files.sync_folder", lambda _: None)
        code, out, err = genmm(*arguments)
    assert (code, out) == (2, "")
    assert "No space left" in err
    assert list(output.iterdir()) == []
    assert genmm(*arguments)[0] == 0
