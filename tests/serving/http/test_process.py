"""The command as a process: killed, stopped, refused, and over a real socket."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from genmm_retriever.corpus.store import IndexReader, check_index

# `genmm` itself; only the tiny model is no model that has a name to load it by.
COMMAND = """
import sys
from pathlib import Path
from genmm_retriever.models import loading
from genmm_retriever.models.builtin import load_builtin
from genmm_retriever.serving.cli import main

def load(name, **_):
    return load_builtin(folder=Path(name))

loading.load_model = load
sys.exit(main())
"""
posix = pytest.mark.skipif(sys.platform == "win32", reason="uses POSIX signals")


@pytest.fixture
def start(tiny_folder, token):
    """Starts `genmm serve` over an index; the process and a client that has the token."""
    processes, clients = [], []

    def run(index, *options):
        process = subprocess.Popen(
            [
                *(sys.executable, "-c", COMMAND, "serve", str(index)),
                *("--port", "0", "--json", "-q", "--model", str(tiny_folder), *options),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                "GENMM_TOKEN": token,
            },
        )
        processes.append(process)
        line = process.stdout.readline()
        assert line, process.stderr.read()
        told = json.loads(line)
        assert told["writable"] is True
        client = httpx.Client(
            base_url=told["url"], headers={"Authorization": f"Bearer {token}"}, timeout=60
        )
        clients.append(client)
        for _ in range(1200):
            with suppress(httpx.ConnectError):
                if client.get("/readyz").status_code == 200:
                    return process, client
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
        raise AssertionError("it was never ready")

    yield run
    for client in clients:
        client.close()
    for process in processes:
        process.kill()
        process.communicate()


@posix
def test_killed_while_adding_it_loses_nothing_acknowledged(start, own, png):
    process, client = start(own)
    acknowledged = []

    def add_until_it_dies():
        for n in range(10_000):
            files = {"image": ("it.png", png(100 + n), "image/png")}
            try:
                response = client.post("/api/items", data={"id": f"new {n}"}, files=files)
            except httpx.TransportError:
                return
            assert response.status_code == 201, response.text
            acknowledged.append(n)

    adding = threading.Thread(target=add_until_it_dies)
    adding.start()
    until = time.monotonic() + 60
    while len(acknowledged) < 3 and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(random.Random().random() * 0.5)
    process.send_signal(signal.SIGKILL)
    adding.join()
    process.wait()
    assert len(acknowledged) >= 3
    assert check_index(own) == []
    with IndexReader.open(own) as reader:
        for n in acknowledged:
            item = reader.item(reader.row(f"new {n}"))
            assert Path(item.image).read_bytes() == png(100 + n)

    # Whatever the kill left half done, the next service goes on from there.
    process, again = start(own, "--drain", "0")
    last = acknowledged[-1] + 1
    files = {"image": ("it.png", png(100 + last), "image/png")}
    response = again.post("/api/items", data={"id": f"new {last}"}, files=files)
    assert response.status_code in (200, 201), response.text
    found = again.post("/api/search", json={"text": "x", "k": 1_000}).json()["hits"]
    assert {f"new {n}" for n in range(last + 1)} <= {hit["id"] for hit in found}
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == 0


@posix
def test_a_signal_ends_it_when_what_runs_is_finished(start, built):
    process, client = start(built, "--drain", "1.5", "--max-wait", "1000", "--max-batch", "64")
    answers = []

    def ask():
        answers.append(client.post("/api/search", json={"text": "a dog", "k": 3}))

    # It waits a second for others, so it runs while the signal comes.
    asking = threading.Thread(target=ask)
    asking.start()
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    with httpx.Client(base_url=client.base_url) as other:
        assert other.get("/readyz").status_code == 503
        assert other.get("/readyz").json() == {"status": "stopping"}
        refused = other.post("/api/search", json={"text": "late"})
        assert refused.status_code == 503
        assert "retry-after" in refused.headers
    asking.join()
    assert answers[0].status_code == 200
    assert len(answers[0].json()["hits"]) == 3
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert (out, err) == ("", "")
    with pytest.raises(httpx.TransportError):
        httpx.get(client.base_url.join("/healthz"))


def test_over_a_real_socket(listening, built, items):
    url = listening(built)
    with httpx.Client(base_url=url) as client:
        found = client.post("/api/search", json={"text": "x", "k": 100}).json()["hits"]
        pictures = [hit for hit in found if hit["image"]]
        assert {"p0", "odd/ü ?#\nname"} <= {hit["id"] for hit in pictures}
        for hit in pictures:
            assert client.get(hit["image"]).headers["content-type"] == "image/png"
            assert client.get(hit["thumbnail"]).headers["content-type"] == "image/jpeg"
        part = client.get("/api/images/p0", headers={"Range": "bytes=3-7"})
        assert part.content == Path(items[0].image).read_bytes()[3:8]
        for path in ("/api/images/..%2f..%2fetc%2fpasswd", "/api/images//etc/passwd"):
            assert client.get(path).status_code == 404
    port = int(url.rsplit(":", 1)[1])
    for lines in (
        b"GET /api/info HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
        b"POST /api/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: 99999999999\r\nConnection: close\r\n\r\n{",
    ):
        with socket.create_connection(("127.0.0.1", port)) as raw:
            raw.sendall(lines)
            answer = raw.makefile("rb").read()
        assert answer.split()[1] in (b"400", b"413")
        assert b'"hint"' in answer


def test_bad_usage_is_one_line_and_2(genmm, built, tmp_path, monkeypatch, quiet_logging):
    monkeypatch.delenv("GENMM_TOKEN", raising=False)
    (tmp_path / "short").write_text("short")
    (tmp_path / "empty").write_text("\n")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for options, named in (
            (["--host", "0.0.0.0"], "token"),
            (["--host", "::"], "token"),
            (["--port", str(port)], str(port)),
            (["--host", "no.such.host.invalid", "--token-file", tmp_path / "absent"], "absent"),
            (["--token-file", tmp_path / "short"], "16"),
            (["--token-file", tmp_path / "empty"], "empty"),
            (["--budget", "x"], "--budget"),
            (["--port", "70000"], "--port"),
        ):
            code, out, err = genmm("serve", built, *options)
            assert (code, out) == (2, ""), (options, err)
            assert err.count("\n") == 1, err
            assert named in err
        assert genmm("serve", tmp_path / "nothing")[0] == 2


def test_a_model_that_cannot_be_loaded_ends_it(genmm, built, tmp_path, quiet_logging):
    code, out, err = genmm("serve", built, "--port", "0", "--model", tmp_path / "none", "--json")
    assert code == 2
    assert json.loads(out)["url"].startswith("http://127.0.0.1:")
    assert "none" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("command", "package"), [("serve", "uvicorn"), ("serve", "fastapi"), ("mcp", "mcp")]
)
def test_an_absent_extra_is_named(genmm, built, monkeypatch, command, package):
    monkeypatch.setitem(sys.modules, package, None)
    code, _, err = genmm(command, built)
    assert code == 2
    assert f"genmm-retriever[{command}]" in err
    assert err.count("\n") == 1
