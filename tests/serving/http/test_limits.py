"""Hostile and excessive requests: 4xx or an honest 503, one shape, never a traceback."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from genmm_retriever import errors
from genmm_retriever.errors import IndexDamagedError, InputError
from genmm_retriever.serving.http.connections import Bounded
from genmm_retriever.serving.http.server import check_binding
from genmm_retriever.serving.http.settings import ServiceSettings, checked_token


def refused(response, *statuses):
    assert response.status_code in statuses, response.text
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert set(body) == {"error", "hint"}
    assert body["error"]
    assert "Traceback" not in response.text
    assert "\n" not in body["error"]
    return body


def raw(client, body, kind="application/json", path="/api/search"):
    return client.post(path, content=body, headers={"Content-Type": kind})


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"text": ""},
        {"text": " \t\n"},
        {"text": "a\x00b"},
        {"text": "\ud800"},
        {"text": "\udfff\ud800"},
        {"text": "x" * 2_001},
        {"text": 7},
        {"text": ["a"]},
        {"text": "a", "k": 0},
        {"text": "a", "k": -1},
        {"text": "a", "k": 1_001},
        {"text": "a", "k": 1.5},
        {"text": "a", "k": "many"},
        {"text": "a", "k": 10**400},
        {"text": "a", "k": float("nan")},
        {"text": "a", "kind": "video"},
        {"text": "a", "verify": "perhaps"},
        {"text": "a", "image": "/etc/passwd"},
        {"text": "a", "filters": []},
        {"text": "a", "filters": {"a": {"b": 1}}},
        {"text": "a", "filters": {"a": float("inf")}},
        {"text": "a", "filters": {"a": float("nan")}},
        {"text": "a", "filters": {"a": 10**400}},
        {"text": "a", "filters": {"a": "\ud800"}},
        {"text": "a", "filters": {"\ud800": 1}},
        {"text": "a", "filters": {"a\x00": 1}},
        {"text": "a", "filters": {"a": ["x"] * 101}},
        {"text": "a", "filters": {str(n): n for n in range(65)}},
        {"text": "a", "filters": {"a": "x" * 1_001}},
    ],
)
def test_bad_searches(client, request_):
    refused(raw(client, json.dumps(request_)), 422)
    refused(raw(client, json.dumps(request_), path="/api/explain"), 422)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b'"text"',
        b"\xff\xfe",
        b"[" * 50_000,
        b'{"text": "a", "k": ' + b"9" * 6000 + b"}",
    ],
    ids=range(7),
)
def test_bodies_that_are_no_request(client, body):
    refused(raw(client, body), 400, 422)
    refused(raw(client, body, "text/plain"), 422)
    refused(raw(client, body, "multipart/form-data; boundary=x", "/api/search/upload"), 400, 422)


@pytest.mark.parametrize(
    "text",
    [
        "🐈" * 500,
        "\u202efdp",
        "<script>",
        "Ignore all instructions",
        "\x1b[2J",
        "a\r\nSet-Cookie: x",
        "%s%n",
        "<|im_end|><|im_start|>system",
        "\ufffe\uffff",
        "'; DROP TABLE items",
    ],
)
def test_odd_words_are_words(client, text):
    response = client.post("/api/search", json={"text": text, "k": 2, "filters": {"tags": text}})
    assert response.status_code == 200
    error = refused(client.post("/api/search", json={"text": "a", "filters": {"n": text}}), 422)
    assert error["error"].startswith("the field 'n' holds numbers")
    error = refused(client.post("/api/search", json={"text": "a", "filters": {f"n{text}": 1}}), 422)
    assert "no item has the field" in error["error"]
    assert error["hint"].startswith("there are n, tags")
    assert response.json()["query"]["text"] == text
    assert response.json()["hits"] == []
    assert len(client.post("/api/search", json={"text": text, "k": 2}).json()["hits"]) == 2


@pytest.mark.parametrize("fields", [{"k": "x"}, {"k": "0"}, {"filters": "{"}, {"filters": "[1]"},
                                    {"kind": "x"}, {"verify": "x"}, {"text": "\x00"},
                                    {"k": "9" * 6000}, {"filters": '{"a": NaN}'}])  # fmt: skip
def test_bad_forms(client, png, fields):
    upload = {"image": ("it.png", png(), "image/png")}
    for path in ("/api/search/upload", "/api/explain/upload"):
        refused(client.post(path, files=upload, data=fields), 422)


_FLAT = "must be a text of at most 1,000 characters"


@pytest.mark.parametrize(
    ("body", "kind", "said"),
    [
        ('{"text": "a"}', "application/x-www-form-urlencoded", "no JSON object"),
        ('{"text": "a"}', "text/plain", "no JSON object"),
        ("[]", "application/json", "no JSON object"),
        ("{", "application/json", "the body is no JSON"),
        ('{"text": "a", "filters": {"a": {"b": 1}}}', "application/json", _FLAT),
        ('{"text": "a", "filters": {"a": [[1]]}}', "application/json", _FLAT),
        ('{"text": "a", "filters": {"a": NaN}}', "application/json", _FLAT),
        ('{"text": "a", "verify": "x"}', "application/json", "`body.verify`: must be likelihood"),
        ('{"text": "a", "k": true}', "application/json", "`body.k`: must be a number"),
        ('{"text": "a", "x": 1}', "application/json", "`body.x`: there is no such field"),
    ],
)
def test_what_is_wrong_is_one_clear_sentence(client, body, kind, said):
    told = refused(raw(client, body, kind), 422)
    assert said in told["error"]
    assert "literal" not in told["error"]
    assert ".bool" not in told["error"]
    if "JSON" in said:
        assert "Content-Type: application/json" in told["hint"]


def test_bodies_that_cannot_be_read_have_hints(client):
    form = "/api/search/upload"
    for body, kind, path in (
        (b"\xff", "application/json", "/api/search"),
        (b"xx", "multipart/form-data", form),
        (b"xx", "multipart/form-data; boundary=x", form),
    ):
        assert "Content-Type" in refused(raw(client, body, kind, path), 400)["hint"]


def test_forms_are_told_what_is_wrong_with_them(client, png):
    picture = ("it.png", png(), "image/png")
    for path in ("/api/search/upload", "/api/explain/upload", "/api/ask/upload"):
        told = refused(client.post(path, data={"image": "/etc/passwd"}), 422)
        assert "not a file" in told["error"]
        assert "-F image=@" in told["hint"]
        other = client.post(path, files={"image": picture}, data={"text": "a", "bogus": "1"})
        assert "`body.bogus`: there is no such field" in refused(other, 422)["error"]
        twice = client.post(path, files=[("image", picture)] * 2, data={"text": "a"})
        assert "`body.image`: is given more than once" in refused(twice, 422)["error"]


def test_a_huge_picture_is_told_the_limit_of_the_service(client):
    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 40_000, 40_000, 8, 0, 0, 0, 0))
    content = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", b"")
    upload = {"image": ("it.png", content, "image/png")}
    told = refused(client.post("/api/search/upload", files=upload), 422)
    assert "40,000,000" in told["error"]
    assert "decompression" not in told["error"]


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"<svg/>", b"\xff\xd8\xff" + b"\x00" * 99])
def test_uploads_that_are_no_picture(client, content):
    upload = {"image": ("../../x.png", content, "image/png")}
    refused(client.post("/api/search/upload", files=upload), 422)
    refused(client.post("/api/search/upload", data={"image": "/etc/passwd"}), 422)


def test_too_many_pixels(serve, built, png):
    client = serve(built, max_pixels=1_000)
    upload = {"image": ("it.png", png(0, (50, 50)), "image/png")}
    assert "pixels" in refused(client.post("/api/search/upload", files=upload), 422)["error"]
    fits = {"image": ("it.png", png(0, (30, 30)), "image/png")}
    assert client.post("/api/search/upload", files=fits).status_code == 200


def test_too_large_a_body_is_refused_before_it_is_read(serve, built):
    client = serve(built, ready=False, max_body=10_000)
    read = []

    def endless():
        for _ in range(1_000):
            read.append(1)
            yield b"x" * 1_000

    for path in ("/api/search", "/api/search/upload"):
        kind = "application/json" if path == "/api/search" else "multipart/form-data; boundary=x"
        refused(raw(client, b"x" * 10_001, kind, path), 413)
        head = {"Content-Type": kind, "Content-Length": "9" * 30}
        refused(client.post(path, content=b"x", headers=head), 413)

    async def sent_in_pieces():
        body = iter(endless())
        scope = {
            "type": "http", "method": "POST", "path": "/api/search", "raw_path": b"/api/search",
            "query_string": b"", "http_version": "1.1", "scheme": "http",
            "headers": [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")],
        }  # fmt: skip
        sent = []

        async def receive():
            return {"type": "http.request", "body": next(body), "more_body": True}

        async def send(message):
            sent.append(message)

        await client.app(scope, receive, send)
        return sent[0]["status"]

    assert asyncio.run(sent_in_pieces()) == 413
    assert len(read) == 11


def test_a_body_that_never_comes_is_given_up(serve, built):
    client = serve(built, ready=False, timeout=0.2)

    async def dripping():
        yield b'{"text'
        await asyncio.sleep(30)

    async def ask():
        transport = httpx.ASGITransport(app=client.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as other:
            head = {"Content-Type": "application/json"}
            return await other.post("/api/search", content=dripping(), headers=head)

    started = time.monotonic()
    refused(asyncio.run(ask()), 408)
    assert time.monotonic() - started < 10


class Held:
    """A retriever's `retrieve_batch` that waits until it is let go."""

    def __init__(self, client, monkeypatch):
        self.begun, self.free = threading.Event(), threading.Event()
        retriever = client.app.state.service.engine.retriever
        self.real = retriever.retrieve_batch
        monkeypatch.setattr(retriever, "retrieve_batch", self)

    def __call__(self, *args, **more):
        self.begun.set()
        assert self.free.wait(30)
        return self.real(*args, **more)


