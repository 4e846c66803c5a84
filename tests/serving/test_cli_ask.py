"""`genmm ask`, and `--adapt` of search and eval, over scripted searchers and writers."""

from __future__ import annotations

import json
import sys
import types
from typing import ClassVar

import pytest

from genmm_retriever.models import loading

from ..querying.conftest import ScriptedSearcher, ScriptedWriter

pytest.importorskip("transformers")  # now: what it reads of the environment, tests change

WORDY = "please find me a picture that I saw a while ago of a dog in the snow thanks"
ANSWERS = {
    "Answer the question": {"found": True, "answer": "A frisbee.", "sources": [2]},
    "must be true": {"constraints": "dog, snow"},
}


class Opened(ScriptedSearcher):
    """What `from_index` opens."""

    _found: ClassVar = {"dog, snow": [("a", 0.9), ("b", 0.2)], "": [("b", 0.4), ("a", 0.2)]}

    @classmethod
    def from_index(cls, path, **options):
        made = cls(
            cls._found,
            model=ScriptedWriter(ANSWERS),
            k=options.get("k", 10),
        )
        made.model.calibration = {"answer_from": 0.3}
        return made

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()


@pytest.fixture(autouse=True)
def scripted(monkeypatch):
    module = types.ModuleType("genmm_retriever.retriever")
    module.GenerativeMMRetriever = Opened
    monkeypatch.setitem(sys.modules, "genmm_retriever.retriever", module)


def test_an_answer_with_its_sources(genmm):
    code, out, err = genmm("ask", "it.genmm", "What does the dog catch?", "--json")
    assert code == 0, err
    answer = json.loads(out)
    assert (answer["found"], answer["text"], answer["confidence"]) == (True, "A frisbee.", 0.4)
    assert [source["id"] for source in answer["sources"]] == ["a"]
    assert answer["query"]["text"] == "What does the dog catch?"
    code, out, _ = genmm("ask", "it.genmm", "What does the dog catch?")
    assert code == 0
    assert out.startswith("A frisbee.\n")
    assert "sources" in out


def test_not_found_says_why(genmm):
    code, out, _ = genmm("ask", "it.genmm", "What is it?", "--threshold", "0.8")
    assert code == 0
    assert out.startswith("not found: the best hit is right with probability 0.40")
    assert "looked at" in out
    code, out, _ = genmm("ask", "it.genmm", "What is it?", "--json", "--threshold", "0.8")
    assert json.loads(out)["found"] is False


def test_a_writer_that_fails_is_told_from_what_the_index_lacks(genmm, monkeypatch):
    monkeypatch.setitem(ANSWERS, "Answer the question", "It is a dog.")
    for options in ([], ["--json"]):
        code, out, err = genmm("ask", "it.genmm", "What is it?", *options)
        assert (code, out) == (1, "")
        assert "'scripted' gave no usable answer" in err
        assert err.count("\n") == 1


def test_a_search_shows_what_was_done_to_the_query(genmm):
    code, out, err = genmm("search", "it.genmm", WORDY, "--adapt", "rewrite", "-k", "2")
    assert code == 0, err
    assert out.startswith("rewrite  dog, snow")
    code, out, _ = genmm("search", "it.genmm", WORDY, "--adapt", "rewrite", "--json")
    hits = json.loads(out)["hits"]
    assert [hit["id"] for hit in hits] == ["a", "b"]
    assert hits[0]["evidence"]["steps"][0]["adapter"] == "rewrite"
    assert hits[0]["evidence"]["rewritings"] == [WORDY]


def test_a_fused_score_is_shown_beside_the_probability(genmm, monkeypatch):
    found = {"": [("b", 0.02), ("a", 0.01)]}
    monkeypatch.setattr(Opened, "_found", found)
    monkeypatch.setitem(ANSWERS, "dog", {"queries": ["a puppy"]})
    code, out, err = genmm("search", "it.genmm", "dog", "--adapt", "expand:1", "-k", "2")
    assert code == 0, err
    assert "  1  0.020  b  (fused 1.000)\n" in out
    found[""] = [("b", None), ("a", None)]
    _, out, _ = genmm("search", "it.genmm", "dog", "--adapt", "expand:1", "-k", "2")
    assert "  1  1.000  b  (fused)\n" in out
    found[""] = [("b", 0.02), ("a", 0.01)]
    _, out, _ = genmm("ask", "it.genmm", "dog", "--adapt", "expand:1")
    assert "probability 0.02" in out
    assert "  1  0.020  b  (fused 1.000)\n" in out
    _, out, _ = genmm("search", "it.genmm", "dog", "--adapt", "expand:1", "--json")
    [first, _] = json.loads(out)["hits"]
    assert (first["score"], first["evidence"]["verification"]) == (1.0, 0.02)


def test_another_model_writes(genmm, monkeypatch):
    asked = []

    def load(name, device=None):
        asked.append(name)
        return ScriptedWriter({"must be true": {"constraints": "a dog in snow"}})

    monkeypatch.setattr(loading, "load_generator", load)
    options = ("--adapt", "rewrite", "--writer", "openai:m", "--json")
    code, out, err = genmm("search", "it.genmm", WORDY, *options)
    assert code == 0, err
    assert asked == ["openai:m"]
    step = json.loads(out)["hits"][0]["evidence"]["steps"][0]
    assert step["text"] == "a dog in snow"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["ask", "it.genmm", " "], "question"),
        (["ask", "it.genmm", "what?", "-k", "0"], "-k"),
        (["ask", "it.genmm", "what?", "--threshold", "2"], "--threshold"),
        (["search", "it.genmm", "dog", "-k", "10001"], "10000"),
        (["ask", "it.genmm", "a", "--threshold", "0.9", "--verify", "off"], "verification"),
        (["search", "it.genmm", "dog", "--adapt", "rewrit"], "rewrit"),
        (["search", "it.genmm", "dog", "--adapt", "expand:99"], "expand:99"),
        (["search", "it.genmm", "dog", "--writer", "openai:m"], "--writer"),
    ],
)
def test_bad_usage_is_one_line_and_2(genmm, arguments, named):
    code, out, err = genmm(*arguments)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert named in err
