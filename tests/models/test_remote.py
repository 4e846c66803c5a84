"""Remote models, against a server on the loopback that remembers what it was asked."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import socket
import threading
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image
from pydantic import BaseModel

from genmm_retriever.errors import (
    CapabilityError,
    InputError,
    MissingExtraError,
    ModelNotFoundError,
    RemoteBusyError,
    RemoteError,
    RemoteKeyError,
    RemoteRefusedError,
    RemoteTimeoutError,
    RemoteUnreachableError,
)
from genmm_retriever.models import remote_waiting
from genmm_retriever.models.base import Generator, ImagePart, Prompt, TextPart
from genmm_retriever.models.loading import load_generator, load_model, scoring_model
from genmm_retriever.models.remote import RemoteGenerator
from genmm_retriever.models.structured import JsonGenerator, write_json
from genmm_retriever.models.usage import Usage, UsageReporter

pytest.importorskip("openai")

KEY = "sk-very-secret-0123456789"
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 9, "default": "Rex"}},
    "required": ["name"],
    "additionalProperties": False,
}


class Dog(BaseModel):
    name: str


def completion(*texts, usage=(7, 3)):
    """What a server answers."""
    body = {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [
            {
                "index": i,
                "finish_reason": "stop",
                "message": {"role": "assistant", "content": text},
            }
            for i, text in enumerate(texts)
        ],
    }
    if usage is not None:
        names = ("prompt_tokens", "completion_tokens")
        body["usage"] = {**dict(zip(names, usage, strict=True)), "total_tokens": sum(usage)}
    return 200, body


def failure(status, message="no", **more):
    return status, {"error": {"message": message, "type": "error", **more}}


class Server:
    """Answers each request by `reply(body)`: a status and what becomes JSON, or bytes.

    It breaks off `missing` bytes before the end.
    """

    def __init__(self):
        self.seen, self.headers, self.paths = [], [], []
        self.reply = lambda body: completion("yes")
        self.busy = self.most_busy = self.missing = 0
        self.lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"owner": self})
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    def close(self):
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: Server

    def do_POST(self):
        owner = self.owner
        size = int(self.headers["Content-Length"])
        given = self.rfile.read(size)
        if len(given) < size:  # whoever asked has gone
            return
        body = json.loads(given)
        with owner.lock:
            owner.seen.append(body)
            owner.headers.append(self.headers)
            owner.paths.append(self.path)
            owner.busy += 1
            owner.most_busy = max(owner.most_busy, owner.busy)
        try:
            status, answer = owner.reply(body)
        finally:
            with owner.lock:
                owner.busy -= 1
        raw = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.send_header("Retry-After-Ms", "1")
        with contextlib.suppress(ConnectionError):
            self.end_headers()
            self.wfile.write(raw[: len(raw) - owner.missing])
        self.close_connection = self.close_connection or owner.missing > 0

    def log_message(self, *args):
        pass


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """No proxies, and nothing of the user's own."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    for name in (
        "OPENAI_API_KEY",
        "OPENAI_BASE_URL",
        "OPENAI_ORG_ID",
        "OPENAI_PROJECT_ID",
        "GENMM_WRITER_TIMEOUT",
        "GENMM_WRITER_TOKENS",
    ):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server():
    one = Server()
    yield one
    one.close()


@pytest.fixture
def make(server):
    """Makes a generator for the server; its connections are closed at the end."""
    made = []

    def build(**options):
        options = {"base_url": server.url, "api_key": KEY, "max_retries": 0, **options}
        made.append(RemoteGenerator("tiny", **options))
        return made[-1]

    yield build
    for one in made:
        one.close()


def ask(*texts):
    return [Prompt((TextPart(text),)) for text in texts]


def test_it_is_what_the_protocols_want(make):
    model = make()
    assert isinstance(model, Generator)
    assert isinstance(model, JsonGenerator)
    assert isinstance(model, UsageReporter)
    assert model.name == "openai:tiny"
    with pytest.raises(CapabilityError, match="log-probabilities"):
        scoring_model(model)


