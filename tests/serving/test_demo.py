from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from genmm_retriever import Hit, Item, Query
from genmm_retriever.schema import Evidence
from genmm_retriever.serving.contact_sheet import draw
from genmm_retriever.serving.demo import PHOTOGRAPHS, photographs, questions

pytest.importorskip("skimage")


def test_photographs_are_all_there_and_open():
    items = photographs()
    assert [item.id for item in items] == list(PHOTOGRAPHS)
    for item in items:
        with Image.open(item.image) as picture:
            picture.verify()


def test_questions_have_answers_among_the_photographs(tmp_path):
    asked = questions(photographs(), tmp_path)
    in_words = [q for q in asked if q.query.image is None]
    pictures = [q for q in asked if q.query.image is not None]
    assert len(in_words) >= 6
    assert len(pictures) == 1
    assert {name for q in asked for name in q.expected} <= set(PHOTOGRAPHS)
    assert {
        "a cup of coffee",
        "a cat",
        "a motorcycle",
        "a man with a camera on a tripod",
    } <= {q.query.text for q in in_words}
    # The query picture is cut and mirrored, not the indexed file itself.
    with Image.open(pictures[0].query.image) as query, Image.open(photographs()[4].image) as cat:
        assert query.size != cat.size


def hits(count):
    items = [Item(id=f"{n}-{'long' * 20}", text="words " * 60) for n in range(1, count + 1)]
    filled = Evidence(filled=True)
    return [Hit(item=item, score=1.5, rank=n, evidence=filled) for n, item in enumerate(items, 1)]


def test_sheet_grows_with_rows_and_columns(tmp_path):
    Image.new("RGB", (2000, 10), "red").save(tmp_path / "wide.png")
    wide = Query(image=str(tmp_path / "wide.png"))
    small = draw([("x", Query(text="x"), hits(1))])
    large = draw([("x " * 200, Query(text="x"), hits(3)), ("this", wide, [])])
    assert large.width > small.width
    assert large.height > small.height
    assert draw([]).height > 0


def test_sheet_draws_the_probability_of_a_fused_hit():
    plain = Hit(item=Item(id="7", text="A dog."), score=0.25, rank=1)
    parts = Evidence(verification=0.25, parts={"fused": 1.0})
    fused = plain.model_copy(update={"score": 1.0, "evidence": parts})
    agreed = fused.model_copy(update={"evidence": Evidence(parts={"fused": 1.0})})
    sheets = [draw([("x", Query(text="x"), [hit])]) for hit in (plain, fused, agreed)]
    # The bar below the name is as long as the probability is high, where there is one.
    bars = [sum(n for n, c in sheet.getcolors(10**6) if c == (18, 104, 92)) for sheet in sheets]
    assert bars[1] < bars[2] - 300


def test_sheet_shows_the_pictures(tmp_path):
    Image.new("RGB", (300, 300), (255, 0, 0)).save(tmp_path / "red.png")
    hit = Hit(item=Item(id="red", image=str(tmp_path / "red.png")), score=0.5, rank=1)
    sheet = draw([("red", Query(text="red"), [hit])])
    assert (255, 0, 0) in {colour for _, colour in sheet.getcolors(1 << 24)}
    assert (255, 0, 0) not in {c for _, c in draw([("r", Query(text="r"), [])]).getcolors(1 << 24)}


def test_command_writes_index_sheet_and_json(genmm, words, tmp_path):
    folder = tmp_path / "demo"
    code, out, _ = genmm("demo", "--output", folder, "--json")
    assert code == 0
    data = json.loads(out)
    assert len(data["questions"]) >= 7
    assert all(len(question["hits"]) == 4 for question in data["questions"])
    assert data["found_first"] == sum(q["found_first"] for q in data["questions"])
    assert (Path(data["index"])).is_dir()
    with Image.open(data["sheet"]) as sheet:
        assert sheet.height > sheet.width
    code, out, _ = genmm("demo", "--output", folder)
    assert code == 0
    assert "a cup of coffee" in out
    assert str(folder / "results.png") in out


def test_unwritable_output_is_one_line(genmm, words, tmp_path):
    (tmp_path / "file").write_text("in the way")
    code, out, err = genmm("demo", "--output", tmp_path / "file", "--quiet")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert str(tmp_path / "file") in err
