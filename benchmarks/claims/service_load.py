"""The service under load: many clients at once against one after the other, on loopback."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.corpora.models import QUERIES
from benchmarks.harness import Bar, Benchmark, Condition, Measurement, Options, Skipped

HELD = 0.05
"""Seconds for which nothing may hold the service's event loop."""
TIMEOUT = 60
"""Seconds that the service gives a request; with 32 clients nobody should need them."""
GROWTH = 10.0
"""Percent that the service's memory may grow by from the first quarter of the load to its end."""
_HITS = 10
_START_SECONDS = 300


@dataclass
class Load:
    """What clients saw.

    Attributes:
        seconds: From the first request to the last answer.
        latencies: Seconds of each request that was answered.
        statuses: How many responses of each status; 0 is a broken connection.
        probes: Seconds of each request beside them that needs no model. They hold what the
            client waits for its own event loop, too.
    """

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    probes: list[float] = field(default_factory=list)

    @property
    def answered(self) -> int:
        """Requests that got hits."""
        return len(self.latencies)

    def merged(self, other: Load) -> Load:
        """Both, one after the other."""
        return Load(
            self.seconds + other.seconds,
            self.latencies + other.latencies,
            self.statuses + other.statuses,
            self.probes + other.probes,
        )

    def throughput(self) -> float:
        """Answers a second."""
        return self.answered / self.seconds if self.seconds else 0.0

    def percentile(self, percent: float) -> float:
        """Seconds within which so many of the answers came; NaN if none did."""
        return _percentile(self.latencies, percent)


def _percentile(values: list[float], percent: float) -> float:
    ordered = sorted(values)
    if not ordered:
        return float("nan")
    return ordered[min(len(ordered) - 1, int(percent / 100 * len(ordered)))]


def service_load(options: Options) -> Measurement:
    """Start `genmm serve` over photographs and ask it, alone and in a crowd."""
    with tempfile.TemporaryDirectory(prefix="genmm-load-") as folder:
        index = _build(Path(folder) / "index", options)
        with serving(index) as url:
            return measured(
                url,
                clients=options.pick(32, 8),
                seconds=options.pick(60, 10),
                alone=options.pick(20, 4),
                warm=options.pick(15, 0),
            )


def measured(
    url: str, *, clients: int, seconds: float, alone: float, warm: float = 0.0
) -> Measurement:
    """The measurement against a service that is ready.

    Args:
        url: Where it is.
        clients: How many ask at once, each again as soon as it is answered.
        seconds: How long they do.
        alone: How long one client asks, before and again after the crowd.
        warm: How long one client and then all of them ask before anything is measured: kernels
            are made for every new shape of a batch.
    """
    for number in (1, clients) if warm else (1,):
        asyncio.run(_ask(url, clients=number, seconds=warm))
    before = asyncio.run(_ask(url, clients=1, seconds=alone))
    batches, lags = _batches(url), _lags(url)
    memory: list[tuple[float, float]] = []
    crowd = asyncio.run(_ask(url, clients=clients, seconds=seconds, memory=memory))
    sizes = [now - then for now, then in zip(_batches(url), batches, strict=True)]
    held = {edge: count - lags[edge] for edge, count in _lags(url).items()}
    serial = before.merged(asyncio.run(_ask(url, clients=1, seconds=alone)))
    refused = crowd.statuses[503]
    faults = {s: n for s, n in crowd.statuses.items() if s == 0 or (s >= 500 and s != 503)}
    growth = _growth(memory)
    return Measurement(
        value=crowd.throughput() / serial.throughput() if serial.answered else float("nan"),
        peers={"one client": 1.0},
        also=[
            Condition("no 5xx but 503", not faults),
            Condition(f"p95 within the service's {TIMEOUT} s", crowd.percentile(95) <= TIMEOUT),
            Condition(f"its event loop never held over {HELD * 1000:g} ms", _over(held) == 0),
            Condition(f"its memory grew by at most {GROWTH:g}% under load", growth <= GROWTH),
        ],
        details={
            "clients": clients,
            "seconds": crowd.seconds,
            "queries_a_second": {"crowd": crowd.throughput(), "alone": serial.throughput()},
            "answered": {"crowd": crowd.answered, "alone": serial.answered},
            "latency_seconds": {
                name: {f"p{p}": load.percentile(p) for p in (50, 95, 99)}
                for name, load in (("crowd", crowd), ("alone", serial))
            },
            "probe_milliseconds": {
                f"p{p}": 1000 * _percentile(crowd.probes, p) for p in (50, 95, 100)
            },
            "event_loop_late_by_at_most_seconds": {f"{e:g}": n for e, n in held.items()},
            "share_of_503_percent": 100 * refused / max(1, crowd.statuses.total()),
            "statuses": {str(status): count for status, count in sorted(crowd.statuses.items())},
            "queries_a_batch": sizes[1] / sizes[0] if sizes[0] else 0.0,
            "resident_mib": [round(size / 2**20) for _, size in memory],
            "growth_percent": growth,
        },
        notes=["the clients share the machine's cores with the service"],
    )