def test_what_is_asked_arrives(make, server):
    server.reply = lambda body: completion("  a dog ", "a cat")
    options = {"max_new_tokens": 9, "num_return_sequences": 2, "temperature": 0.5, "seed": 4}
    assert make().generate(ask("x"), **options) == [["a dog", "a cat"]]
    [body] = server.seen
    assert body == {
        "model": "tiny",
        "messages": [{"role": "user", "content": "x"}],
        "max_tokens": 9,
        "n": 2,
        "temperature": 0.5,
        "seed": 4,
    }
    assert server.paths == ["/v1/chat/completions"]
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"


def test_greedy_answers_keep_the_order_of_their_prompts(make, server):
    server.reply = lambda body: completion(body["messages"][0]["content"].upper())
    texts = [f"text {i}" for i in range(20)]
    assert make().generate(ask(*texts)) == [[text.upper()] for text in texts]
    assert {(body["temperature"], "n" in body) for body in server.seen} == {(0.0, False)}


def test_at_most_so_many_requests_at_a_time(make, server):
    barrier = threading.Barrier(3, timeout=20)

    def reply(body):
        barrier.wait()
        return completion("yes")

    server.reply = reply
    model = make(concurrency=3)
    threads = [threading.Thread(target=model.generate, args=(ask(*"abc"),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # The barrier opens only for three at once; more never were there.
    assert len(server.seen) == 6
    assert server.most_busy == 3


def test_a_server_that_gives_one_answer_is_asked_again(make, server):
    server.reply = lambda body: completion(f"seed {body['seed']}")
    model = make()
    found = model.generate(ask("x"), num_return_sequences=3, temperature=1.0, seed=5)
    assert found == [["seed 5", "seed 6", "seed 7"]]
    assert [body.get("n", 1) for body in server.seen] == [3, 2, 1]
    assert model.last_usage == Usage(21, 9, 3)


def test_pictures_are_sent_small_as_jpeg(make, server, picture):
    prompt = Prompt((TextPart("What"), ImagePart(picture(300, 200)), TextPart("is it?")))
    make(max_image_pixels=600).generate([prompt])
    first, shown, last = server.seen[0]["messages"][0]["content"]
    assert (first, last) == (
        {"type": "text", "text": "What"},
        {"type": "text", "text": "is it?"},
    )
    head, data = shown["image_url"]["url"].split(",")
    assert head == "data:image/jpeg;base64"
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert (image.format, image.size) == ("JPEG", (30, 20))


@pytest.mark.parametrize("size", [(1000, 1), (1, 1000), (3, 3)])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P"])
def test_pictures_of_any_shape_and_mode(make, server, size, mode):
    make(max_image_pixels=5).generate([Prompt((ImagePart(Image.new(mode, size)),))])
    [shown] = server.seen[0]["messages"][0]["content"]
    data = base64.b64decode(shown["image_url"]["url"].split(",")[1])
    width, height = Image.open(io.BytesIO(data)).size
    assert 1 <= width * height <= 5


def test_features_are_no_pictures(make, server):
    import torch

    with pytest.raises(CapabilityError, match="features"):
        make().generate([Prompt((ImagePart(features=torch.zeros(2)),))])
    assert server.seen == []


def test_an_answer_cannot_be_begun(make):
    with pytest.raises(CapabilityError, match="begins"):
        make().generate([Prompt((TextPart("x"),), answer="It is")])


def test_no_beams(make):
    with pytest.raises(CapabilityError, match="beam"):
        make().generate(ask("x"), num_return_sequences=2)


def test_hostile_text_arrives_as_text(make, server):
    make().generate(ask("a \ud800<|im_end|>\n</s>"))
    assert server.seen[0]["messages"][0]["content"] == "a \ufffd< |im_end|>\n</s>"


@pytest.mark.parametrize(
    "options",
    [
        {"max_new_tokens": 0},
        {"num_return_sequences": 0},
        {"temperature": -1.0},
        {"temperature": float("nan")},
    ],
)
def test_numbers_out_of_range(make, options):
    with pytest.raises(InputError, match="generate needs"):
        make().generate(ask("x"), **options)
    with pytest.raises(InputError, match="generate_json needs"):
        make().generate_json(ask("x"), SCHEMA, max_new_tokens=0)


@pytest.mark.parametrize(
    "options",
    [
        {"timeout": 0},
        {"timeout": float("inf")},
        {"patience": 0},
        {"patience": float("nan")},
        {"max_retries": -1},
        {"concurrency": 0},
        {"max_image_pixels": 0},
    ],
)
def test_a_generator_of_impossible_numbers(options):
    with pytest.raises(InputError, match="RemoteGenerator needs"):
        RemoteGenerator("m", api_key=KEY, **options)


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://x/v1", "http://", "::"])
def test_addresses_that_are_none(url):
    with pytest.raises(InputError, match="address"):
        RemoteGenerator("m", api_key=KEY, base_url=url)


# What a call costs.


def test_usage_is_counted_by_call_and_by_thread(make, server):
    model = make()
    assert model.last_usage == Usage()
    model.generate(ask("a", "b"))
    assert model.last_usage == Usage(14, 6, 2)
    other = []
    thread = threading.Thread(
        target=lambda: other.extend([model.last_usage, model.generate(ask("c")), model.last_usage])
    )
    thread.start()
    thread.join()
    assert other[0::2] == [Usage(), Usage(7, 3, 1)]
    assert model.last_usage == Usage(14, 6, 2)
    assert model.total_usage == Usage(21, 9, 3)


def test_usage_that_is_not_told(make, server):
    server.reply = lambda body: completion("yes", usage=None)
    model = make()
    model.generate(ask("a"))
    assert model.last_usage == Usage(0, 0, 1, 1)
    server.reply = lambda body: completion('{"name": "Rex"}', usage=None)
    assert write_json(model, ask("x"), Dog)[0].tokens is None


def test_usage_of_a_call_that_failed(make, server):
    server.reply = lambda body: (
        failure(500) if body["messages"][0]["content"] == "bad" else completion("yes")
    )
    model = make(concurrency=1)
    with pytest.raises(RemoteError):
        model.generate(ask("a", "bad"))
    assert model.last_usage == Usage(7, 3, 1)


# Refusals that are found a way around.


def test_json_is_asked_for_by_its_schema(make, server):
    server.reply = lambda body: completion('{"name": "Rex"}')
    assert make().generate_json(ask("x"), SCHEMA, seed=3) == ['{"name": "Rex"}']
    [body] = server.seen
    form = {"name": "answer", "strict": True, "schema": SCHEMA}
    assert body["response_format"] == {"type": "json_schema", "json_schema": form}
    assert (body["max_tokens"], body["seed"], body["temperature"]) == (200, 3, 0.0)


def test_a_schema_that_is_refused_is_made_plainer_then_told_in_words(make, server):
    def reply(body):
        if "response_format" in body:
            return failure(400, "Invalid schema", param="response_format")
        return completion('{"name": "Rex"}')

    server.reply = reply
    model = make()
    assert model.generate_json(ask("x"), SCHEMA) == ['{"name": "Rex"}']
    whole, plain, words = server.seen
    assert "maxLength" in json.dumps(whole)
    assert plain["response_format"]["json_schema"]["schema"]["properties"] == {
        "name": {"type": "string"}
    }
    assert "response_format" not in words
    assert '"maxLength":9' in words["messages"][0]["content"]
    model.generate_json(ask("y"), SCHEMA)
    assert len(server.seen) == 4  # remembered
    model.generate(ask("z"))
    assert server.seen[-1]["messages"][0]["content"] == "z"


def test_a_refusal_for_another_reason_is_not_remembered(make, server):
    server.reply = lambda body: failure(400, "this prompt is too long")
    model = make()
    with pytest.raises(RemoteRefusedError, match="too long"):
        model.generate_json(ask("x"), SCHEMA)
    server.reply = lambda body: completion('{"name": "Rex"}')
    model.generate_json(ask("x"), SCHEMA)
    assert "maxLength" in json.dumps(server.seen[-1]["response_format"])


def test_parameters_that_are_refused_are_left_out(make, server):
    def reply(body):
        if "max_tokens" in body:
            return failure(400, "Use 'max_completion_tokens' instead.", param="max_tokens")
        for name in ("temperature", "seed"):
            if name in body:
                return failure(422, f"Unknown field: {name}")
        return completion("yes")

    server.reply = reply
    model = make()
    assert model.generate(ask("x"), max_new_tokens=5) == [["yes"]]
    last = server.seen[-1]
    assert last["max_completion_tokens"] == 5
    assert not {"max_tokens", "temperature", "seed"} & set(last)
    model.generate(ask("x"))
    assert len(server.seen) == 5


# Failures.


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (failure(401, f"Incorrect key: {KEY}"), RemoteKeyError, "refuses the API key"),
        (failure(403, f"Bearer {KEY}"), RemoteKeyError, "403"),
        (failure(404, f"no such model {KEY}"), ModelNotFoundError, "'tiny'"),
        (failure(429, f"slow down {KEY}"), RemoteBusyError, "slow down"),
        (failure(500, f"crashed {KEY}\n\x1b[31m"), RemoteError, "status 500"),
        (failure(400, f"bad {KEY} sk-other-1234"), RemoteRefusedError, "status 400"),
        ((200, b"<html>"), RemoteError, "no chat completion"),
        ((200, b'"words"'), RemoteError, "no chat completion"),
        ((200, {"choices": []}), RemoteError, "no chat completion"),
        ((200, {"choices": None}), RemoteError, "no chat completion"),
        ((200, {"choices": {"a": 1}}), RemoteError, "no chat completion"),
        ((200, [1]), RemoteError, "no chat completion"),
        ((418, b"tea" * 100_000), RemoteRefusedError, "418"),
    ],
)
def test_failures_are_explained_and_never_show_the_key(make, server, answer, kind, words):
    server.reply = lambda body: answer
    model = make()
    with pytest.raises(kind, match=words) as caught:
        model.generate(ask("x"))
    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value) + repr(model)
    assert "secret" not in shown
    assert "sk-" not in shown
    assert caught.value.__context__ is None
    assert caught.value.hint
    for option, variable in (("base_url=", "OPENAI_BASE_URL"), ("api_key=", "OPENAI_API_KEY")):
        # Who types commands cannot give Python's options.
        assert option not in caught.value.hint or variable in caught.value.hint
    assert len(str(caught.value)) < 600
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("choice", [{}, {"message": None}, {"message": {"content": 5}}])
def test_choices_without_words(make, server, choice):
    server.reply = lambda body: (200, {"choices": [choice], "usage": {"prompt_tokens": "x"}})
    model = make()
    assert model.generate(ask("x")) == [[""]]
    assert model.last_usage == Usage(requests=1, uncounted=1)


