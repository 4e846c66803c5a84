"""Adding and deleting: who may, what is stored, what is refused."""

from __future__ import annotations

import os
import threading
import time

import pytest

from genmm_retriever.corpus.store import IndexReader, IndexWriter, check_index


@pytest.fixture
def writable(own, serve, token, bearer):
    """A service whose index may be changed, by a client that has the token."""
    return serve(own, token=token, headers=bearer)


def picture(png, seed=21):
    return {"image": ("it.png", png(seed), "image/png")}


def add(client, files=None, **fields):
    return client.post("/api/items", data=fields, files=files)


def found(client, text="x"):
    hits = client.post("/api/search", json={"text": text, "k": 100}).json()["hits"]
    return {hit["id"] for hit in hits}


def test_add_find_and_delete(writable, own, png):
    response = add(writable, picture(png), id="a/new one", title="New", metadata='{"n": 99}')
    assert response.status_code == 201, response.text
    assert response.json() == {"id": "a/new one", "status": "added", "items": 9}
    with IndexReader.open(own) as reader:
        item = reader.item(reader.row("a/new one"))
    assert item.metadata == {"n": 99}
    assert writable.get("/api/images/a%2Fnew%20one").content == png(21)
    assert "a/new one" in found(writable)
    assert add(writable, id="words", text="A train crosses a bridge.").status_code == 201
    assert {"words", "a/new one"} <= found(writable)

    again = add(writable, picture(png), id="a/new one", title="New", metadata='{"n": 99}')
    assert (again.status_code, again.json()["status"]) == (200, "unchanged")
    other = add(writable, picture(png, 22), id="a/new one")
    assert other.status_code == 409
    assert "replace=true" in other.json()["hint"]
    assert str(own) not in other.json()["error"]
    assert other.json()["error"].endswith("with other content")
    assert "a/new one" in other.json()["error"]
    replaced = add(writable, picture(png, 22), id="a/new one", replace="true")
    assert (replaced.status_code, replaced.json()["status"]) == (200, "replaced")
    assert writable.get("/api/images/a%2Fnew%20one").content == png(22)

    assert writable.delete("/api/items/a%2Fnew%20one").json()["deleted"] == 1
    assert writable.delete("/api/items/a%2Fnew%20one").status_code == 404
    assert "a/new one" not in found(writable)
    assert writable.get("/api/images/a%2Fnew%20one").status_code == 404
    assert check_index(own) == []


def test_an_index_may_become_empty_and_be_filled_again(writable, own):
    with IndexReader.open(own) as reader:
        names = [item.id for item in reader.items(reader.live_rows())]
    retriever = writable.app.state.service.engine.retriever
    retriever.delete(names[1:])
    assert writable.delete(f"/api/items/{names[0]}").status_code == 200
    assert found(writable) == set()
    assert add(writable, id="first", text="A cat sleeps.").status_code == 201
    assert found(writable) == {"first"}


@pytest.mark.parametrize(
    "fields",
    [
        {"id": "x"},
        {"id": "", "text": "a"},
        {"id": "  ", "text": "a"},
        {"id": "nul\x00", "text": "a"},
        {"id": "x" * 1025, "text": "a"},
        {"id": "x", "text": " "},
        {"id": "x", "text": "a\x00b"},
        {"id": "x", "text": "a" * 100_001},
        {"id": "x", "text": "a", "title": "t" * 1_001},
        {"id": "x", "text": "a", "metadata": "{"},
        {"id": "x", "text": "a", "metadata": "[1]"},
        {"id": "x", "text": "a", "metadata": '{"a": {"b": 1}}'},
        {"id": "x", "text": "a", "metadata": '{"a": NaN}'},
        {"id": "x", "text": "a", "metadata": '{"a": 1e999}'},
        {"id": "x", "text": "a", "metadata": '{"a": ' + "9" * 400 + "}"},
        {"id": "x", "text": "a", "metadata": '{"a": ' + "9" * 5000 + "}"},
        {"id": "x", "text": "a", "metadata": '{"a": "\\ud800"}'},
        {"id": "x", "text": "a", "metadata": "[" * 100_000},
        {"id": "x", "text": "a", "replace": "perhaps"},
        {"text": "a"},
        {"id": "x", "text": "a", "metadat": "{}"},
        {"id": ["x", "y"], "text": "a"},
    ],
)
def test_bad_items(writable, fields):
    response = add(writable, **fields)
    assert response.status_code == 422, response.text
    assert set(response.json()) == {"error", "hint"}