def _build(path: Path, options: Options) -> Path:
    """An index of scikit-image's photographs."""
    from genmm_retriever import GenerativeMMRetriever
    from genmm_retriever.serving.demo import photographs

    try:
        items = photographs()[: options.pick(20, 6)]
    except ImportError as error:
        raise Skipped(f"the photographs are absent: {error}") from error
    GenerativeMMRetriever.from_images(items, path=path, model=options.model, progress=False).close()
    return path


@contextmanager
def serving(index: Path) -> Iterator[str]:
    """`genmm serve` in a process of its own, ready to answer: its address."""
    import httpx

    command = [sys.executable, "-m", "genmm_retriever.serving.cli", "serve", str(index)]
    process = subprocess.Popen(
        [*command, "--port", "0", "--json", "--quiet", "--timeout", str(TIMEOUT), "--drain", "0"],
        stdout=subprocess.PIPE,
        text=True,
        env=dict(os.environ),
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise Skipped("genmm serve did not start; its error is above")
        url = str(json.loads(line)["url"])
        until = time.monotonic() + _START_SECONDS
        while httpx.get(f"{url}/readyz").status_code != 200:
            if time.monotonic() > until:
                raise Skipped("genmm serve was not ready in time")
            time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(timeout=2 * TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


async def _ask(
    url: str, *, clients: int, seconds: float, memory: list[tuple[float, float]] | None = None
) -> Load:
    """Let clients ask for some time, at least once each; all answers are waited for."""
    import httpx

    load = Load()
    limits = httpx.Limits(max_connections=clients + 2)
    async with httpx.AsyncClient(base_url=url, timeout=2 * TIMEOUT, limits=limits) as client:
        started = time.perf_counter()

        async def one(number: int) -> None:
            for query in itertools.islice(itertools.cycle(QUERIES), number, None):
                await _request(client, query, load)
                if time.perf_counter() - started >= seconds:
                    return

        async def watch() -> None:
            while memory is not None:
                memory.append((time.perf_counter() - started, await _resident(client)))
                await asyncio.sleep(max(0.2, seconds / 20))

        async def probe() -> None:
            while True:
                begun = time.perf_counter()
                await client.get("/healthz")
                load.probes.append(time.perf_counter() - begun)
                await asyncio.sleep(0.1)

        watching = [asyncio.create_task(watch()), asyncio.create_task(probe())]
        await asyncio.gather(*(one(number) for number in range(clients)))
        load.seconds = time.perf_counter() - started
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)
        if memory is not None:
            memory.append((load.seconds, await _resident(client)))
    return load


async def _request(client: Any, query: str, load: Load) -> None:
    import httpx

    started = time.perf_counter()
    try:
        response = await client.post("/api/search", json={"text": query, "k": _HITS})
    except httpx.TransportError:
        load.statuses[0] += 1
        await asyncio.sleep(0.1)
        return
    load.statuses[response.status_code] += 1
    if response.status_code == 200:
        load.latencies.append(time.perf_counter() - started)
    else:
        # As the service asks for; a client that does not wait only measures refusals.
        await asyncio.sleep(float(response.headers.get("retry-after", 1)))


async def _resident(client: Any) -> float:
    text = (await client.get("/metrics")).text
    return _figure(text, "process_resident_memory_bytes")


def _batches(url: str) -> tuple[float, float]:
    """Batches so far, and queries in them."""
    import httpx

    text = httpx.get(f"{url}/metrics").text
    return _figure(text, "genmm_batch_size_count"), _figure(text, "genmm_batch_size_sum")


def _lags(url: str) -> dict[float, int]:
    """How often so far the service's event loop was late by at most so many seconds."""
    import httpx

    start = 'genmm_event_loop_lag_seconds_bucket{le="'
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    found = [line.removeprefix(start).split('"} ') for line in lines if line.startswith(start)]
    return {float(edge): int(float(count)) for edge, count in found}


def _over(late: dict[float, int]) -> float:
    """How often of these it was late by more than it may; NaN if the service does not tell."""
    if not late:
        return float("nan")
    return late[float("inf")] - late[HELD]


def _figure(text: str, name: str) -> float:
    """A figure of Prometheus text; NaN where the system does not give it."""
    found = [line.split()[1] for line in text.splitlines() if line.startswith(f"{name} ")]
    return float(found[0]) if found else float("nan")


def _growth(memory: list[tuple[float, float]]) -> float:
    """Percent from the first quarter of the time, when all is warm, to the end."""
    if not memory:
        return float("nan")
    end = memory[-1][0]
    early = statistics.median(size for at, size in memory if at <= end / 4)
    late = statistics.median(size for at, size in memory if at >= 3 * end / 4)
    return 100 * (late / early - 1)


BENCHMARKS = (
    Benchmark(
        "service_load",
        "the HTTP service answers 32 clients at once faster than one after the other, by batches",
        "times the throughput of one client",
        Bar(">=", 1.5),
        service_load,
    ),
)
