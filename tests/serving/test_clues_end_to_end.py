"""The command line over an index of clues, with a tiny model of random weights."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("numba")

from genmm_retriever import Hit, Item
from genmm_retriever.schema import Evidence, FoundClue
from genmm_retriever.serving.commands_ask import render_hits

TEXTS = (
    "A brown dog catches a frisbee on the beach.",
    "Two children build a castle of sand.",
    "A cyclist rides down a muddy hill.",
    "An old man plays the violin in a subway station.",
)


def run(genmm, *arguments):
    code, out, err = genmm(*arguments, "--json", "-q")
    assert code == 0, err
    return json.loads(out)


def test_index_search_add_delete_info_check(genmm, model, tmp_path, quiet_logging):
    source, index = tmp_path / "texts.jsonl", tmp_path / "it.genmm"
    lines = [
        {"id": f"t{n}", "text": text, "metadata": {"half": n // 2}} for n, text in enumerate(TEXTS)
    ]
    source.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    built = run(genmm, "index", source, "-o", index, "--model", model, "--identifiers", "clue")
    assert built["items"] == 4
    info = run(genmm, "info", index)
    assert info["identifier_kind"] == "clue"
    assert info["items"] == info["texts"] == 4

    code, out, err = genmm("info", index, "--prefix", "a")
    assert (code, out) == (2, "")
    assert "every phrase" in err

    hits = run(genmm, "search", index, "a violin", "-k", 4)["hits"]
    assert len({hit["id"] for hit in hits}) == 4
    named = [hit for hit in hits if hit["evidence"]["clues"]]
    assert named
    for hit in named:
        for clue in hit["evidence"]["clues"]:
            for start, end in clue["spans"]:
                assert hit["text"][start:end] == clue["text"]
    code, out, err = genmm("search", index, "a violin", "-k", 4, "-q")
    assert code == 0, err
    assert "clue  " in out
    some = run(genmm, "search", index, "a violin", "--filter", "half=1", "--beams", 3)["hits"]
    assert {hit["id"] for hit in some} == {"t2", "t3"}

    more = tmp_path / "more.jsonl"
    more.write_text('{"id": "new", "text": "A train crosses a bridge at night."}\n')
    assert run(genmm, "add", index, more)["added"] == 1
    assert len(run(genmm, "search", index, "x", "-k", 9)["hits"]) == 5
    assert run(genmm, "delete", index, "t0")["deleted"] == 1
    left = run(genmm, "search", index, "a dog", "-k", 9, "--verify", "off")["hits"]
    assert {hit["id"] for hit in left} == {"t1", "t2", "t3", "new"}
    assert run(genmm, "check", index)["ok"]


def test_clues_are_shown_with_their_places():
    clues = (
        FoundClue(text="old man", logprob=-2.5, score=9.0, count=3, documents=2, spans=((3, 10),)),
        FoundClue(
            text="a", logprob=-1, score=1, count=3, documents=2, given=True, spans=((0, 1), (4, 5))
        ),
    )
    hit = Hit(item=Item(id="x", text="An old man"), score=1, rank=1, evidence=Evidence(clues=clues))
    shown = render_hits([hit])
    assert "clue        old man  (logprob -2.50, at 3-10)" in shown
    assert "clue        a  (of the query, logprob -1.00, at 0-1, 4-5)" in shown
    bare = FoundClue(text="b", logprob=-1, score=0, count=1, documents=1)
    shown = render_hits([hit.model_copy(update={"evidence": Evidence(clues=(bare,))})])
    assert "b  (logprob -1.00)" in shown
