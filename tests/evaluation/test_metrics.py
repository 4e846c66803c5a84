from __future__ import annotations

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genmm_retriever import Query
from genmm_retriever.errors import InputError, SourceError, StorageError
from genmm_retriever.evaluation import (
    EvalQuery,
    bootstrap_interval,
    mean_metrics,
    per_query_metrics,
    read_run,
    write_qrels,
    write_run,
)
from genmm_retriever.evaluation.metrics import intervals


def ask(name, *relevant):
    return EvalQuery(name, Query(text="x"), frozenset(relevant))


def test_recall_and_reciprocal_rank():
    queries = [ask("1", "a"), ask("2", "b"), ask("3", "c")]
    run = {"1": ["a", "b"], "2": ["a", "b", "c"]}
    values = per_query_metrics(queries, run, ks=(1, 2))
    assert values["recall@1"].tolist() == [1, 0, 0]
    assert values["recall@2"].tolist() == [1, 1, 0]
    assert values["mrr@10"].tolist() == [1, 0.5, 0]
    means = mean_metrics(values)
    assert means["recall@1"] == pytest.approx(100 / 3)
    assert means["mrr@10"] == pytest.approx(0.5)


def test_any_and_fraction_differ_with_several_relevant_items():
    queries, run = [ask("1", "a", "b", "c", "d")], {"1": ["x", "a", "b"]}
    assert per_query_metrics(queries, run, ks=(3,), recall="any")["recall@3"] == [1.0]
    assert per_query_metrics(queries, run, ks=(3,), recall="fraction")["recall@3"] == [0.5]


def test_order_of_the_run_decides_and_not_the_ids():
    names = [f"item{n:02d}" for n in range(30)]
    for relevant in (names[0], names[29]):
        forward = per_query_metrics([ask("q", relevant)], {"q": names}, ks=(1,))
        backward = per_query_metrics([ask("q", relevant)], {"q": names[::-1]}, ks=(1,))
        assert forward["recall@1"] + backward["recall@1"] == [1.0]


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.permutations(list("abcdefgh")), min_size=1, max_size=5),
    st.sets(st.sampled_from("abcdefgh"), min_size=1),
    st.integers(1, 8),
)
def test_equals_the_definition(rankings, relevant, k):
    queries = [ask(str(n), *relevant) for n in range(len(rankings))]
    run = {str(n): ranking for n, ranking in enumerate(rankings)}
    found = per_query_metrics(queries, run, ks=(k,), recall="fraction", mrr=k)
    for row, ranking in enumerate(rankings):
        top = ranking[:k]
        share = len(relevant & set(top)) / len(relevant)
        first = next((1 / r for r, item in enumerate(top, 1) if item in relevant), 0.0)
        assert found[f"recall@{k}"][row] == pytest.approx(share)
        assert found[f"mrr@{k}"][row] == pytest.approx(first)


def test_wrong_cutoff():
    with pytest.raises(InputError, match="cut-off of 0"):
        per_query_metrics([ask("q", "a")], {}, ks=(0,))


def test_bootstrap_interval_covers_the_mean():
    values = np.random.default_rng(0).random(400) < 0.3
    low, high = bootstrap_interval(values.astype(float))
    assert low < values.mean() < high
    # The normal approximation of the same interval.
    assert high - low == pytest.approx(4 * np.sqrt(0.3 * 0.7 / 400), rel=0.15)
    assert (low, high) == bootstrap_interval(values.astype(float))


def test_few_queries_that_are_all_found_are_not_certain():
    found = intervals({"recall@1": np.ones(20), "recall@5": np.zeros(20), "mrr@10": np.ones(3)})
    # Clopper and Pearson's tables: 20 of 20, none of 20, 3 of 3.
    assert found["recall@1"] == pytest.approx((83.16, 100), abs=0.01)
    assert found["recall@5"] == pytest.approx((0, 16.84), abs=0.01)
    assert found["mrr@10"] == pytest.approx((0.2924, 1), abs=1e-4)


def test_run_is_what_the_fields_own_tools_read(tmp_path):
    queries = [ask("q 1", "cat picture.png"), ask("q2", "100%.png"), ask("q3", "c")]
    run = {
        # Equal scores: the order must survive tools that sort by score and break ties by id.
        "q 1": [("cat picture.png", 1.0), ("zebra", 1.0), ("ape", 1.0)],
        "q2": [("a", 0.9), ("100%.png", 0.1)],
        "q3": [("x\n", -3.0), ("é", -3.0)],
    }
    write_run(tmp_path / "out" / "run.trec", run)
    write_qrels(tmp_path / "qrels.txt", queries)
    lines = (tmp_path / "out" / "run.trec").read_text(encoding="utf-8").splitlines()
    assert all(len(line.split()) == 6 for line in lines)
    assert lines[0].split()[:4] == ["q%201", "Q0", "cat%20picture.png", "1"]
    read = ir_measures.calc_aggregate(
        [ir_measures.R @ 1, ir_measures.RR @ 10],
        ir_measures.read_trec_qrels(str(tmp_path / "qrels.txt")),
        ir_measures.read_trec_run(str(tmp_path / "out" / "run.trec")),
    )
    assert read[ir_measures.R @ 1] == pytest.approx(1 / 3)
    assert read[ir_measures.RR @ 10] == pytest.approx(0.5)
    back = read_run(tmp_path / "out" / "run.trec")
    assert {q: [item for item, _ in found] for q, found in back.items()} == {
        q: [item for item, _ in found] for q, found in run.items()
    }


def test_broken_run_and_unwritable_place(tmp_path):
    path = tmp_path / "run.trec"
    path.write_text("q Q0 a 1 0.5 tag\nq Q0 a b\n", encoding="utf-8")
    with pytest.raises(SourceError, match="line 2"):
        read_run(path)
    with pytest.raises(SourceError, match="cannot be read"):
        read_run(tmp_path / "absent.trec")
    with pytest.raises(StorageError, match="cannot be written"):
        write_run(path / "below-a-file.trec", {})