def test_a_busy_server_is_asked_again(make, server):
    answers = [failure(429), failure(503), completion("yes")]
    server.reply = lambda body: answers.pop(0)
    assert make(max_retries=2).generate(ask("x")) == [["yes"]]
    server.reply = lambda body: failure(429, "still busy")
    with pytest.raises(RemoteBusyError, match="still busy"):
        make(max_retries=1).generate(ask("x"))
    assert len(server.seen) == 5


def test_a_silent_server(make, server):
    released = threading.Event()
    server.reply = lambda body: (released.wait(20), completion("late"))[1]
    try:
        with pytest.raises(RemoteTimeoutError, match="in time"):
            make(timeout=0.05).generate(ask("x"))
    finally:
        released.set()


def test_all_tries_together_take_no_longer_than_is_allowed(make, server):
    released = threading.Event()
    server.reply = lambda body: (released.wait(20), completion("late"))[1]
    try:
        with pytest.raises(RemoteTimeoutError, match=r"within 0\.3 seconds") as caught:
            make(timeout=10, max_retries=5, patience=0.3).generate(ask("x"))
    finally:
        released.set()
    assert "GENMM_WRITER_TIMEOUT" in caught.value.hint
    assert len(server.seen) == 1


def test_a_server_that_drips_is_cut_off(make):
    """Each byte comes in time, and the whole never does."""
    cut_off = threading.Event()

    def drip(listening):
        connection, _ = listening.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 999999\r\n\r\n")
            try:
                while not cut_off.wait(0.02):
                    connection.sendall(b" ")
            except OSError:
                cut_off.set()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=drip, args=(listening,), daemon=True).start()
        model = make(
            base_url=f"http://127.0.0.1:{listening.getsockname()[1]}/v1", timeout=5, patience=0.3
        )
        with pytest.raises(RemoteTimeoutError, match="within"):
            model.generate(ask("x"))
        # The connection is closed, not left to drip on.
        assert cut_off.wait(20)


