from __future__ import annotations

import pytest

from genmm_retriever import Hit, Item, Query
from genmm_retriever.errors import InputError, QueryError
from genmm_retriever.evaluation import EvalQuery, QuerySet, evaluate


class FromTable:
    """Answers from a table of rankings; the first stage ranks the other way round."""

    def __init__(self, table):
        self.table = table
        self.calls = []
        self.last_timings = {}
        self.last_candidates = []

    def retrieve(self, query, *, k=None, verify=None):
        self.calls.append((query.text, k, verify))
        if query.text not in self.table:
            raise QueryError(f"no answer for {query.text}", "ask something else")
        names = self.table[query.text]
        self.last_timings = {"encode": 0.25, "decode": 1.0, "verify": 0.5}
        self.last_candidates = [names[::-1]]
        return [
            Hit(item=Item(id=name, text=name), score=1 / rank, rank=rank)
            for rank, name in enumerate(names[:k], start=1)
        ]


def ask(text, *relevant):
    return EvalQuery(f"q-{text}", Query(text=text), frozenset(relevant))


@pytest.fixture
def report():
    retriever = FromTable({"cat": ["c", "d", "e"], "dog": ["c", "d", "e"]})
    return evaluate(retriever, [ask("cat", "c"), ask("dog", "d")], ks=(1, 2), progress=False)


def test_json_has_the_keys_of_the_contract(report):
    data = report.to_json()
    assert data["queries"] == 2
    assert data["recall@1"] == 50.0
    assert data["recall@2"] == 100.0
    assert data["mrr@10"] == 0.75
    assert {"p50", "p95", "decode", "verify"} <= set(data["seconds_per_query"])
    assert data["seconds_per_query"]["decode"] == 1.0
    assert data["seconds_per_query"]["verify"] == 0.5
    low, high = data["ci95"]["recall@1"]
    assert 0 <= low <= 50 <= high <= 100


def test_first_stage_is_judged_from_the_same_run(report):
    data = report.to_json()
    assert data["unverified@1"] == 0.0
    assert data["unverified@2"] == 50.0
    assert data["candidates@50"] == data["candidates@100"] == 100.0


def test_verification_that_lost_is_named(report):
    assert report.lost == ()
    assert report.to_json()["verification_lost"] == []
    assert "lost" not in report.to_text()
    # The first stage had both right ones in front.
    retriever = FromTable({"cat": ["c", "d", "e"], "dog": ["c", "d", "e"]})
    worse = evaluate(retriever, [ask("cat", "e"), ask("dog", "e")], ks=(1, 3), progress=False)
    assert worse.metrics["unverified@1"] == 100.0
    assert worse.lost == ("recall@1",)
    assert worse.to_json()["verification_lost"] == ["recall@1"]
    assert "lost   recall@1: --verify off" in worse.to_text()


def test_text_names_every_measure(report):
    text = report.to_text()
    for name in (*report.metrics, "queries", "p95"):
        assert name in text


def test_run_holds_hits_in_order(report, tmp_path):
    assert [item for item, _ in report.run["q-cat"]] == ["c", "d", "e"]
    report.write_run(tmp_path / "run")
    report.write_qrels(tmp_path / "qrels")
    assert (tmp_path / "run").read_text().count("\n") == 6
    assert (tmp_path / "qrels").read_text() == "q-cat 0 c 1\nq-dog 0 d 1\n"


def test_asks_deep_enough_and_passes_verification_on():
    retriever = FromTable({"cat": ["c"]})
    evaluate(retriever, [ask("cat", "c")], ks=(1, 25), verify="off", progress=False)
    # Once before the clock starts, once with it.
    assert retriever.calls == [("cat", 25, "off")] * 2


def test_failing_query_is_named():
    with pytest.raises(QueryError, match="query 'q-bird': no answer for bird"):
        evaluate(FromTable({}), [ask("bird", "b")], progress=False)


def test_relevant_items_outside_the_index():
    retriever = FromTable({"cat": ["c"], "dog": ["c"]})
    asked = QuerySet((ask("cat", "c"), ask("dog", "gone")), "any", 2)
    report = evaluate(retriever, asked, known=frozenset({"c"}), progress=False)
    assert report.missing_relevant == 1
    assert report.metrics["recall@1"] == 50.0
    assert "counted as missed" in report.to_text()
    with pytest.raises(InputError, match="none of the 2 relevant items"):
        evaluate(retriever, asked, known=frozenset(), progress=False)


def test_nothing_to_ask():
    with pytest.raises(InputError, match="nothing to evaluate"):
        evaluate(FromTable({}), [], progress=False)
