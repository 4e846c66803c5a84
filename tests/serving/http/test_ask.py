"""Before the search and after it: adapters, answers, and whoever writes them."""

from __future__ import annotations

import gc
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from genmm_retriever import errors

WORDY = "please find me a picture that I saw a while ago of a dog in the snow thanks"
SECRET = "sk-secret http://writer.internal:9/v1"


class Writer:
    """Behind a server, as far as the service knows; it says what the test says."""

    name = "openai:scripted"

    def __init__(self, **said):
        self.said = {"constraints": "dog, snow", "queries": ["a puppy"], "context": "a dog plays"}
        self.said |= {"found": True, "answer": "A frisbee.", "sources": [1], **said}
        self.error, self.threads = None, []
        self.begun, self.free = threading.Event(), threading.Event()
        self.free.set()

    def generate(self, prompts, **options):
        self.threads.append(threading.current_thread().name)
        self.begun.set()
        assert self.free.wait(30)
        if self.error is not None:
            raise self.error
        return [[json.dumps(self.said)] for _ in prompts]


@pytest.fixture
def writer():
    return Writer()


def refused(response, *statuses):
    assert response.status_code in statuses, response.text
    body = response.json()
    assert set(body) == {"error", "hint"}
    return body


def steps(response):
    assert response.status_code == 200, response.text
    return response.json()["hits"][0]["evidence"]["steps"]


def test_adapters_tell_what_was_asked_instead(serve, built, writer):
    client = serve(built, writer=writer)
    asked = {"text": WORDY, "k": 3, "adapt": ["expand:1", "rewrite"]}
    response = client.post("/api/search", json=asked)
    rewritten, *_ = steps(response)
    assert (rewritten["adapter"], rewritten["text"], rewritten["changed"]) == (
        "rewrite", "dog, snow", True,
    )  # fmt: skip
    told = response.json()
    assert told["query"]["text"] == WORDY
    assert told["query"]["adapt"] == ["expand:1", "rewrite"]
    assert len(told["hits"]) == 3
    seconds = told["seconds"]
    assert seconds["total"] >= seconds["adapt"] > 0
    assert seconds["total"] >= seconds["decode"] > 0
    assert {step["adapter"] for step in steps(response)} == {"rewrite", "expand"}
    assert all(name.startswith("genmm-writers") for name in writer.threads)
    reasoned = client.post("/api/search", json={**asked, "adapt": ["reason:2"]})
    assert steps(reasoned)[0]["adapter"] == "reason"
    assert steps(client.post("/api/search", json={"text": WORDY})) == []


def test_the_models_own_adapters_compute_where_it_does(client, monkeypatch):
    model = client.app.state.service.engine.retriever.model
    threads, generate = set(), model.generate

    def noted(*arguments, **options):
        threads.add(threading.current_thread().name)
        return generate(*arguments, **options)

    monkeypatch.setattr(model, "generate", noted)
    asked = {"text": WORDY, "adapt": ["rewrite", "expand:2", "reason:2"], "k": 2}
    assert len(steps(client.post("/api/search", json=asked))) >= 3
    assert len(threads) == 1
    assert threads.pop().startswith("genmm-queries")


def test_a_picture_and_its_change_are_composed_from_a_form(client, png):
    upload = {"image": ("it.png", png(2, (200, 150)), "image/png")}
    fields = {"text": "in red", "k": "2", "adapt": ["rewrite, compose", "expand:2"]}
    response = client.post("/api/search/upload", files=upload, data=fields)
    assert "compose" in {step["adapter"] for step in steps(response)}
    assert response.json()["query"]["adapt"] == ["rewrite", "compose", "expand:2"]
    for fields in ({"adapt": ""}, {"adapt": " , "}, {}):
        response = client.post("/api/search/upload", files=upload, data=fields)
        assert response.json()["query"]["adapt"] == []


BAD = [["rewrit"], ["expand:0"], ["expand:9"], ["rewrite:2"], ["expand:²"], ["expand:"], [""], [7]]
BAD += [["\ud800"], ["x" * 5_000], ["rewrite"] * 7, "rewrite", {"rewrite": 1}, None]


