"""How well and how fast an index answers: datasets, the field's metrics, reports."""

from __future__ import annotations

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
    "EvalQuery",
    "EvalReport",
    "QuerySet",
    "bootstrap_interval",
    "evaluate",
    "mean_metrics",
    "per_query_metrics",
    "read_queries",
    "read_run",
    "write_qrels",
    "write_run",
]
