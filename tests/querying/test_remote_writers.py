"""A remote engine reasons and answers beside a local retriever, over real HTTP."""

from __future__ import annotations

import json

import pytest

from genmm_retriever.errors import RemoteError, RemoteKeyError, RemoteRefusedError, WriterError
from genmm_retriever.models.remote import RemoteGenerator
from genmm_retriever.querying import Answerer, QueryRewriter, ReasoningRetriever
from genmm_retriever.schema import Query

from ..models.test_remote import KEY, Server, completion, failure

pytest.importorskip("openai")

REASONED = {"intent": "", "entities": [], "must_have": [], "avoid": [], "context": "a sled dog"}
MENDED = {"ok": False, "wrong_because": "no sled", "context": "a dog pulls a sled"}
WORDY = "please find me a picture that I saw a while ago of a dog in the snow thanks"


@pytest.fixture
def server():
    made = Server()
    yield made
    made.close()


@pytest.fixture
def writer(server):
    made = RemoteGenerator("m", base_url=server.url, api_key=KEY, max_retries=0)
    yield made
    made.close()


def replying(**answers):
    """Answers by the first word of a key that the request's text contains."""

    def reply(body):
        text = json.dumps(body["messages"])
        for key, answer in answers.items():
            if key in text:
                return completion(json.dumps(answer), usage=(50, 12))
        return completion("{}")

    return reply


def test_it_reasons_for_a_local_retriever_and_its_tokens_are_told(
    server, writer, searcher, picture
):
    server.reply = replying(found=MENDED, briefly=REASONED)
    found = searcher({"pulls": [("b", 0.4), ("a", 0.3)], "sled": [("a", 0.3), ("b", 0.2)]})
    query = Query(text="my dog", image=picture)
    hits = ReasoningRetriever(found, writer, rounds=2).retrieve(query, k=2)
    assert [asked.context for [asked] in found.asked] == ["a sled dog", "a dog pulls a sled"]
    assert [step.tokens for step in hits[0].evidence.steps] == [12, 12]
    assert "data:image/jpeg;base64," in json.dumps(server.seen[0])


def test_a_search_goes_on_without_a_busy_server(server, writer, searcher):
    server.reply = lambda body: failure(503)
    query = QueryRewriter(writer).adapt(WORDY)
    assert query.text == WORDY
    assert query.steps[0].note
    found = searcher({"": [("a", 0.3), ("b", 0.2)]})
    hits = ReasoningRetriever(found, writer, rounds=2).retrieve("my dog", k=2)
    assert [hit.item.id for hit in hits] == ["a", "b"]


def test_a_prompt_that_a_server_refuses_stops_that_prompt_alone(server, writer, searcher):
    server.reply = lambda body: failure(400, "the content filter was triggered")
    query = QueryRewriter(writer).adapt(WORDY)
    assert query.text == WORDY
    assert "content filter" in query.steps[0].note
    with pytest.raises(RemoteRefusedError, match="content filter"):
        Answerer(searcher({"": [("a", 0.3)]}), writer).ask("what is it?")


@pytest.mark.parametrize("sources", [[2, -1, 0, 4000], ["2", "x"], [2, None, 2.5, True, "9" * 999]])
def test_numbers_that_are_of_no_source_are_passed_over(server, writer, searcher, sources):
    server.reply = replying(numbers={"found": True, "answer": "A sled.", "sources": sources})
    answer = Answerer(searcher({"": [("a", 0.3), ("b", 0.2)]}), writer).ask("what is pulled?")
    assert (answer.text, [hit.item.id for hit in answer.sources]) == ("A sled.", ["b"])
    assert len(server.seen) == 1


def test_an_answer_does_not_and_a_wrong_key_stops_everything(server, writer, searcher):
    found = searcher({"": [("a", 0.3), ("b", 0.2)]})
    server.reply = lambda body: failure(503)
    with pytest.raises(RemoteError):
        Answerer(found, writer).ask("what is it?")
    server.reply = lambda body: completion("It is a dog.")
    with pytest.raises(WriterError, match="no JSON"):
        Answerer(found, writer).ask("what is it?")
    server.reply = lambda body: failure(401)
    with pytest.raises(RemoteKeyError):
        QueryRewriter(writer).adapt(WORDY)


def test_an_answer_comes_with_its_sources(server, writer, searcher):
    server.reply = replying(numbers={"found": True, "answer": "A sled.", "sources": [2]})
    answer = Answerer(searcher({"": [("a", 0.3), ("b", 0.2)]}), writer).ask("what is pulled?")
    assert (answer.text, [hit.item.id for hit in answer.sources]) == ("A sled.", ["b"])
    assert answer.tokens == 12


def test_a_server_that_fails_is_not_waited_for_in_every_round(server, writer, searcher):
    server.reply = lambda body: failure(500)
    found = searcher({"": [("a", 0.3), ("b", 0.2)]})
    hits = ReasoningRetriever(found, writer, rounds=3).retrieve("a dog", k=2)
    assert [one.item.id for one in hits] == ["a", "b"]
    assert len(server.seen) == 1
    assert len(found.asked) == 1
    [step] = hits[0].evidence.steps
    assert "status 500" in step.note
