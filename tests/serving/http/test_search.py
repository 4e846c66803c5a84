"""Asking: by words, by a picture, by both; batches; explanation."""

from __future__ import annotations

import asyncio
import json
import time
from concurrent.futures import ThreadPoolExecutor

from pydantic import BaseModel


def ids(response):
    assert response.status_code == 200, response.text
    return [hit["id"] for hit in response.json()["hits"]]


def test_by_words(client):
    response = client.post("/api/search", json={"text": "a dog", "k": 3})
    found = response.json()
    assert [hit["rank"] for hit in found["hits"]] == [1, 2, 3]
    assert found["query"] == {
        "text": "a dog", "image": False, "filters": {}, "kind": None, "k": 3, "verify": None,
        "adapt": [],
    }  # fmt: skip
    scores = [hit["score"] for hit in found["hits"]]
    assert scores == sorted(scores, reverse=True)
    assert all(hit["evidence"]["caption"] for hit in found["hits"])
    seconds = found["seconds"]
    assert seconds["total"] >= seconds["decode"] > 0
    assert seconds["verify"] > 0
    by_kind = {hit["id"]: hit for hit in found["hits"]}
    for item_id, hit in by_kind.items():
        if item_id.startswith("p"):
            assert hit["image"] == f"/api/images/{item_id}"
            assert client.get(hit["thumbnail"]).headers["content-type"] == "image/jpeg"
        elif hit["kind"] == "text":
            assert hit["image"] is None


def test_filters_kind_and_no_verification(client):
    every = client.post("/api/search", json={"text": "x", "k": 50})
    assert sorted(ids(every)) == sorted(
        ["p0", "p1", "p2", "p3", "odd/ü ?#\nname", "t0", "t1", "web"]
    )
    texts = client.post("/api/search", json={"text": "x", "kind": "text", "verify": "off"})
    assert sorted(ids(texts)) == ["t0", "t1"]
    assert texts.json()["hits"][0]["evidence"]["verification"] is None
    some = client.post("/api/search", json={"text": "x", "filters": {"n": [0, 3.0], "tags": "a"}})
    assert ids(some) == ["t0"]


def test_a_picture_elsewhere_has_no_address_here(client):
    found = client.post("/api/search", json={"text": "x", "k": 50}).json()["hits"]
    [hit] = [hit for hit in found if hit["id"] == "web"]
    assert hit["kind"] == "image"
    assert hit["image"] is None
    assert hit["thumbnail"] is None
    assert "secret" not in json.dumps(hit)


def test_by_a_picture_and_by_both(client, png):
    upload = {"image": ("it.png", png(2, (200, 150)), "image/png")}
    alone = client.post("/api/search/upload", files=upload, data={"k": "3"})
    assert len(ids(alone)) == 3
    assert alone.json()["query"]["image"] is True
    assert "p2" in ids(alone)
    both = client.post(
        "/api/search/upload",
        files=upload,
        data={"k": "9", "text": "in red", "filters": '{"n": [1, 2]}', "kind": "image",
              "verify": "off"},
    )  # fmt: skip
    assert sorted(ids(both)) == ["p1", "p2"]
    assert both.json()["query"]["text"] == "in red"


def test_hits_are_those_of_the_retriever(client):
    retriever = client.app.state.service.engine.retriever
    wanted = [hit.item.id for hit in retriever.retrieve("two dogs", k=4)]
    assert ids(client.post("/api/search", json={"text": "two dogs", "k": 4})) == wanted


def test_concurrent_queries_share_a_decode(serve, built):
    client = serve(built, max_wait_ms=200, max_batch=8)
    texts = [f"query number {n}" for n in range(8)]
    alone = [ids(client.post("/api/search", json={"text": text, "k": 3})) for text in texts]
    before = sizes(client)
    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(client.post, "/api/search", json={"text": t, "k": 3}) for t in texts]
        together = [ids(job.result()) for job in jobs]
    assert together == alone
    count, total = (now - then for now, then in zip(sizes(client), before, strict=True))
    assert total == 8
    assert count <= 3


def sizes(client):
    """Number of batches and of queries in them."""
    lines = dict(line.rsplit(" ", 1) for line in client.get("/metrics").text.splitlines())
    return float(lines["genmm_batch_size_count"]), float(lines["genmm_batch_size_sum"])


def test_a_held_event_loop_is_told(client):
    def over() -> float:
        lines = dict(line.rsplit(" ", 1) for line in client.get("/metrics").text.splitlines())
        name = "genmm_event_loop_lag_seconds_"
        return float(lines[name + "count"]) - float(lines[f'{name}bucket{{le="0.1"}}'])

    before = over()

    async def hold() -> None:
        time.sleep(0.3)

    client.portal.call(hold)
    client.portal.call(asyncio.sleep, 0.1)
    assert over() >= before + 1


class Told(BaseModel):
    question: str
    logprob: float


def test_explanation_is_the_retrievers(client, png, monkeypatch):
    retriever = client.app.state.service.engine.retriever
    asked = []

    def explain(query, *, k, verify="likelihood"):
        asked.append((query.text, query.image is not None, query.filters, k, verify))
        return Told(question=query.text or "", logprob=float("-inf"))

    monkeypatch.setattr(retriever, "explain_written", explain, raising=False)
    request = {"text": "a dog", "k": 3, "filters": {"n": 1}, "verify": "off"}
    response = client.post("/api/explain", json=request)
    assert response.status_code == 200
    assert response.json() == {"question": "a dog", "logprob": None}
    upload = {"image": ("it.png", png(), "image/png")}
    assert client.post("/api/explain/upload", files=upload).status_code == 200
    assert asked == [("a dog", False, {"n": 1}, 3, "off"), (None, True, {}, 10, "likelihood")]


def test_a_retriever_that_explains_nothing_says_so(client, monkeypatch):
    retriever = client.app.state.service.engine.retriever
    monkeypatch.setattr(retriever, "explain_written", None, raising=False)
    response = client.post("/api/explain", json={"text": "a dog"})
    assert response.status_code == 501
    assert response.json()["hint"]


def test_the_event_loop_goes_on_while_a_query_runs(client, monkeypatch):
    """Health is answered while the retriever sleeps: nothing of it runs in the loop."""
    import time

    import httpx

    retriever = client.app.state.service.engine.retriever
    slow = retriever.retrieve_batch

    def sleeping(*args, **more):
        time.sleep(0.6)
        return slow(*args, **more)

    async def ask():
        transport = httpx.ASGITransport(app=client.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as other:
            query = asyncio.create_task(other.post("/api/search", json={"text": "x"}))
            worst = 0.0
            while not query.done():
                started = time.perf_counter()
                await asyncio.sleep(0.005)
                assert (await other.get("/healthz")).status_code == 200
                worst = max(worst, time.perf_counter() - started)
            return (await query).status_code, worst

    monkeypatch.setattr(retriever, "retrieve_batch", sleeping)
    status, worst = asyncio.run(ask())
    assert status == 200
    assert worst < 0.4