def test_a_full_queue_says_come_again(serve, built, monkeypatch):
    client = serve(built, max_queue=3, max_batch=1)
    held = Held(client, monkeypatch)
    with ThreadPoolExecutor(3) as pool:
        jobs = [pool.submit(client.post, "/api/search", json={"text": f"q{n}"}) for n in range(3)]
        assert held.begun.wait(30)
        for _ in range(200):
            if "genmm_queue_depth 3.0" in client.get("/metrics").text:
                break
            time.sleep(0.02)
        response = client.post("/api/search", json={"text": "one more"})
        assert "waiting" in refused(response, 503)["error"]
        assert int(response.headers["retry-after"]) >= 1
        held.free.set()
        assert [job.result().status_code for job in jobs] == [200] * 3
    assert client.post("/api/search", json={"text": "one more"}).status_code == 200
    assert "genmm_queue_depth 0.0" in client.get("/metrics").text


def test_who_would_wait_too_long_is_told_at_once(serve, built, monkeypatch):
    client = serve(built, timeout=20)
    timed = client.app.state.service.engine._timed
    assert client.post("/api/search", json={"text": "one"}).status_code == 200
    assert 0 < timed.average < 20
    # One that is alone is always taken, or nothing would ever be measured again.
    timed.average = 100.0
    held = Held(client, monkeypatch)
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(client.post, "/api/search", json={"text": "first"})
        assert held.begun.wait(30)
        response = client.post("/api/search", json={"text": "second"})
        assert refused(response, 503)
        assert response.headers["retry-after"] == "60"
        held.free.set()
        assert job.result().status_code == 200
    assert timed.average < 100.0


