from __future__ import annotations

import json

import numpy as np
import pytest

from genmm_retriever import Hit, Item, Query
from genmm_retriever.errors import QueryError
from genmm_retriever.evaluation import (
    EvalQuery,
    evaluate,
    group_metrics,
    mean_metrics,
    mean_of_groups,
    read_queries,
    subset_metrics,
)

MEAN = "mean_recall@5_subset@1"


class FromScores:
    """Ranks items by a table of scores, among `Query.ids` alone if the query has them."""

    def __init__(self, table):
        self.table = table
        self.calls = []
        self.last_timings, self.last_candidates = {}, []

    def retrieve(self, query, *, k=None, verify=None):
        self.calls.append((query.text, k, query.ids))
        if query.text not in self.table:
            raise QueryError(f"no answer for {query.text}", "ask something else")
        scores = self.table[query.text]
        allowed = scores.keys() if query.ids is None else scores.keys() & set(query.ids)
        ranked = sorted(allowed, key=lambda name: -scores[name])
        self.last_timings = {"decode": 1.0 if query.ids is None else 100.0}
        self.last_candidates = [ranked]
        return [
            Hit(item=Item(id=name, text=name), score=0.5, rank=rank)
            for rank, name in enumerate(ranked[:k], start=1)
        ]


def ranked(*names):
    return {name: float(-place) for place, name in enumerate(names)}


def ask(text, target, reference=None, subset=(), group=None):
    query = Query(text=text, image="reference.png")
    return EvalQuery(text, query, frozenset({target}), reference, frozenset(subset), group)


@pytest.fixture
def cirr():
    """Three queries, each with a set of four pictures; worked out by hand.

    one: t is third of all, second beside the reference; second of its set.
    two: t is eighth of all, seventh beside the reference; first of its set.
    three: t is first of all and of its set.
    """
    table = {
        "one": ranked("r", "a", "t", "b", "x", "y", "z", "v"),
        "two": ranked("x", "y", "r", "z", "v", "w", "u", "t", "a", "b"),
        "three": ranked("t", "r", "a", "b", "x", "y", "z", "v"),
    }
    return FromScores(table), [ask(text, "t", "r", {"a", "b", "t"}) for text in table]


def test_cirr_by_hand(cirr):
    report = evaluate(*cirr, ks=(1, 2, 5, 7), progress=False)
    percent = pytest.approx
    assert report.metrics["recall@1"] == percent(100 / 3)
    assert report.metrics["recall@2"] == percent(200 / 3)
    assert report.metrics["recall@5"] == percent(200 / 3)
    assert report.metrics["recall@7"] == percent(100.0)
    assert report.metrics["subset@1"] == percent(200 / 3)
    assert report.metrics["subset@2"] == percent(100.0)
    assert report.metrics["subset@3"] == percent(100.0)
    assert report.metrics[MEAN] == percent((200 / 3 + 200 / 3) / 2)
    assert report.metrics["mrr@10"] == percent((1 / 2 + 1 / 7 + 1) / 3)
    # The order before verification is judged without the reference too.
    assert report.metrics["unverified@2"] == percent(200 / 3)
    assert report.metrics["candidates@50"] == 100.0
    assert report.subsets["one"] == ["a", "t", "b"]
    assert {"r"}.isdisjoint(item for found in report.run.values() for item, _ in found)
    low, high = report.intervals["subset@1"]
    assert 0 <= low <= 200 / 3 <= high <= 100


def test_the_reference_costs_no_place(cirr):
    retriever, queries = cirr
    report = evaluate(retriever, queries[:1], ks=(1, 20), progress=False)
    assert retriever.calls == [
        ("one", 21, None),
        ("one", 21, None),
        ("one", 3, ("a", "b", "t")),
    ]
    assert len(report.run["one"]) == 7
    shallow = evaluate(FromScores(retriever.table), queries[1:2], ks=(1,), progress=False)
    assert len(shallow.run["two"]) == 9


def test_asking_among_the_subset_is_not_timed(cirr):
    report = evaluate(*cirr, progress=False)
    assert report.stages["decode"].tolist() == [1.0, 1.0, 1.0]


def test_the_mean_needs_no_cut_off_of_five(cirr):
    report = evaluate(*cirr, ks=(1,), progress=False)
    assert "recall@5" not in report.metrics
    assert report.metrics[MEAN] == pytest.approx(200 / 3)


def by_the_published_protocol(table, queries, ks):
    """Rank everything once, delete the reference, then keep the members: as CIRR's code does."""
    found = {f"recall@{k}": [] for k in ks} | {f"subset@{k}": [] for k in (1, 2, 3)}
    for query in queries:
        scores = table[query.query.text]
        order = sorted(scores, key=lambda name: -scores[name])
        order = [name for name in order if name != query.reference]
        within = [name for name in order if name in query.subset]
        for name in found:
            among = order if name.startswith("recall") else within
            top = among[: int(name.partition("@")[2])]
            found[name].append(float(bool(query.relevant & set(top))))
    return {name: 100 * float(np.mean(values)) for name, values in found.items()}


