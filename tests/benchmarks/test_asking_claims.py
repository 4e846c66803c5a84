"""Claims about asking: their figures from scripted rankings, and each of them run once."""

from __future__ import annotations

import copy
import doctest
import json

import numpy as np
import pytest
from benchmarks.claims import (
    BENCHMARKS,
    abstention,
    adapters,
    asking,
    composed,
    planted,
    resolving,
    wording,
)
from benchmarks.corpora.photos import Made
from benchmarks.harness import Bar, Options, Skipped, result_of

from genmm_retriever import building
from genmm_retriever.evaluation.datasets import EvalQuery
from genmm_retriever.identifiers import HashingEncoder
from genmm_retriever.schema import Evidence, Hit, Item, Query

PHOTOS = 12
"""As many as a quick run indexes."""


class Scripted:
    """Finds what is written down for a query's words, or for its lone picture, within its ids."""

    def __init__(self, found, probabilities=None):
        self.found, self.probabilities = found, probabilities or {}
        self.last_timings, self.last_candidates = {"decode": 0.5}, [[]]
        self.asked = []

    def retrieve(self, query, *, k=10, verify=None):
        self.asked.append(query)
        names = self.found.get((query.text, query.image), [])
        names = [name for name in names if query.ids is None or name in query.ids][:k]
        self.last_candidates = [names]
        return [
            Hit(
                item=Item(id=name, text=name),
                score=1 / rank,
                rank=rank,
                evidence=Evidence(verification=self.probabilities.get(name)),
            )
            for rank, name in enumerate(names, start=1)
        ]

    def retrieve_batch(self, queries, *, k=10, verify=None):
        hits = [self.retrieve(query, k=k, verify=verify) for query in queries]
        self.last_candidates = [[hit.item.id for hit in some] for some in hits]
        return hits


def queries(*texts, relevant="right"):
    return [EvalQuery(text, Query(text=text), frozenset({relevant})) for text in texts]


def test_arms_are_compared_query_by_query():
    first = asking.ask(Scripted({("a", None): ["right"], ("b", None): ["x"]}), queries("a", "b"))
    second = asking.ask(Scripted({("a", None): ["x", "right"], ("b", None): []}), queries("a", "b"))
    assert (first.recall("recall@1"), second.recall("recall@1")) == (50, 0)
    assert first.recall() == second.recall() == 50
    assert first.seconds["decode"] == 0.5
    assert asking.gained(first, second)["recall@1"][0] == 50
    assert asking.gained(first, second)["recall@10"] == [0, 0, 0]
    details = asking.shown({"one": first, "two": second}, ("one", "two"))
    assert details["queries"] == 2
    assert details["arms"]["one"]["recall@1"][0] == 50
    assert details["arms"]["one"]["seconds_a_query"]["all"] >= 0
    assert details["differences"]["one minus two"]["recall@5"] == [0, 0, 0]
    json.dumps(details)


def test_a_set_without_queries_is_skipped():
    with pytest.raises(Skipped, match="no query"):
        asking.queries_of([])
    [query] = asking.queries_of(
        [{"id": "q", "text": "red", "image": "a.png", "relevant": ["b"], "reference": "a"}]
    )
    assert query.query.is_composed
    assert (query.reference, query.relevant) == ("a", {"b"})


def arm(*found):
    """An arm whose recalls at all depths are the same."""
    return asking.Arm({f"recall@{k}": np.array(found, float) for k in (1, 5, 10)}, {"all": 1.0})


def test_a_gain_that_may_be_noise_is_no_gain():
    claim = adapters._gain
    clear = claim({"plain": arm(*[0] * 8, 1), "new": arm(*[1] * 9)}, "new", "plain")
    assert clear.value == pytest.approx(100 * 8 / 9)
    assert clear.also[0].met
    noise = claim({"plain": arm(*[0] * 9), "new": arm(*[0] * 8, 1)}, "new", "plain")
    assert noise.value > 0
    assert not noise.also[0].met
    rounds = {name: arm(0, 0, place > 1) for place, name in enumerate(("plain", *adapters.ROUNDS))}
    found = claim(rounds, "reason:3", "reason:1", peers=["reason:2"])
    assert found.value == found.peers["reason:2"] == pytest.approx(100 / 3)
    assert "reason:3 minus plain" in found.details["differences"]
    assert Bar(">", 0).met(0.1)
    assert not Bar(">", 0).met(0)