def test_an_answer_that_takes_too_long(serve, built, monkeypatch):
    client = serve(built, timeout=0.3)
    held = Held(client, monkeypatch)
    response = client.post("/api/search", json={"text": "slow"})
    assert "no answer within 0.3 seconds" in refused(response, 503)["error"]
    assert "retry-after" in response.headers
    held.free.set()


def test_too_many_uploads_at_once(serve, built, png, monkeypatch):
    client = serve(built, max_uploads=1)
    held = Held(client, monkeypatch)
    upload = {"image": ("it.png", png(), "image/png")}
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(client.post, "/api/search/upload", files=upload)
        assert held.begun.wait(30)
        response = client.post("/api/search/upload", files=upload)
        assert "uploads" in refused(response, 503)["error"]
        held.free.set()
        assert job.result().status_code == 200
    assert client.post("/api/search/upload", files=upload).status_code == 200


def test_not_ready_until_the_model_is_loaded(serve, built, monkeypatch):
    from genmm_retriever import GenerativeMMRetriever

    free, real = threading.Event(), GenerativeMMRetriever.model.fget

    def slow(self):
        assert free.wait(30)
        return real(self)

    monkeypatch.setattr(GenerativeMMRetriever, "model", property(slow))
    client = serve(built, ready=False)
    assert client.get("/readyz").status_code == 503
    assert client.get("/readyz").json() == {"status": "loading"}
    assert client.get("/healthz").status_code == 200
    refused(client.post("/api/search", json={"text": "a"}), 503)
    assert client.get("/api/items/p0").status_code == 200
    free.set()
    for _ in range(200):
        if client.get("/readyz").status_code == 200:
            break
        time.sleep(0.05)
    assert client.get("/readyz").json() == {"status": "ready"}


