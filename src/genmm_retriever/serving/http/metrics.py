"""What Prometheus is told; a registry of its own for each service."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST

STAGES = ("adapt", "encode", "decode", "verify", "answer", "total")
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64)
_LAGS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
CONTENT_TYPE = CONTENT_TYPE_LATEST


class _Registry(CollectorRegistry):
    """Without the time at which each series began, which doubles what is sent.

    `disable_created_metrics` would take it from the whole process.
    """

    def collect(self) -> Iterator[Metric]:
        for metric in super().collect():
            metric.samples = [one for one in metric.samples if not one.name.endswith("_created")]
            yield metric


class Metrics:
    """Counters and histograms of one service."""

    def __init__(self) -> None:
        self.registry: CollectorRegistry = _Registry()
        ProcessCollector(registry=self.registry)
        self._requests = Counter(
            "genmm_requests",
            "Requests by route, method and status",
            ("route", "method", "status"),
            registry=self.registry,
        )
        self._request_seconds = Histogram(
            "genmm_request_seconds",
            "Seconds from the first byte of a request to the last of its response",
            ("route",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._stages = Histogram(
            "genmm_stage_seconds",
            "Seconds of a batch by stage; `adapt`, `answer` and `total` are of a request, "
            "with the time it waited",
            ("stage",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._batch = Histogram(
            "genmm_batch_size",
            "Queries answered in one decode",
            buckets=_SIZES,
            registry=self.registry,
        )
        self._tokens = Counter(
            "genmm_written_tokens",
            "Tokens written for requests, by stage, as far as the writer's engine tells them",
            ("stage",),
            registry=self.registry,
        )
        self._lag = Histogram(
            "genmm_event_loop_lag_seconds",
            "Seconds by which the event loop came later than a timer asked it to",
            buckets=_LAGS,
            registry=self.registry,
        )
        self._gauges: dict[str, Gauge] = {}

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count a request that was answered or refused."""
        self._requests.labels(route, method, str(status)).inc()
        self._request_seconds.labels(route).observe(seconds)

    def batch(self, size: int, seconds: Mapping[str, float]) -> None:
        """Note a batch of queries and its seconds by stage."""
        self._batch.observe(size)
        for stage, spent in seconds.items():
            if stage in STAGES:
                self._stages.labels(stage).observe(spent)

    def query(self, seconds: Mapping[str, float]) -> None:
        """Note how long a query took from its arrival to its hits, and what of it was its own."""
        for stage, spent in seconds.items():
            self._stages.labels(stage).observe(spent)

    def wrote(self, stage: str, tokens: int | None) -> None:
        """Count what was written for a request before or after its search."""
        self._tokens.labels(stage).inc(tokens or 0)

    def lagged(self, seconds: float) -> None:
        """Note by how much the event loop was late."""
        self._lag.observe(seconds)

    def watch(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Read a figure whenever it is asked for."""
        gauge = Gauge(f"genmm_{name}", text, registry=self.registry)
        gauge.set_function(value)
        self._gauges[name] = gauge

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self.registry)
