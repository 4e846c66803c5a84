"""Ask every query, one at a time, and report how well and how fast it was answered."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from ..errors import GenmmError, InputError
from ..schema import Hit, Query
from .composed_metrics import (
    SUBSET_KS,
    group_metrics,
    mean_of_groups,
    subset_metrics,
    without_reference,
)
from .datasets import EvalQuery, QuerySet, RecallKind
from .metrics import intervals, mean_metrics, per_query_metrics, write_qrels, write_run

CANDIDATE_CUTS = (50, 100)


class Retrieves(Protocol):
    """What is evaluated: `GenerativeMMRetriever`, or anything that answers like it."""

    @property
    def last_timings(self) -> Mapping[str, float]:
        """Seconds of the stages of the last call."""
        ...

    @property
    def last_candidates(self) -> Sequence[Sequence[str]]:
        """Item ids of the first stage's candidates of the last call, best first, by query."""
        ...

    def retrieve(
        self, query: Query, *, k: int | None = None, verify: str | None = None
    ) -> list[Hit]:
        """The k best items."""
        ...


@dataclass
class EvalReport:
    """Figures of one evaluation, with the run they come from.

    Attributes:
        queries: What was asked.
        run: (item id, score) by query id, best first, without the query's reference.
        candidates: Item ids of the first stage by query id, before verification, likewise.
        seconds: Wall time of each query, [Q].
        stages: Wall time of each stage of each query, [Q] each.
        metrics: Recalls in percent, reciprocal ranks in [0, 1].
        intervals: 95% bootstrap intervals of `metrics`.
        recall: See `QuerySet.recall`.
        missing_relevant: Relevant ids that the index does not hold; they count as missed.
        missing_subset: Members of subsets that the index does not hold; they cannot be taken
            for the answer, which makes `subset@k` too high.
        subsets: Item ids by query id, best first among the query's subset alone.
        groups: Recalls and reciprocal ranks by `EvalQuery.group`, in the units of `metrics`.
    """

    queries: tuple[EvalQuery, ...]
    run: dict[str, list[tuple[str, float]]]
    candidates: dict[str, list[str]]
    seconds: np.ndarray
    stages: dict[str, np.ndarray]
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    recall: RecallKind = "any"
    missing_relevant: int = 0
    missing_subset: int = 0
    subsets: dict[str, list[str]] = field(default_factory=dict)
    groups: dict[str, dict[str, float]] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def lost(self) -> tuple[str, ...]:
        """Recalls that were higher in the first stage's order than in the final one."""
        return tuple(
            name
            for name, value in self.metrics.items()
            if value < self.metrics.get(name.replace("recall@", "unverified@"), value)
        )

    def to_json(self) -> dict[str, Any]:
        """The report as `genmm eval --json` prints it."""
        timing = {
            "p50": float(np.quantile(self.seconds, 0.5)),
            "p95": float(np.quantile(self.seconds, 0.95)),
            "mean": float(self.seconds.mean()),
            **{stage: float(value.mean()) for stage, value in self.stages.items()},
        }
        return {
            "queries": len(self.queries),
            **_rounded(self.metrics),
            "seconds_per_query": _rounded(timing),
            "ci95": {
                name: [round(low, 4), round(high, 4)]
                for name, (low, high) in self.intervals.items()
            },
            "recall": self.recall,
            "missing_relevant": self.missing_relevant,
            "verification_lost": list(self.lost),
            **({"missing_subset": self.missing_subset} if self.subsets else {}),
            **self._by_group(),
            **self.settings,
        }

    def _by_group(self) -> dict[str, Any]:
        if not self.groups:
            return {}
        return {
            "groups": {group: _rounded(values) for group, values in self.groups.items()},
            "mean_of_groups": _rounded(mean_of_groups(self.groups)),
        }

    def to_text(self) -> str:
        """The report as a table for people."""
        lines = [f"queries             {len(self.queries)}"]
        for name, value in self.metrics.items():
            low, high = (_shown(name, bound) for bound in self.intervals[name])
            lines.append(f"{name:<18} {_shown(name, value):>6}  95% [{low}, {high}]")
        lines += [
            f"{group[:40]:<18} " + "  ".join(f"{n} {_shown(n, v)}" for n, v in values.items())
            for group, values in self._shown_groups()
        ]
        timing = self.to_json()["seconds_per_query"]
        lines.append("seconds a query     " + "  ".join(f"{n} {s:.2f}" for n, s in timing.items()))
        if self.lost:
            lost = ", ".join(self.lost)
            lines.append(f"verification lost   {lost}: --verify off orders these queries better")
        if self.missing_relevant:
            lines.append(f"not in the index    {self.missing_relevant} items, counted as missed")
        if self.missing_subset:
            missing = f"{self.missing_subset} members of subsets; subset@k is too high"
            lines.append(f"not in the index    {missing}")
        return "\n".join(lines)

    def _shown_groups(self) -> list[tuple[str, dict[str, float]]]:
        if not self.groups:
            return []
        named = [(f"of {group!r}", values) for group, values in self.groups.items()]
        return [*named, ("mean of groups", mean_of_groups(self.groups))]

    def write_run(self, path: str | Path) -> None:
        """Write the run in TREC format."""
        write_run(path, self.run)

    def write_qrels(self, path: str | Path) -> None:
        """Write the judgements in TREC format."""
        write_qrels(path, self.queries)