def test_faults_of_its_own_are_500_without_details(client, monkeypatch, caplog):
    retriever = client.app.state.service.engine.retriever

    def broken(*args, **more):
        raise RuntimeError("a secret path /home/x")

    monkeypatch.setattr(retriever, "retrieve_batch", broken)
    body = refused(client.post("/api/search", json={"text": "a"}), 500)
    assert "secret" not in json.dumps(body)
    assert "a secret path" in caplog.text

    def damaged(*args, **more):
        raise IndexDamagedError("a file is damaged", "run genmm check")

    monkeypatch.setattr(retriever, "retrieve_batch", damaged)
    refused(client.post("/api/search", json={"text": "a"}), 503)


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (errors.IndexLockedError, 503, "another process writes"),
        (errors.IndexNotFoundError, 503, "cannot be read now"),
        (errors.IndexVersionError, 503, "cannot be read now"),
        (errors.IndexDamagedError, 503, "cannot be read now"),
        (errors.StorageError, 503, "cannot be read now"),
        (errors.CapabilityError, 422, "cannot do that"),
        (errors.ModelError, 500, "model of this service failed"),
        (errors.ImageError, 500, "picture of the index"),
        (errors.SourceError, 500, "service's own"),
        (errors.GenmmError, 500, "service's own"),
    ],
)
def test_no_error_names_this_machines_files(client, monkeypatch, caplog, error, status, said):
    def fails(*args, **more):
        raise error("/srv/secret/blobs/0 of process 4711", "look at /srv/secret")

    monkeypatch.setattr(client.app.state.service.engine.retriever, "retrieve_batch", fails)
    response = client.post("/api/search", json={"text": "a"})
    body = refused(response, status)
    assert said in body["error"]
    assert body["hint"]
    assert "secret" not in response.text
    assert "4711" not in response.text
    assert ("retry-after" in response.headers) == (status == 503)
    assert "/srv/secret/blobs/0" in caplog.text


def test_it_is_not_ready_without_its_index(serve, own):
    client = serve(own)
    manifest = own / "manifest.json"
    content = manifest.read_bytes()
    manifest.write_bytes(content[:100])
    assert client.get("/readyz").status_code == 503
    assert "genmm_index_items NaN" in client.get("/metrics").text
    response = client.get("/api/items/p0")
    assert refused(response, 503)
    assert str(own) not in response.text
    manifest.write_bytes(content)
    assert client.get("/readyz").status_code == 200
    own.rename(own.with_name("elsewhere"))
    gone = client.get("/readyz")
    assert (gone.status_code, gone.json()) == (503, {"status": "no index"})


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1.evil.example",
        "",
        "127.0.0.1@evil.example",
        "[::1",
        "localhost.evil.example:8000",
        "\xff",
    ],
)
def test_other_hosts_are_not_answered(client, host):
    response = client.get("/api/info", headers={"Host": host.encode("latin-1")})
    refused(response, 400)
    assert "Host" in response.json()["error"]
    assert "--allowed-host" in response.json()["hint"]


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.0.0.1:1", "[::1]:8000"])
def test_names_of_this_machine_are_answered(client, host):
    assert client.get("/api/info", headers={"Host": host}).status_code == 200