def test_composed_queries_are_held_against_the_better_half(monkeypatch):
    both = [
        EvalQuery(f"q{n}", Query(text=f"t{n}", image="i.png"), frozenset({"right"}), "i")
        for n in range(6)
    ]
    found = {(f"t{n}", "i.png"): ["i", "right"] for n in range(6)}
    found |= {(None, "i.png"): ["i", "x"], ("t0", None): ["right"]}
    asked = Scripted(found)
    monkeypatch.setattr(composed, "adapted", lambda retriever, names: Scripted({}))
    claim = composed.compared(asked, both)
    assert claim.value == pytest.approx(6)
    assert claim.details["better_half"] == composed.TEXT
    expected = {composed.IMAGE: 0, composed.TEXT: 1, composed.COMPOSED: 0}
    assert claim.peers == pytest.approx(expected)
    assert claim.also[0].met
    del found["t0", None]
    # Where neither half finds anything, one query counts as found.
    assert composed.compared(asked, both).value == pytest.approx(6)


def test_areas():
    draw = np.random.default_rng(0)
    positive, negative = draw.normal(0.5, 1, 60), draw.normal(0, 1, 60)
    value, low, high = abstention.area_interval(positive, negative)
    assert low < value < high
    assert value == abstention.area(positive, negative)
    assert abstention.area_interval(positive, positive)[0] == 0.5
    assert abstention.area_interval(positive + 9, negative) == pytest.approx((1, 1, 1))
    metrics = pytest.importorskip("sklearn.metrics")
    scores = np.concatenate([positive, negative])
    assert value == pytest.approx(metrics.roc_auc_score(np.repeat([1, 0], 60), scores))


@pytest.mark.parametrize("module", [abstention, planted])
def test_examples(module):
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


def test_scores_of_first_hits_with_and_without_the_photo():
    found = {("a", None): ["right", "x"], ("b", None): ["x", "right"]}
    asked = Scripted(found, {"right": 0.9, "x": 0.4})
    everything, rest = ["right", "x", "y"], ["x", "y"]
    kept = abstention.first_hits(asked, queries("a", "b"), [everything] * 2)
    lost = abstention.first_hits(asked, queries("a", "b"), [rest] * 2)
    assert kept.scores.tolist() == [0.9, 0.4]
    assert kept.right.tolist() == [True, False]
    assert lost.scores.tolist() == [0.4, 0.4]
    gone = abstention.first_hits(asked, queries("a", "b"), [rest, []])
    assert gone.scores.tolist() == [0.4, 0.0]
    measured = abstention._measured(kept, {0: lost, 20: gone}, 3)
    # Half of the queries are found, and the others score as before: as much as can be had.
    assert measured.value == measured.peers["what R@1 allows a score of the first hit"] == 0.75
    assert measured.details["same_first_score_percent"] == 50
    assert asked.asked[0].ids == ("right", "x", "y")
    small = abstention._measured(kept, {0: lost}, 3, {2: (kept, gone)})
    assert small.peers["among 2 photos"] == small.details["among 2 photos"]["area"][0] == 0.875
    with pytest.raises(Skipped, match="verified"):
        abstention.first_hits(Scripted(found), queries("a"), [everything])


def test_a_small_collection_holds_what_is_asked_for():
    names = list("abcdef")
    few = abstention._few(names, [0, 5, 0], 3, seed=0)
    assert [len({*some}) for some in few] == [3, 3, 3]
    assert few == abstention._few(names, [0, 5, 0], 3, seed=0)
    assert few != abstention._few(names, [0, 5, 0], 3, seed=1)
    assert ["a" in few[0], "f" in few[1]] == [True, True]
    assert "a" not in abstention._lacking(few[0], "a")