def test_after_a_while_it_says_whom_it_waits_for(make, server, monkeypatch):
    monkeypatch.setattr(remote_waiting, "_FIRST_WORD", 0.02)
    said = threading.Event()
    server.reply = lambda body: (said.wait(20), completion("yes"))[1]
    monkeypatch.setattr(remote_waiting.log, "info", lambda *words: (said.set(), told(words)))
    spoken = []
    told = spoken.append
    assert make().generate(ask("x")) == [["yes"]]
    assert spoken[0][1] == f"tiny at {server.url}"


def test_the_environment_says_how_long_is_waited(make, server, monkeypatch):
    assert make().patience == 120
    monkeypatch.setenv("GENMM_WRITER_TIMEOUT", " 7.5 ")
    assert make().patience == 7.5
    assert make(patience=3).patience == 3
    for wrong in ("soon", "0", "-1", "inf", "nan"):
        monkeypatch.setenv("GENMM_WRITER_TIMEOUT", wrong)
        with pytest.raises(InputError, match="GENMM_WRITER_TIMEOUT"):
            make()


def test_a_server_that_is_not_there(make):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://user:secret@127.0.0.1:{taken.getsockname()[1]}/v1"
        model = make(base_url=url)
        with pytest.raises(RemoteUnreachableError, match="cannot be reached") as caught:
            model.generate(ask("x"))
    assert "secret" not in str(caught.value) + repr(model)


