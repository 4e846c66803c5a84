"""Work on several inputs at a time, and what ends it."""

from __future__ import annotations

import asyncio
import threading

import pytest

from genmm_retriever.models.base import Prompt, TextPart
from genmm_retriever.models.parallel import each
from genmm_retriever.models.remote_waiting import waited
from genmm_retriever.models.structured import write_json

from .test_remote import Dog


def test_answers_keep_the_order_of_their_inputs():
    later = threading.Event()

    def work(number):
        if number == 0:
            assert later.wait(20)
        later.set()
        return 10 * number

    assert each(work, range(5), 3, "test") == [0, 10, 20, 30, 40]
    assert each(work, [], 3, "test") == []


def test_one_input_is_worked_on_here_where_an_interrupt_arrives():
    threads = []
    each(lambda _: threads.append(threading.current_thread()), [1], 4, "test")
    each(lambda _: threads.append(threading.current_thread()), [1, 2], 1, "test")
    assert set(threads) == {threading.current_thread()}


def test_an_interrupt_waits_for_no_request_and_begins_none():
    ended, asked, begun = [], threading.Semaphore(0), []

    async def silent():
        asked.release()
        try:
            await asyncio.sleep(600)
        finally:
            ended.append(1)

    def work(number):
        begun.append(number)
        if number == 2:
            # The other two are being waited for.
            assert all(asked.acquire(timeout=20) for _ in range(2))
            raise KeyboardInterrupt
        return waited(silent, 600, "a silent server")

    with pytest.raises(KeyboardInterrupt):
        each(work, range(9), 3, "interrupted")
    assert sorted(begun)[:3] == [0, 1, 2]
    assert len(begun) < 9
    names = [thread.name for thread in threading.enumerate()]
    assert not any(name.startswith("interrupted") for name in names)
    # In the loop of all requests, behind what cancels them.
    waited(lambda: asyncio.sleep(0), 20, "the loop")
    assert len(ended) >= 2


def test_what_fails_ends_the_rest_too():
    def work(number):
        if number == 1:
            raise ValueError("no")
        return number

    with pytest.raises(ValueError, match="no"):
        each(work, range(4), 2, "test")


@pytest.mark.parametrize(("number", "here"), [(1, True), (3, False)])
def test_one_form_is_asked_for_in_the_callers_thread(number, here):
    class Remote:
        name, concurrency = "remote", 4

        def __init__(self):
            self.threads = set()

        def generate(self, prompts, **options):
            self.threads.add(threading.current_thread())
            return [['{"name": "Rex"}'] for _ in prompts]

    model = Remote()
    prompts = [Prompt((TextPart("x"),))] * number
    assert [one.value for one in write_json(model, prompts, Dog)] == [Dog(name="Rex")] * number
    assert (threading.current_thread() in model.threads) is here