def test_intruders_among_the_hits():
    found = {("a", None): ["p", "right"], ("b", None): ["right", "x", "p"], ("c", None): []}
    asked = queries("a", "b", "c")
    orders = planted.intrusion(Scripted(found), asked, {"p", "right"}, "off")
    assert orders.intruder.tolist() == [1, pytest.approx(1 / 3), 0]
    assert orders.answer.tolist() == [0.5, 1, 0]
    assert orders.first() == pytest.approx(100 / 3)
    quiet = planted.intrusion(Scripted({("b", None): ["right"]}), asked, {"p", "right"}, "off")
    row = planted._row(orders, quiet, np.array([True, True, False]))
    assert row["gain"][0] == pytest.approx(4 / 9)
    assert row["gain_where_they_answer"][0] == pytest.approx(0.25)
    assert row["first_hits_percent"] == {"orders": pytest.approx(100 / 3), "plain words": 0}
    assert planted.holds(-0.1, -0.2, -0.05)
    assert not planted.holds(0.05, 0.03, 0.07)


@pytest.fixture
def short_model(tiny_model, monkeypatch):
    """The tiny model, which writes little, and an encoder that needs no loading."""
    model = copy.copy(tiny_model)
    original = tiny_model.generate
    model.generate = lambda *args, **options: original(*args, **{**options, "max_new_tokens": 4})
    monkeypatch.setattr("benchmarks.corpora.models.load", lambda name: model)
    monkeypatch.setattr(building, "default_encoder", HashingEncoder)
    for module in (adapters, composed, abstention, resolving, wording):
        monkeypatch.setattr(module, "QUICK_QUERIES", 2)
    monkeypatch.setattr(planted, "QUICK_QUERIES", 4)
    return model


@pytest.fixture
def flickr(tmp_path, noise):
    """A folder like Flickr8k's dev part; its captions allow every set but the composed one."""
    folder = tmp_path / "flickr8k"
    folder.mkdir()
    places = ("harbour", "castle", "meadow", "station", "market", "garden", "tower")
    lines = []
    for n in range(PHOTOS):
        noise(seed=n).save(folder / f"{n}.png")
        beast, place = ("dog", "cat")[n % 2], places[n // 2]
        captions = [
            f"A small {beast} with a ball near the {place}",
            f"Brown {beast} with a red ball at a {place}",
            f"The {beast} of the {place}",
        ]
        lines.append({"id": f"p{n}", "image": f"{n}.png", "captions": captions})
    (folder / "dev.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return folder


def run(name, folder, **options):
    given = Options(quick=True, cache=folder / "cache", **options)
    result = result_of(BENCHMARKS[name], given, name)
    assert not result.get("skipped")
    assert isinstance(result["ok"], bool)
    return json.loads(json.dumps(result))


def test_adapters_share_an_index_that_is_built_once(short_model, flickr, tmp_path):
    result = run("query_rewriting", tmp_path, flickr=flickr)
    assert set(result["details"]["arms"]) == {"plain", "rewritten", "bare captions"}
    assert result["details"]["queries"] == 2
    (index,) = (tmp_path / "cache" / "asked").iterdir()
    written = (index / "manifest.json").stat().st_mtime_ns
    result = run("reasoning_rounds", tmp_path, flickr=flickr, index=index)
    assert set(result["details"]["arms"]) == {"plain", *adapters.ROUNDS}
    assert all(one["seconds_a_query"]["all"] > 0 for one in result["details"]["arms"].values())
    assert (index / "manifest.json").stat().st_mtime_ns == written
    result = run("query_expansion", tmp_path, flickr=flickr, index=index)
    assert "expand:3 minus plain" in result["details"]["differences"]
    assert "adapt" in result["details"]["arms"]["expand:3"]["seconds_a_query"]


def test_abstention_and_planted_texts_run(short_model, flickr, tmp_path, monkeypatch):
    monkeypatch.setattr(abstention, "REMOVED", (0, 2))
    result = run("abstention", tmp_path, flickr=flickr)
    assert 0 <= result["value"] <= 1
    assert result["details"]["nearest_removed"] == [0, 2]
    result = run("planted_captions", tmp_path, flickr=flickr)
    assert len(result["also"]) == len(planted.VERIFIERS)
    assert result["details"]["planted"] == 8
    assert result["details"]["of_planted_items"] == 2
    assert set(result["peers"]) == {"choice", "yesno"}


@pytest.fixture
def knowledge(tmp_path, noise):
    """A folder like the knowledge task's."""
    folder = tmp_path / "knowledge"
    folder.mkdir()
    queries, passages = [], []
    for n, name in enumerate(
        ("tench", "puffin", "teapot", "pier", "broom", "lighter", "fig", "yurt")
    ):
        noise(seed=n).save(folder / f"{n}.png")
        line = {
            "id": f"n{n}",
            "image": f"{n}.png",
            "question": "What is it?",
            "passage_id": f"n{n}",
        }
        queries.append(line)
        passages.append(
            {
                "id": f"n{n}",
                "title": name,
                "names": [name],
                "text": f"a kind of {name} that some people have seen",
            }
        )
    for file, lines in (("queries.jsonl", queries), ("passages.jsonl", passages)):
        (folder / file).write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return folder


def test_claims_over_the_knowledge_task_run(short_model, knowledge, tmp_path):
    result = run("abstention_classes", tmp_path, knowledge=knowledge)
    assert result["details"]["items"] == result["details"]["queries"] == 2
    result = run("abstention_passages", tmp_path, knowledge=knowledge)
    assert (result["details"]["items"], result["details"]["queries"]) == (8, 2)
    result = run("reference_resolution", tmp_path, knowledge=knowledge)
    assert result["details"]["queries"] == 2
    assert result["details"]["glosses"] == 8
    assert set(result["details"]["arms"]) == {
        resolving.PLAIN,
        resolving.RESOLVED,
        resolving.WORDS,
        resolving.RESOLVED_WORDS,
    }
    result = run("passages_in_words", tmp_path, knowledge=knowledge)
    assert set(result["details"]["arms"]) == {wording.VERIFIED, wording.CLUES}
    assert result["details"]["queries"] > 0


def test_composed_claims_run(short_model, flickr, tmp_path, monkeypatch):
    records = [
        {
            "id": f"c{n}",
            "text": "now with a ball",
            "image": str(flickr / f"{n}.png"),
            "reference": f"p{n}",
            "relevant": [f"p{n + 1}"],
        }
        for n in range(2)
    ]
    monkeypatch.setattr(composed, "composed_queries", lambda *a, **k: Made(records=records))
    result = run("composed_queries", tmp_path, flickr=flickr)
    assert result["value"] >= 0
    assert set(result["peers"]) == {composed.IMAGE, composed.TEXT, composed.COMPOSED}
    result = run("reverse_consistency", tmp_path, flickr=flickr)
    assert set(result["details"]["arms"]) == {composed.BOTH, composed.CONSISTENT}
    (flickr / "items.jsonl").write_text("", encoding="utf-8")
    items = [{"id": f"p{n}", "image": str(flickr / f"{n}.png")} for n in range(4)]
    made = Made(records=records, items=items)
    monkeypatch.setattr(composed, "garment_queries", lambda *a, **k: made)
    result = run("composed_garments", tmp_path, clothing=flickr)
    assert result["details"]["queries"] == 2


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("query_rewriting", "--flickr"),
        ("composed_garments", "--clothing"),
        ("abstention_classes", "--knowledge"),
        ("reference_resolution", "--knowledge"),
    ],
)
def test_what_is_missing_is_said(name, option, tmp_path):
    result = result_of(BENCHMARKS[name], Options(cache=tmp_path), name)
    assert option in result["skipped"]


