"""In an event loop: local models compute in the searcher's thread, remote ones are waited for."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest

from genmm_retriever.querying import (
    Answerer,
    QueryExpander,
    QueryRewriter,
    ReasoningRetriever,
    adapted,
)
from genmm_retriever.querying.searching import AdaptedRetriever

WORDY = "please find me a picture that I saw a while ago of a dog in the snow thanks"
SAID = {
    "What was found": {"wrong_because": "", "context": "", "ok": True},
    "Reason briefly": {"context": "a dog that plays"},
    "What does": {"found": True, "answer": "A frisbee.", "sources": [1]},
    "": {"constraints": "dog, snow", "queries": ["a puppy"]},
}
HITS = {"": [("a", 0.3), ("b", 0.2)]}


@pytest.mark.parametrize("names", [["rewrite"], ["expand"], ["reason"], ["rewrite", "reason"]])
async def test_a_local_model_computes_where_the_searcher_does(local_writer, searcher, names):
    model = local_writer(SAID)
    found = searcher(HITS, model=model)
    hits = await adapted(found, names).aretrieve(WORDY, k=2)
    assert model.threads == {"computing"}
    assert [one.item.id for one in hits] == ["a", "b"]
    assert {step.adapter for step in hits[0].evidence.steps} == set(names)


@pytest.mark.parametrize("names", [["rewrite"], ["expand"], ["reason"], ["rewrite", "expand"]])
async def test_it_finds_what_is_found_without_a_loop(local_writer, searcher, names):
    found = searcher({"puppy": [("b", 0.9), ("c", 0.1)], "plays": [("c", 0.9)], **HITS})
    asked = adapted(found, names, local_writer(SAID))
    awaited = await asked.aretrieve(WORDY, k=3)
    called = asked.retrieve(WORDY, k=3)
    assert [one.item.id for one in awaited] == [one.item.id for one in called]
    assert [one.score for one in awaited] == [one.score for one in called]


async def test_the_searchers_model_is_not_looked_up_in_the_loop(searcher, local_writer):
    class Locked(searcher):
        @property
        def model(self):
            import threading

            assert threading.current_thread() is not threading.main_thread()
            return self.own

        @model.setter
        def model(self, own):
            self.own = own

    found = Locked(HITS, model=local_writer(SAID))
    await ReasoningRetriever(found).aretrieve("my dog")
    answer = await Answerer(found).aask("What does it catch?")
    assert answer.found


@pytest.mark.parametrize("what", ["rewrite", "expand", "reason", "answer"])
async def test_while_a_remote_model_thinks_the_others_go_on(
    remote_writer, local_writer, searcher, what
):
    model = remote_writer(SAID)
    found = searcher(HITS, model=local_writer(SAID))
    if what == "answer":
        waiting = asyncio.ensure_future(Answerer(found, model).aask("What does it catch?"))
    else:
        waiting = asyncio.ensure_future(adapted(found, [what], model).aretrieve(WORDY))
    while not model.begun.is_set():
        await asyncio.sleep(0.005)
    # Neither the computing thread nor the lock is held, nor a thread of the loop's own.
    assert await asyncio.wait_for(found.acompute(lambda: found.held.acquire(timeout=5)), 10)
    assert await asyncio.wait_for(asyncio.to_thread(lambda: 7), 10) == 7
    assert not waiting.done()
    model.free.set()
    assert await waiting
    assert model.threads == {"genmm-writers"}
    assert found.model.threads == set()


async def test_what_is_given_up_before_its_turn_is_not_done(local_writer, searcher):
    model = local_writer(SAID)
    found = searcher(HITS, model=model)
    busy = asyncio.ensure_future(found.acompute(lambda: time.sleep(0.2)))
    await asyncio.sleep(0.05)
    given_up = asyncio.ensure_future(adapted(found, ["rewrite"]).aretrieve(WORDY))
    await asyncio.sleep(0.05)
    given_up.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await given_up
    await busy
    await found.acompute(lambda: None)
    assert model.prompts == []


async def test_an_adapter_with_nothing_to_do_does_not_wait(local_writer, searcher):
    class Busy(searcher):
        async def acompute(self, work):
            raise AssertionError("asked to compute")

    found = Busy(HITS)
    asked = AdaptedRetriever(found, [QueryRewriter(local_writer(SAID))])
    assert await asked.aretrieve("a dog")
    with pytest.raises(AssertionError, match="asked to compute"):
        await AdaptedRetriever(found, expander=QueryExpander(local_writer(SAID))).aretrieve("a")