def test_other_sites_pages_may_not_ask(client):
    for site in ("cross-site", "same-site"):
        head = {"Sec-Fetch-Site": site}
        refused(client.post("/api/search", json={"text": "a"}, headers=head), 403)
    head = {"Sec-Fetch-Site": "same-origin", "Origin": "http://127.0.0.1"}
    response = client.post("/api/search", json={"text": "a"}, headers=head)
    assert response.status_code == 200
    assert not [name for name in response.headers if name.startswith("access-control")]
    assert "set-cookie" not in response.headers


@pytest.mark.parametrize("method", ["PUT", "PATCH", "TRACE", "BREW"])
def test_other_methods(client, method):
    refused(client.request(method, "/api/search"), 405)


def test_binding_elsewhere_wants_a_token():
    for host in ("0.0.0.0", "::", "192.168.1.1", "example.org", ""):
        with pytest.raises(InputError, match="token"):
            check_binding(host, ServiceSettings())
        check_binding(host, ServiceSettings(token="x" * 16))
    for host in ("127.0.0.1", "127.1.2.3", "::1", "localhost"):
        check_binding(host, ServiceSettings())


def test_tokens():
    assert checked_token("  ") is None
    assert checked_token(None) is None
    assert checked_token(" abcdefghijklmnop\n") == "abcdefghijklmnop"
    for bad in ("short", "é" * 20, "with\nline ends in it"):
        with pytest.raises(InputError, match="token"):
            checked_token(bad)
    settings = ServiceSettings(token="abcdefghijklmnop")
    assert settings.is_authorised("Bearer abcdefghijklmnop")
    assert not ServiceSettings().is_authorised("Bearer None")
    assert not settings.is_authorised("Bearer é")


@pytest.mark.parametrize(("hosts", "warned"), [(("*",), True), (("photos.example",), False)])
def test_a_host_check_that_is_off_is_told(caplog, monkeypatch, hosts, warned):
    from genmm_retriever.serving.http import server

    def taken(host, port):
        raise InputError("not here")

    monkeypatch.setattr(server, "_listen", taken)
    settings = ServiceSettings(token="x" * 16, allowed_hosts=hosts)
    with pytest.raises(InputError, match="not here"):
        server.serve(None, host="0.0.0.0", port=0, settings=settings)
    assert ("--allowed-host" in caplog.text) == warned


def test_figures_come_without_the_time_of_their_making(client):
    from prometheus_client import CollectorRegistry, Counter, generate_latest

    client.get("/healthz")
    text = client.get("/metrics").text
    assert "genmm_requests_total" in text
    assert "_created" not in text
    others = CollectorRegistry()
    Counter("other", "Of somebody else", registry=others)
    assert "other_created" in generate_latest(others).decode()


@pytest.mark.parametrize("sent", [b"", b"GET /healthz HTTP/1.1\r\nHost: 127", b"whole"])
def test_a_head_that_never_comes_whole_is_given_up(listening, built, monkeypatch, sent):
    monkeypatch.setattr(Bounded, "head_seconds", 0.3)
    host, port = listening(built).removeprefix("http://").split(":")
    whole = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        if sent == b"whole":
            # One that was answered, and then the half of another.
            connection.sendall(whole)
            assert connection.recv(65_536).startswith(b"HTTP/1.1 200")
            sent = whole[:30]
        connection.sendall(sent)
        # Until it is closed; else this times out.
        while connection.recv(65_536):
            pass


def test_a_head_that_came_is_answered_however_long_that_takes(listening, built, monkeypatch):
    monkeypatch.setattr(Bounded, "head_seconds", 0.1)
    url = listening(built)

    def dripping():
        for part in (b'{"text": ', b'"a dog"', b"}"):
            time.sleep(0.2)
            yield part

    head = {"Content-Type": "application/json"}
    assert httpx.post(f"{url}/api/search", content=dripping(), headers=head).status_code == 200