def test_an_index_must_fit(short_model, flickr, tmp_path, make_builtin):
    options = Options(quick=True, cache=tmp_path / "cache", flickr=flickr)
    photos = asking.dev_photos(options)[:3]
    few = [Item(id=photo.id, image=str(photo.image)) for photo in photos]
    with asking.open_items(options, short_model, few, "few") as retriever:
        index = retriever.path
    given = Options(quick=True, cache=tmp_path / "cache", flickr=flickr, index=index)
    with pytest.raises(Skipped, match="lacks 1 photos"):
        asking.open_photos(given, short_model, photos, queries("a", relevant="p9"))
    from genmm_retriever.models.builtin import BuiltinMLLM

    other = BuiltinMLLM(*make_builtin(seed=3), name="other")
    with pytest.raises(Skipped, match="other weights"):
        asking.open_photos(given, other, photos, queries("a", relevant="p1"))


def test_the_folders_are_not_written_down(tmp_path):
    from benchmarks.__main__ import _parser, _shown

    deep = tmp_path / "deep"
    arguments = ["--index", str(deep / "dev.genmm"), "--clothing", str(deep / "clothing")]
    given = _parser().parse_args(["abstention", *arguments])
    assert " ".join(_shown(given, "abstention")) == (
        "python -m benchmarks abstention --index dev.genmm --clothing clothing"
    )