@pytest.mark.parametrize("adapt", BAD, ids=range(len(BAD)))
def test_what_is_no_adapter_is_refused(client, png, adapt):
    body = json.dumps({"text": "a", "adapt": adapt})
    for path in ("/api/search", "/api/explain", "/api/ask"):
        response = client.post(path, content=body, headers={"Content-Type": "application/json"})
        assert "adapt" in refused(response, 422)["error"]
        assert len(response.text) < 500
    if adapt == ["rewrit"]:
        upload = {"image": ("it.png", png(), "image/png")}
        form = {"text": "a", "adapt": "rewrit"}
        response = client.post("/api/search/upload", files=upload, data=form)
        assert "no query adapter 'rewrit'" in refused(response, 422)["error"]


def test_an_explanation_is_of_the_adapted_query(serve, built, writer):
    client = serve(built, writer=writer)
    told = client.post("/api/explain", json={"text": WORDY, "k": 2, "adapt": ["rewrite"]})
    assert told.json()["query"]["text"] == "dog, snow"
    for name in ("expand", "reason:2"):
        response = client.post("/api/explain", json={"text": WORDY, "adapt": [name]})
        assert "one search" in refused(response, 422)["error"]


def test_a_question_is_answered_with_its_sources(serve, built, writer):
    client = serve(built, writer=writer)
    asked = {"text": "What does the dog catch?", "kind": "text", "adapt": ["reason:1"]}
    answer = client.post("/api/ask", json=asked)
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert (told["found"], told["text"], told["quoted"]) == (True, "A frisbee.", False)
    assert told["reason"] is None
    assert 0 <= told["confidence"] <= 1
    [source] = told["sources"]
    assert source["id"] in ("t0", "t1")
    assert source["evidence"]["steps"]
    assert told["query"]["k"] == 3
    seconds = told["seconds"]
    assert seconds["answer"] > 0
    assert seconds["total"] >= seconds["answer"] + seconds["adapt"]
    writer.said |= {"found": False, "sources": []}
    none = client.post("/api/ask", json={**asked, "adapt": []}).json()
    assert (none["found"], none["text"]) == (False, "")
    assert len(none["sources"]) == 2
    assert "no answer" in none["reason"]
    nothing = client.post("/api/ask", json={**asked, "filters": {"n": 99}}).json()
    assert (nothing["reason"], nothing["sources"]) == ("no item matches the filters", [])
    metrics = client.get("/metrics").text
    assert 'genmm_stage_seconds_count{stage="answer"} 3.0' in metrics
    assert 'genmm_stage_seconds_count{stage="adapt"} 2.0' in metrics
    assert 'genmm_requests_total{method="POST",route="/api/ask",status="200"} 3.0' in metrics


def test_below_the_threshold_nothing_is_written(serve, built, writer, png):
    client = serve(built, writer=writer)
    answer = client.post("/api/ask", json={"text": "What?", "threshold": 1.0, "k": 2}).json()
    assert answer["found"] is False
    assert "less than 1.00" in answer["reason"]
    assert len(answer["sources"]) == 2
    assert writer.threads == []
    upload = {"image": ("it.png", png(2, (200, 150)), "image/png")}
    for threshold, found in (("1.0", False), ("0", True), ("", True)):
        form = {"text": "What is it?", "threshold": threshold, "kind": "image", "k": "1"}
        answer = client.post("/api/ask/upload", files=upload, data=form).json()
        assert (answer["found"], answer["query"]["image"]) == (found, True)


