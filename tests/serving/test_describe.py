"""`genmm describe`: its options, what it prints, and what `info` and `check` say of notes."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("torch")

from genmm_retriever import Item, describing
from genmm_retriever.corpus.store import (
    IdentifierRecord,
    IndexReader,
    IndexSettings,
    IndexWriter,
    Note,
    NoteBook,
    NoteVersion,
    marks_by_row,
)
from genmm_retriever.describing import NotesReport


@pytest.fixture
def noted(tmp_path):
    """An index of three texts with two notes, one of them outdated."""
    path = tmp_path / "it.genmm"
    with IndexWriter.create(path, IndexSettings(model="none", model_fingerprint="f")) as writer:
        writer.stage_items([Item(id=f"t{n}", text=f"A bus {n}") for n in range(3)])
        rows = writer.pending("identifiers")
        writer.put_identifiers([IdentifierRecord(r, f"a, {r}", (r + 5, 0)) for r in rows])
        writer.publish()
    with IndexReader.open(path) as reader:
        marks = dict(marks_by_row(reader))
    notes = [
        Note("t0", marks[0], "knowledge", "Buses\nrun.", NoteVersion("0", "old", "x")),
        Note("t1", marks[1], "knowledge", "Buses stop.", NoteVersion("1", "new", "y")),
        Note("t2", marks[2], "refined", "", NoteVersion("1", "new", "y"), "it is empty"),
    ]
    with NoteBook.writing(path, marks.values()) as book:
        book.put(notes)
    return path


def test_options_are_passed_on_and_the_report_is_told(genmm, monkeypatch, tmp_path):
    seen = {}

    def describe_index(path, **options):
        seen.update(options, path=path)
        return NotesReport(
            9,
            written={"dense": 4, "refined": 1},
            dropped={"dense": 0, "refined": 2},
            kept={"dense": 3, "refined": 0},
            outdated={"dense": 1, "refined": 0},
            reasons={"it loops": 2},
            left=5,
            skipped=[("a\nb", "cut short")],
        )

    monkeypatch.setattr(describing, "describe_index", describe_index)
    options = ["--kind", "refined", "--kind", "dense", "--model", "m", "--limit", 4, "--rewrite"]
    code, out, err = genmm("describe", tmp_path, *options, "--device", "cpu")
    assert code == 0, err
    assert seen == {
        "path": tmp_path,
        "kinds": ["dense", "refined"],
        "model": "m",
        "limit": 4,
        "rewrite": True,
        "device": "cpu",
        "progress": True,
    }
    assert out.splitlines() == [
        "dense     4 written, 3 there already (1 by other prompts or another model; see --rewrite)",
        "refined   1 written, 0 there already, 2 could not be used",
        "  of 2 notes: it loops",
        "5 items are left; the same command goes on with them",
    ]
    assert err == "skipped a\\nb: cut short\n"
    code, out, err = genmm("describe", tmp_path, "--json", "-q")
    assert (code, err) == (0, "")
    assert seen["kinds"] is None
    assert not seen["progress"]
    data = json.loads(out)
    assert data["written"] == {"dense": 4, "refined": 1}
    assert data["skipped"] == [{"id": "a\nb", "reason": "cut short"}]


def test_notes_are_shown_with_who_wrote_them(genmm, noted):
    code, out, err = genmm("describe", noted, "--show")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "t0  knowledge, by old (outdated): Buses\\nrun.",
        "t1  knowledge, by new: Buses stop.",
    ]
    data = json.loads(genmm("describe", noted, "--show", "--limit", 1, "--json")[1])
    assert data["notes"] == [
        {
            "id": "t0",
            "kind": "knowledge",
            "text": "Buses\nrun.",
            "outdated": True,
            "written_by": {"prompts": "0", "model": "old", "fingerprint": "x"},
        }
    ]
    assert "there are no notes" in genmm("describe", noted, "--show", "--kind", "dense")[1]


def test_info_counts_and_check_verifies_them(genmm, noted):
    data = json.loads(genmm("info", noted, "--json")[1])
    assert data["notes"] == {"dense": 0, "refined": 0, "knowledge": 2}
    assert data["outdated_notes"] == {"dense": 0, "refined": 0, "knowledge": 1}
    assert "notes" in genmm("info", noted)[1]
    assert genmm("check", noted)[0] == 0
    path = noted / "notes" / "notes.jsonl"
    path.write_bytes(path.read_bytes().replace(b"Buses stop", b"Bases stop"))
    code, out, err = genmm("check", noted, "--json")
    assert code == 2
    [problem] = json.loads(out)["problems"]
    assert (problem["file"], problem["what"]) == (
        "notes/notes.jsonl",
        "line 2 is not as it was written",
    )
    assert "genmm describe" in err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--kind", "poem"], "poem"),
        (["--limit", "0"], "--limit"),
        (["--show", "--rewrite"], "--show"),
        (["--model", "no/such-model-anywhere"], "no/such-model-anywhere"),
    ],
)
def test_bad_usage_is_one_line(genmm, noted, monkeypatch, arguments, named):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code, out, err = genmm("describe", noted, *arguments, "-q")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert named in err


def test_an_absent_index_is_named(genmm, tmp_path):
    for more in ((), ("--show",)):
        code, out, err = genmm("describe", tmp_path / "no", *more)
        assert (code, out) == (2, "")
        assert str(tmp_path / "no") in err


def test_a_real_model_writes_notes(genmm, model, noted, quiet_logging):
    code, out, err = genmm("describe", noted, "--model", model, "--limit", 2, "--json", "-q")
    assert code == 0, err
    data = json.loads(out)
    # It reads text alone; what weights drawn at random write may be of use or not.
    assert set(data["written"]) == {"knowledge"}
    assert data["kept"]["knowledge"] == 2
    assert data["written"]["knowledge"] + data["dropped"]["knowledge"] == 1
    again = json.loads(genmm("describe", noted, "--model", model, "--json", "-q")[1])
    assert again["written"] == again["dropped"] == {"knowledge": 0}