def evaluate(
    retriever: Retrieves,
    queries: QuerySet | Sequence[EvalQuery],
    *,
    ks: Sequence[int] = (1, 5, 10),
    verify: str | None = None,
    known: frozenset[str] | None = None,
    progress: bool = True,
) -> EvalReport:
    """Ask the queries one at a time.

    The first query is asked once before the clock starts, so that loading the model is not
    counted. `unverified@k` judges the first stage's order from the same run.

    A query's reference is left out of what is found, so that one item more is asked for. The
    members of its subset are ranked by asking again among them alone, outside of the clock.

    Args:
        retriever: What to ask.
        queries: As `read_queries` gives them.
        ks: Cut-offs of recall.
        verify: Overrides the retriever's verification.
        known: Ids that the index holds; then relevant ids and members of subsets outside are
            counted and reported.
        progress: Show a progress bar on stderr.

    Raises:
        InputError: If there is no query, or none of the relevant items is in the index.
        GenmmError: What a query raised, with the query's id put in front.
    """
    asked = tuple(queries)
    if not asked or not ks:
        raise InputError("there is nothing to evaluate", "give at least one query and one cut-off")
    recall: RecallKind = queries.recall if isinstance(queries, QuerySet) else "any"
    missing = _missing(asked, known)
    depth = max(*ks, 10)
    _ask(retriever, asked[0], depth, verify)
    run: dict[str, list[tuple[str, float]]] = {}
    candidates: dict[str, list[str]] = {}
    subsets: dict[str, list[str]] = {}
    seconds: list[float] = []
    timings: list[dict[str, float]] = []
    for query in tqdm(asked, desc="asking", unit="query", disable=not progress):
        start = time.perf_counter()
        hits = _ask(retriever, query, depth, verify)
        seconds.append(time.perf_counter() - start)
        run[query.id] = [(hit.item.id, hit.score) for hit in hits]
        candidates[query.id] = without_reference(query, retriever.last_candidates[0])
        timings.append(dict(retriever.last_timings))
        if query.subset:
            subsets[query.id] = _ask_among(retriever, query, verify)
    stages = dict.fromkeys(stage for timing in timings for stage in timing)
    ranked = {query: [item for item, _ in found] for query, found in run.items()}
    values = per_query_metrics(asked, ranked, ks=tuple(ks), recall=recall)
    groups = group_metrics(asked, values)
    values |= _first_stage(asked, candidates, tuple(ks), recall)
    values |= subset_metrics(asked, ranked, subsets, recall=recall)
    return EvalReport(
        queries=asked,
        run=run,
        candidates=candidates,
        seconds=np.array(seconds),
        stages={s: np.array([timing.get(s, 0.0) for timing in timings]) for s in stages},
        metrics=mean_metrics(values),
        intervals=intervals(values),
        recall=recall,
        missing_relevant=missing,
        missing_subset=_missing_subset(asked, known),
        subsets=subsets,
        groups=groups,
    )


def _first_stage(
    asked: Sequence[EvalQuery],
    candidates: Mapping[str, Sequence[str]],
    ks: tuple[int, ...],
    recall: RecallKind,
) -> dict[str, np.ndarray]:
    cuts = tuple(sorted({*ks, *CANDIDATE_CUTS}))
    first = per_query_metrics(asked, candidates, ks=cuts, recall=recall, mrr=None)
    values = {f"candidates@{k}": first[f"recall@{k}"] for k in CANDIDATE_CUTS}
    return values | {f"unverified@{k}": first[f"recall@{k}"] for k in ks}


def _ask(retriever: Retrieves, query: EvalQuery, k: int, verify: str | None) -> list[Hit]:
    asked = k if query.reference is None else k + 1
    try:
        hits = retriever.retrieve(query.query, k=asked, verify=verify)
    except GenmmError as error:
        error.message = f"query {query.id!r}: {error.message}"
        raise
    return [hit for hit in hits if hit.item.id != query.reference][:k]


def _ask_among(retriever: Retrieves, query: EvalQuery, verify: str | None) -> list[str]:
    """Ids of the members of the query's subset, best first."""
    members = sorted(query.subset - {query.reference})
    among = Query.model_validate({**dict(query.query), "ids": members})
    again = replace(query, query=among, reference=None)
    return [hit.item.id for hit in _ask(retriever, again, max(SUBSET_KS), verify)]


def _missing(asked: Sequence[EvalQuery], known: frozenset[str] | None) -> int:
    if known is None:
        return 0
    relevant: frozenset[str] = frozenset().union(*(query.relevant for query in asked))
    missing = relevant - known
    if missing == relevant:
        raise InputError(
            f"none of the {len(relevant)} relevant items is in the index (for example "
            f"{min(relevant)!r})",
            "was the index built from other data, or with another --items? Pictures look for "
            "captions with --direction image-to-text",
        )
    return len(missing)


def _missing_subset(asked: Sequence[EvalQuery], known: frozenset[str] | None) -> int:
    if known is None:
        return 0
    members = frozenset().union(*(query.subset - {query.reference} for query in asked))
    return len(members - known)


def _shown(name: str, value: float) -> str:
    return f"{value:.3f}" if name.startswith("mrr") else f"{value:.1f}"


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in values.items()}