@pytest.mark.parametrize("key", [None, "", "  "])
def test_without_a_key(key):
    with pytest.raises(RemoteKeyError, match="OPENAI_API_KEY"):
        RemoteGenerator("m", api_key=key)


def test_keys_that_are_none():
    with pytest.raises(RemoteKeyError) as caught:
        RemoteGenerator("m", api_key="sk-sécret\nx")
    assert "cret" not in str(caught.value)


def test_without_the_package(monkeypatch):
    from genmm_retriever.models import remote

    monkeypatch.setattr(remote.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"genmm-retriever\[remote\]"):
        RemoteGenerator("m", api_key=KEY)


# By name, and with write_json.


def test_by_its_name(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    model = load_generator("openai:org/some:model")
    assert model.generate(ask("x")) == [["yes"]]
    assert server.seen[0]["model"] == "org/some:model"
    assert repr(model) == f"RemoteGenerator('org/some:model', base_url={server.url!r})"
    model.close()
    with pytest.raises(InputError, match="needs a name"):
        load_generator("openai:")


def test_a_local_model_is_a_generator_too(build, tmp_path):
    folder = tmp_path / "llama"
    build("llama").model.save_pretrained(folder)
    build("llama").processor.save_pretrained(folder)
    assert load_generator(folder, "cpu").name == str(folder)


@pytest.mark.parametrize("load", [load_model, scoring_model])
def test_a_remote_model_gives_no_log_probabilities(load):
    with pytest.raises(CapabilityError, match=r"log-probabilities.*local model"):
        load("openai:x")


def test_json_with_its_cost(make, server):
    server.reply = lambda body: completion('{"name": "Rex"}')
    found = write_json(make(), ask("a", "b"), Dog)
    assert [(w.value.name, w.tokens, w.attempts) for w in found] == [("Rex", 3, 1)] * 2


def test_a_server_that_ignores_schemas_is_told_in_words(make, server):
    def reply(body):
        told = "JSON schema" in body["messages"][0]["content"]
        return completion('Sure:\n```json\n{"name": "Rex"}\n```' if told else "Rex, of course")

    server.reply = reply
    [written] = write_json(make(), ask("x"), Dog)
    assert (written.value, written.attempts, written.tokens) == (Dog(name="Rex"), 2, 6)


def test_failures_of_one_query_leave_the_others(make, server):
    server.reply = lambda body: (
        failure(500) if body["messages"][0]["content"] == "bad" else completion('{"name": "R"}')
    )
    found = write_json(make(), ask("a", "bad", "b"), Dog)
    assert [w.value is None for w in found] == [False, True, False]
    assert "status 500" in found[1].problem
    server.reply = lambda body: failure(401)
    server.seen.clear()
    found = write_json(make(concurrency=1), ask("a", "b"), Dog)
    assert all("API key" in w.problem for w in found)
    assert len(server.seen) == 1


# Models that think before they answer.


def cut_short(text=""):
    """What a server answers whose model used up its tokens."""
    status, body = completion(text)
    body["choices"][0]["finish_reason"] = "length"
    return status, body


def test_a_form_may_take_the_tokens_that_thoughts_need(make, server, monkeypatch):
    server.reply = lambda body: completion('{"name": "Rex"}')
    write_json(make(), ask("x"), Dog)
    assert server.seen[-1]["max_tokens"] == 2048
    write_json(make(answer_tokens=300), ask("x"), Dog)
    assert server.seen[-1]["max_tokens"] == 300
    monkeypatch.setenv("GENMM_WRITER_TOKENS", "9000")
    write_json(make(), ask("x"), Dog)
    assert server.seen[-1]["max_tokens"] == 9000
    for wrong in ("many", "0", "-1", "1.5"):
        monkeypatch.setenv("GENMM_WRITER_TOKENS", wrong)
        with pytest.raises(InputError, match="GENMM_WRITER_TOKENS"):
            make()


def test_an_answer_that_was_all_thoughts_says_so_and_is_not_asked_for_again(make, server):
    server.reply = lambda body: cut_short()
    model = make()
    [written] = write_json(model, ask("x"), Dog)
    assert "used up the 2048 tokens" in written.problem
    assert "GENMM_WRITER_TOKENS" in written.problem
    assert len(server.seen) == 1
    assert written.tokens == 3
    server.reply = lambda body: cut_short('{"name": "Re')
    [written] = write_json(model, ask("x"), Dog)
    assert "before it had ended" in written.problem
    server.reply = lambda body: cut_short()
    with pytest.raises(RemoteError, match="used up the 5 tokens"):
        model.generate(ask("x"), max_new_tokens=5)
    server.reply = lambda body: cut_short("a dog ru")
    assert model.generate(ask("x"), max_new_tokens=5) == [["a dog ru"]]


@pytest.mark.parametrize(
    "refusal",
    [
        failure(400, "This model's maximum context length is 1024 tokens."),
        failure(400, "'max_tokens' is too large: 2048."),
        failure(400, "max_completion_tokens: 2048 > 1024", param="max_completion_tokens"),
    ],
)
def test_a_server_without_that_much_room_is_asked_for_less(make, server, refusal):
    server.reply = lambda body: (
        refusal
        if max(body.get(name, 0) for name in ("max_tokens", "max_completion_tokens")) > 1000
        else completion('{"name": "Rex"}')
    )
    model = make()
    [written] = write_json(model, ask("x"), Dog)
    assert written.value == Dog(name="Rex")
    asked = len(server.seen)
    write_json(model, ask("x"), Dog)
    assert len(server.seen) == asked + 1  # remembered


def test_a_word_that_is_no_key_is_not_hidden(make, server):
    server.reply = lambda body: failure(500, "expected x at position 3")
    with pytest.raises(RemoteError, match="expected x at"):
        make(api_key="x").generate(ask("y"))


def test_a_connection_that_breaks_off_is_told_as_that(make, server):
    server.missing = 10
    with pytest.raises(RemoteUnreachableError, match="broke off"):
        make().generate(ask("x"))


@pytest.mark.parametrize("form", [None, SCHEMA])
def test_a_model_that_declines_is_told_as_that(make, server, form):
    def declining(body, **message):
        status, answer = completion(None)
        answer["choices"][0]["finish_reason"] = "stop" if message else "content_filter"
        answer["choices"][0]["message"].update(message)
        return status, answer

    model = make()

    def asked():
        return model.generate(ask("x")) if form is None else model.generate_json(ask("x"), form)

    server.reply = declining
    with pytest.raises(RemoteRefusedError, match=r"declines to answer this \("):
        asked()
    server.reply = lambda body: declining(body, refusal=f"I will not, {KEY}")
    with pytest.raises(RemoteRefusedError, match=r"answer this: I will not, \*\*\*"):
        asked()
    assert len(server.seen) == 2
