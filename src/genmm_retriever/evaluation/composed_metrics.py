"""Measures of composed image retrieval: recall within a subset, and by group.

`subset@k` is R_subset of CIRR (Liu et al., arXiv 2108.04024): the members of a small set of
pictures that resemble one another are ranked alone. What is reported by group and as the mean
over the groups is how FashionIQ (Wu et al., arXiv 1905.12794) reports its categories.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .datasets import EvalQuery, RecallKind
from .metrics import Run, mean_metrics, per_query_metrics

SUBSET_KS = (1, 2, 3)
SUBSET_MEAN = "mean_recall@5_subset@1"


def without_reference(query: EvalQuery, ranked: Sequence[str]) -> list[str]:
    """Item ids in their order, without the query's reference."""
    return [item for item in ranked if item != query.reference]


def subset_metrics(
    queries: Sequence[EvalQuery], run: Run, subsets: Run, *, recall: RecallKind = "any"
) -> dict[str, np.ndarray]:
    """`subset@1`, `@2`, `@3` of the queries that have a subset, and their mean with recall@5.

    Args:
        queries: With their relevant ids, references and subsets.
        run: Item ids by query id, best first, among all items.
        subsets: The same among the members of the query's subset alone.
        recall: See `QuerySet.recall`.

    Returns:
        `subset@k` and `mean_recall@5_subset@1` (the mean that CIRR is ranked by), each
        [queries with a subset], in [0, 1]; nothing if no query has one. The references and
        items outside the subset are left out, wherever they are found.

    Raises:
        MissingExtraError: Without ir-measures.

    Examples:
        >>> from genmm_retriever import Query
        >>> query = Query(text="two of them", image="ref.png")
        >>> subset = frozenset({"ref", "a", "b"})
        >>> asked = [EvalQuery("q", query, frozenset({"a"}), "ref", subset)]
        >>> found = subset_metrics(asked, {"q": ["x", "a"]}, {"q": ["ref", "b", "a"]})
        >>> {name: float(value[0]) for name, value in found.items()}
        {'subset@1': 0.0, 'subset@2': 1.0, 'subset@3': 1.0, 'mean_recall@5_subset@1': 0.5}
    """
    having = [query for query in queries if query.subset]
    if not having:
        return {}
    among = {
        query.id: [
            item
            for item in without_reference(query, subsets.get(query.id, ()))
            if item in query.subset
        ]
        for query in having
    }
    all_items = {query.id: without_reference(query, run.get(query.id, ())) for query in having}
    inner = per_query_metrics(having, among, ks=SUBSET_KS, recall=recall, mrr=None)
    outer = per_query_metrics(having, all_items, ks=(5,), recall=recall, mrr=None)
    values = {f"subset@{k}": inner[f"recall@{k}"] for k in SUBSET_KS}
    return values | {SUBSET_MEAN: (outer["recall@5"] + inner["recall@1"]) / 2}


def group_metrics(
    queries: Sequence[EvalQuery], values: Mapping[str, np.ndarray]
) -> dict[str, dict[str, float]]:
    """Means of measures over the queries of each group.

    Args:
        queries: Some of them with a group.
        values: As `per_query_metrics` gives them, each [len(queries)].

    Returns:
        By group, in the order of the queries; recalls in percent. Empty without groups.

    Examples:
        >>> from genmm_retriever import Query
        >>> asked = [
        ...     EvalQuery(name, Query(text="x"), frozenset({"a"}), group=name[:5])
        ...     for name in ("dress1", "dress2", "shirt1")
        ... ]
        >>> group_metrics(asked, {"recall@10": np.array([1.0, 0.0, 1.0])})
        {'dress': {'recall@10': 50.0}, 'shirt': {'recall@10': 100.0}}
    """
    rows: dict[str, list[int]] = {}
    for row, query in enumerate(queries):
        if query.group is not None:
            rows.setdefault(query.group, []).append(row)
    return {
        group: mean_metrics({name: value[members] for name, value in values.items()})
        for group, members in rows.items()
    }


def mean_of_groups(groups: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The mean over the groups, each with the same weight however many its queries.

    Examples:
        >>> mean_of_groups({"dress": {"recall@10": 50.0}, "shirt": {"recall@10": 100.0}})
        {'recall@10': 75.0}
    """
    names = dict.fromkeys(name for group in groups.values() for name in group)
    return {name: float(np.mean([group[name] for group in groups.values()])) for name in names}