@pytest.mark.parametrize("seed", range(5))
def test_equals_the_published_protocol_on_random_rankings(seed):
    draw = np.random.default_rng(seed)
    names = [f"i{n}" for n in range(60)]
    table, queries = {}, []
    for n in range(40):
        table[f"q{n}"] = dict(zip(names, draw.permutation(60).astype(float), strict=True))
        members = [str(name) for name in draw.choice(names, 6, replace=False)]
        # The published sets hold the reference.
        queries.append(ask(f"q{n}", members[1], members[0], members))
    ks = (1, 5, 10, 50)
    report = evaluate(FromScores(table), queries, ks=ks, progress=False)
    wanted = by_the_published_protocol(table, queries, ks)
    assert {name: report.metrics[name] for name in wanted} == pytest.approx(wanted)
    assert report.metrics[MEAN] == pytest.approx((wanted["recall@5"] + wanted["subset@1"]) / 2)


def test_only_queries_with_a_subset_count_for_it():
    queries = [ask("one", "t", "r", {"a", "t"}), ask("two", "t")]
    run, subsets = {"one": ["r", "t"], "two": ["x"]}, {"one": ["outside", "r", "t", "a"]}
    values = subset_metrics(queries, run, subsets)
    assert {name: value.tolist() for name, value in values.items()} == {
        "subset@1": [1.0],
        "subset@2": [1.0],
        "subset@3": [1.0],
        MEAN: [1.0],
    }
    assert subset_metrics(queries[1:], run, {}) == {}
    missed = mean_metrics(subset_metrics(queries, run, {}))
    assert (missed["subset@3"], missed[MEAN]) == (0.0, 50.0)


def test_fashioniq_by_hand():
    table = {
        "d1": ranked("a", "r", "t"),
        "d2": ranked("t", "a", "r"),
        "d3": ranked("t", "a", "r"),
        "s1": ranked("r", "a", "t"),
    }
    queries = [ask(text, "t", group={"d": "dress", "s": "shirt"}[text[0]]) for text in table]
    report = evaluate(FromScores(table), queries, ks=(1, 3), progress=False)
    assert report.groups["dress"]["recall@1"] == pytest.approx(200 / 3)
    assert report.groups["shirt"]["recall@1"] == 0.0
    data = report.to_json()
    assert list(data["groups"]) == ["dress", "shirt"]
    assert data["groups"]["dress"] == {"recall@1": 66.6667, "recall@3": 100.0, "mrr@10": 0.7778}
    # Every category weighs the same: not 50, the share of the queries.
    assert data["mean_of_groups"] == {"recall@1": 33.3333, "recall@3": 100.0, "mrr@10": 0.5556}
    assert data["recall@1"] == 50.0
    text = report.to_text()
    assert "of 'dress'         recall@1 66.7  recall@3 100.0  mrr@10 0.778" in text
    assert "mean of groups     recall@1 33.3" in text


def test_groups_of_some_queries():
    queries = [ask("one", "t", group="b"), ask("two", "t"), ask("three", "t", group="a")]
    values = {"recall@10": np.array([1.0, 0.0, 0.0]), "mrr@10": np.array([0.5, 0.0, 0.0])}
    groups = group_metrics(queries, values)
    assert groups == {
        "b": {"recall@10": 100.0, "mrr@10": 0.5},
        "a": {"recall@10": 0.0, "mrr@10": 0.0},
    }
    assert mean_of_groups(groups) == {"recall@10": 50.0, "mrr@10": 0.25}
    assert group_metrics(queries[1:2], values) == mean_of_groups({}) == {}


def test_reports_of_other_queries_are_as_before():
    report = evaluate(FromScores({"one": ranked("t")}), [ask("one", "t")], progress=False)
    data = report.to_json()
    assert not {"groups", "mean_of_groups", "missing_subset", "subset@1", MEAN} & set(data)
    assert "subset" not in report.to_text()
    assert "groups" not in report.to_text()


def test_members_outside_the_index_are_counted(cirr):
    retriever, queries = cirr
    report = evaluate(retriever, queries, known=frozenset("tb"), progress=False)
    assert report.missing_subset == 1
    assert report.to_json()["missing_subset"] == 1
    assert "1 members of subsets; subset@k is too high" in report.to_text()
    whole = evaluate(retriever, queries, known=frozenset("tab"), progress=False)
    assert whole.to_json()["missing_subset"] == 0
    assert "members of subsets" not in whole.to_text()


def test_a_failing_query_among_a_subset_is_named():
    class Refuses(FromScores):
        def retrieve(self, query, *, k=None, verify=None):
            if query.ids is not None:
                raise QueryError("not among these", "")
            return super().retrieve(query, k=k, verify=verify)

    with pytest.raises(QueryError, match="query 'one': not among these"):
        evaluate(Refuses({"one": ranked("t")}), [ask("one", "t", "r", {"t"})], progress=False)


def test_a_file_of_composed_queries(tmp_path):
    line = {
        "id": "q",
        "text": "in red",
        "image": "r.png",
        "relevant": ["t"],
        "reference": "r",
        "subset": ["r", "t", "a"],
        "filters": {"category": "dress"},
        "group": "dress",
    }
    path = tmp_path / "q.jsonl"
    path.write_text(json.dumps(line) + "\n", encoding="utf-8")
    [found] = read_queries(path)
    assert found.query.filters == {"category": "dress"}
    assert (found.reference, found.subset, found.group) == ("r", {"r", "t", "a"}, "dress")
    retriever = FromScores({"in red": ranked("r", "a", "t")})
    report = evaluate(retriever, [found], ks=(1, 2), progress=False)
    assert report.metrics["recall@2"] == 100.0
    assert report.metrics["subset@1"] == 0.0
    assert retriever.calls[-1] == ("in red", 3, ("a", "t"))