@pytest.mark.parametrize("content", [b"", b"text", b"<svg/>", b"\x89PNG\r\n\x1a\n" + b"\x00" * 50])
def test_what_is_no_picture(writable, content, own):
    response = add(writable, {"image": ("it.png", content, "image/png")}, id="x")
    assert response.status_code == 422, response.text
    with IndexReader.open(own) as reader:
        assert reader.generation == 1


def test_who_may_change(own, serve, token, png):
    client = serve(own, token=token)
    for header in ({}, {"Authorization": f"Bearer {token}x"}, {"Authorization": f"Basic {token}"},
                   {"Authorization": "Bearer "}, {"Authorization": token},
                   {"Authorization": "Bearer \xff".encode("latin-1")}):  # fmt: skip
        for response in (
            client.post("/api/items", data={"id": "x", "text": "a"}, headers=header),
            client.delete("/api/items/p0", headers=header),
            client.delete("/api/items/nobody", headers=header),
        ):
            assert response.status_code == 401
            assert response.headers["www-authenticate"] == "Bearer"
            assert set(response.json()) == {"error", "hint"}
    assert "p0" in found(client)
    good = {"Authorization": f"bearer {token}"}
    assert client.delete("/api/items/p0", headers=good).status_code == 200
    from_elsewhere = good | {"Sec-Fetch-Site": "cross-site", "Origin": "http://evil.example"}
    assert client.delete("/api/items/p1", headers=from_elsewhere).status_code == 403
    answer = client.options("/api/items", headers={"Origin": "http://evil.example"})
    assert "access-control-allow-origin" not in answer.headers


def test_without_a_token_nothing_is_changed(own, serve):
    client = serve(own)
    for header in ({}, {"Authorization": "Bearer "}, {"Authorization": "Bearer None"}):
        response = client.delete("/api/items/p0", headers=header)
        assert response.status_code == 403
        assert "GENMM_TOKEN" in response.json()["hint"]
    assert client.get("/api/info").json()["writable"] is False


def test_another_writer_makes_it_wait(writable, own):
    with IndexWriter.open(own):
        response = add(writable, id="x", text="a")
    assert response.status_code == 503
    assert int(response.headers["retry-after"]) >= 1
    assert add(writable, id="x", text="a").status_code == 201


def test_what_takes_too_long_may_still_come(own, serve, token, bearer, monkeypatch):
    client = serve(own, token=token, headers=bearer, timeout=0.3)
    retriever = client.app.state.service.engine.retriever
    held, real = threading.Event(), retriever.add

    def slow(*args, **more):
        assert held.wait(30)
        return real(*args, **more)

    monkeypatch.setattr(retriever, "add", slow)
    response = add(client, id="late", text="A late train.")
    assert response.status_code == 503
    assert "may still be stored" in response.json()["hint"]
    held.set()
    for _ in range(200):
        if client.get("/api/items/late").status_code == 200:
            break
        time.sleep(0.05)
    assert client.get("/api/items/late").json()["text"] == "A late train."


def test_a_full_disk_is_named_and_nothing_changes(writable, own, monkeypatch):
    from genmm_retriever.corpus.store import files

    def full(path, write):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "write_atomically", full)
    response = add(writable, id="x", text="A cat sleeps.")
    assert response.status_code == 507
    assert "No space left" in response.json()["error"]
    assert str(own) not in response.text
    monkeypatch.undo()
    assert check_index(own) == []
    assert "x" not in found(writable)
    assert add(writable, id="x", text="A cat sleeps.").status_code == 201


def test_another_writer_is_waited_for_without_its_name(writable, own):
    with IndexWriter.open(own):
        response = add(writable, id="x", text="A cat sleeps.")
    assert response.status_code == 503
    assert response.headers["retry-after"]
    assert "another process writes" in response.json()["error"]
    assert str(own) not in response.text
    assert str(os.getpid()) not in response.text


def test_an_index_that_was_moved_takes_nothing_more(writable, own):
    moved = own.rename(own.with_name("elsewhere"))
    response = add(writable, id="x", text="A cat sleeps.")
    assert response.status_code == 503, response.text
    assert str(own) not in response.text
    assert writable.delete("/api/items/p0").status_code == 503
    moved.rename(own)
    assert add(writable, id="x", text="A cat sleeps.").status_code == 201