def test_a_threshold_wants_verification(client, png, monkeypatch):
    asked = {"text": "Which dog?", "verify": "off", "k": 1}
    plain = client.post("/api/ask", json=asked).json()
    assert (plain["found"], plain["confidence"]) == (True, None)
    assert client.post("/api/ask", json={**asked, "threshold": 0}).status_code == 200
    for verify in ("off", False):
        response = client.post("/api/ask", json={**asked, "verify": verify, "threshold": 0.9})
        assert "needs verification" in refused(response, 422)["error"]
        assert "leave the threshold out" in response.json()["hint"]
    upload = {"image": ("it.png", png(), "image/png")}
    form = {"text": "Which dog?", "verify": "off", "threshold": "0.9"}
    refused(client.post("/api/ask/upload", files=upload, data=form), 422)
    monkeypatch.setattr(client.app.state.service.engine.retriever, "verify", "off")
    refused(client.post("/api/ask", json={"text": "a", "threshold": 0.9}), 422)


def test_a_model_that_cannot_answer_quotes(client):
    answer = client.post("/api/ask", json={"text": "Which dog?", "filters": {"n": 0, "tags": "a"}})
    assert answer.json()["quoted"] is True
    assert answer.json()["text"].startswith("A brown dog")


@pytest.mark.parametrize(
    "asked",
    [{}, {"text": " "}, {"text": "a", "k": 21}, {"text": "a", "k": 0}, {"text": "a", "x": 1},
     {"text": "a", "threshold": 1.1}, {"text": "a", "threshold": -1},
     {"text": "a", "threshold": True}, {"text": "a", "k": True},
     {"text": "a", "threshold": float("nan")}, {"text": "a", "threshold": "much"}],
)  # fmt: skip
def test_questions_that_are_none(client, png, asked):
    body = json.dumps(asked)
    head = {"Content-Type": "application/json"}
    refused(client.post("/api/ask", content=body, headers=head), 422)
    upload = {"image": ("it.png", png(), "image/png")}
    form = {name: str(value) for name, value in asked.items() if name != "x"}
    if "x" not in asked:
        refused(client.post("/api/ask/upload", files=upload, data=form), 422)
    refused(client.post("/api/ask/upload", data={"text": "a"}), 422)


FAILURES = [
    (errors.RemoteBusyError, 503, "busy"),
    (errors.RemoteTimeoutError, 504, "in time"),
    (errors.RemoteUnreachableError, 502, "reached"),
    (errors.RemoteKeyError, 502, "does not know"),
    (errors.RemoteRefusedError, 502, "does not take"),
    (errors.RemoteError, 502, "failed"),
    (errors.ModelNotFoundError, 502, "not there"),
]


@pytest.mark.parametrize(("kind", "status", "said"), FAILURES)
def test_a_writer_that_fails(serve, built, writer, kind, status, said):
    client = serve(built, writer=writer)
    writer.error = kind(f"{SECRET} is what it is", f"check {SECRET}")
    requests = [("/api/ask", {"text": "What?"}), ("/api/explain", {"adapt": ["rewrite"]})]
    requests += [("/api/search", {"adapt": [name]}) for name in ("rewrite", "expand", "reason")]
    for path, asked in requests:
        response = client.post(path, json={"text": WORDY, **asked})
        assert said in refused(response, status)["error"]
        assert "secret" not in response.text
        assert "internal" not in response.text
        assert ("retry-after" in response.headers) == (status == 503)
    # Who asks plainly needs no writer.
    assert client.post("/api/search", json={"text": "a dog"}).status_code == 200
    assert "genmm_queue_depth 0.0" in client.get("/metrics").text


def test_a_writer_without_a_usable_answer_is_not_taken_for_an_index_without_one(
    serve, built, writer
):
    client = serve(built, writer=writer)
    writer.said = f"I am {SECRET}"
    response = client.post("/api/ask", json={"text": "What?", "threshold": 0})
    assert "no usable answer" in refused(response, 502)["error"]
    assert "secret" not in response.text


def test_others_are_answered_while_a_writer_thinks(serve, built, writer, png):
    client = serve(built, writer=writer)
    writer.free.clear()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.post, "/api/ask", json={"text": "What?"})
        assert writer.begun.wait(30)
        assert client.post("/api/search", json={"text": "a dog"}).status_code == 200
        upload = {"image": ("it.png", png(), "image/png")}
        assert client.post("/api/search/upload", files=upload).status_code == 200
        assert not waiting.done()
        assert "genmm_queue_depth 1.0" in client.get("/metrics").text
        writer.free.set()
        assert waiting.result().json()["text"] == "A frisbee."


