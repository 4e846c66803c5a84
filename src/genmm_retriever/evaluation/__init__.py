"""How well and how fast an index answers: datasets, the field's metrics, reports."""

from __future__ import annotations

from .composed import ComposedSet, read_cirr, read_fashioniq
from .composed_metrics import group_metrics, mean_of_groups, subset_metrics
from .converting import write_composed
from .datasets import EvalQuery, QuerySet, read_queries
from .metrics import (
    bootstrap_interval,
    mean_metrics,
    per_query_metrics,
    read_run,
    write_qrels,
    write_run,
)
from .report import EvalReport, evaluate

__all__ = [
    "ComposedSet",
    "EvalQuery",
    "EvalReport",
    "QuerySet",
    "bootstrap_interval",
    "evaluate",
    "group_metrics",
    "mean_metrics",
    "mean_of_groups",
    "per_query_metrics",
    "read_cirr",
    "read_fashioniq",
    "read_queries",
    "read_run",
    "subset_metrics",
    "write_composed",
    "write_qrels",
    "write_run",
]