def test_a_writer_that_thinks_too_long(serve, built, writer):
    client = serve(built, writer=writer, timeout=0.5)
    writer.free.clear()
    started = time.monotonic()
    response = client.post("/api/search", json={"text": WORDY, "adapt": ["rewrite"]})
    assert "no answer within 0.5 seconds" in refused(response, 503)["error"]
    assert time.monotonic() - started < 10
    writer.free.set()


def test_what_was_given_up_searches_no_more(serve, built, writer, monkeypatch):
    client = serve(built, writer=writer, timeout=0.7)
    retriever = client.app.state.service.engine.retriever
    real, searches = retriever.retrieve_batch, []

    def slow(queries, **options):
        searches.append(len(queries))
        time.sleep(0.4)
        [hits] = real(queries, **options)
        # Never twice the same first, or the rounds would end by themselves.
        return [hits[len(searches) % 2 :]]

    monkeypatch.setattr(retriever, "retrieve_batch", slow)
    for path in ("/api/search", "/api/ask"):
        searches.clear()
        response = client.post(path, json={"text": WORDY, "adapt": ["reason:8"]})
        assert "fewer rounds" in refused(response, 503)["hint"]
        begun = len(searches)
        time.sleep(1.5)
        assert 1 <= len(searches) == begun < 8


def test_forms_of_one_query_take_their_places(serve, built, writer):
    client = serve(built, writer=writer, max_queue=4)
    writer.free.clear()
    with ThreadPoolExecutor(1) as pool:
        asked = {"text": "a dog", "adapt": ["expand:3"]}
        waiting = pool.submit(client.post, "/api/search", json=asked)
        assert writer.begun.wait(30)
        refused(client.post("/api/search", json={"text": "one more"}), 503)
        writer.free.set()
        assert waiting.result().status_code == 200
    assert client.post("/api/search", json={"text": "one more"}).status_code == 200


def test_a_writer_that_cannot_be_loaded_ends_the_service(built, tiny_builtin):
    from fastapi.testclient import TestClient

    from genmm_retriever import GenerativeMMRetriever
    from genmm_retriever.serving.http.app import create_app

    def load():
        raise errors.ModelNotFoundError("there is no such model", "name another")

    retriever = GenerativeMMRetriever.from_index(built, model=tiny_builtin)
    app = create_app(retriever, writer=load)
    ended = threading.Event()
    app.state.service.engine.on_failure = ended.set
    with TestClient(app, base_url="http://127.0.0.1") as client:
        assert ended.wait(30)
        assert client.get("/readyz").json() == {"status": "failed"}
    assert isinstance(app.state.service.engine.failure, errors.ModelNotFoundError)


def test_what_is_loaded_is_told_before_it_is_ready_and_kept_from_the_collector(built, tiny_builtin):
    from fastapi.testclient import TestClient

    from genmm_retriever import GenerativeMMRetriever
    from genmm_retriever.serving.http.app import create_app
    from genmm_retriever.serving.http.server import keep_what_is_loaded

    retriever = GenerativeMMRetriever.from_index(built, model=tiny_builtin)
    app = create_app(retriever)
    engine, seen = app.state.service.engine, []

    def loaded():
        keep_what_is_loaded()
        seen.append((engine.state, gc.get_freeze_count() > 0))

    engine.on_loaded = loaded
    try:
        with TestClient(app, base_url="http://127.0.0.1") as client:
            for _ in range(600):
                if client.get("/readyz").status_code == 200:
                    break
                time.sleep(0.05)
    finally:
        gc.unfreeze()
    assert seen == [("loading", True)]


def test_the_command_wants_a_key_before_it_serves(genmm, built, monkeypatch):
    pytest.importorskip("openai")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    code, out, err = genmm("serve", built, "--port", "0", "--writer", "openai:gpt")
    assert code == 2
    assert out == ""
    assert "OPENAI_API_KEY" in err
