"""Queries that wait together are answered together, each by its own answer or error."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor, wait

import pytest

from genmm_retriever.coalescing import Coalescer
from genmm_retriever.errors import IndexStateError, InputError, QueryError
from genmm_retriever.schema import Hit, Item

SOON = 30


class Echo:
    """Answers each query with itself; the first batch is held until it is let go."""

    def __init__(self, *, held: bool = False) -> None:
        self.calls: list[tuple[list[str], int | None, str | None]] = []
        self.begun, self.free = threading.Event(), threading.Event()
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()
        if not held:
            self.free.set()

    def retrieve_batch(self, queries, *, k=None, verify=None):
        with self.lock:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        self.calls.append((list(queries), k, verify))
        self.begun.set()
        assert self.free.wait(SOON), "nobody let the batch go"
        with self.lock:
            self.at_once -= 1
        if "broken" in queries:
            raise QueryError("a broken query")
        return [[Hit(item=Item(id=query, text=query), score=1.0, rank=1)] for query in queries]


@pytest.fixture
def held():
    """A coalescer whose first batch, of one query, is being answered, and its retriever."""
    echo = Echo(held=True)
    coalescer = Coalescer(echo, max_batch=4, max_wait_ms=0)
    first = coalescer.enqueue("first")
    assert echo.begun.wait(SOON)
    yield coalescer, echo
    echo.free.set()
    coalescer.close()
    assert first.result()[0].item.id == "first"


def ids(*futures):
    return [future.result(SOON)[0].item.id for future in futures]


def test_what_waits_is_asked_in_one_batch_up_to_the_limit(held):
    coalescer, echo = held
    names = [f"q{n}" for n in range(6)]
    futures = [coalescer.enqueue(name) for name in names]
    assert coalescer.waiting == 6
    echo.free.set()
    assert ids(*futures) == names
    assert [call[0] for call in echo.calls] == [["first"], names[:4], names[4:]]
    assert (coalescer.batches, coalescer.answered, coalescer.waiting) == (3, 7, 0)


def test_only_queries_of_the_same_k_and_verifier_share_a_batch(held):
    coalescer, echo = held
    asked = [("a", 3, "off"), ("b", 5, "off"), ("c", 3, "off"), ("d", 3, "choice"), ("e", 5, "off")]
    futures = [coalescer.enqueue(*one) for one in asked]
    echo.free.set()
    assert ids(*futures) == ["a", "b", "c", "d", "e"]
    assert echo.calls[1:] == [
        (["a", "c"], 3, "off"),
        (["b", "e"], 5, "off"),
        (["d"], 3, "choice"),
    ]


def test_an_error_of_one_query_is_its_own(held):
    coalescer, echo = held
    futures = [coalescer.enqueue(query) for query in ("a", "broken", "b")]
    echo.free.set()
    assert ids(futures[0], futures[2]) == ["a", "b"]
    with pytest.raises(QueryError, match="a broken query"):
        futures[1].result(SOON)
    assert [call[0] for call in echo.calls[1:]] == [["a", "broken", "b"], ["a"], ["broken"], ["b"]]
    assert coalescer.enqueue("later").result(SOON)


def test_a_wrong_number_of_answers_is_an_error_not_a_mix_up():
    class Short(Echo):
        def retrieve_batch(self, queries, **options):
            return super().retrieve_batch(queries, **options)[1:]

    coalescer = Coalescer(Short())
    with pytest.raises(RuntimeError, match="0 answers to 1 queries"):
        coalescer.enqueue("a").result(SOON)
    coalescer.close()


async def test_cancelled_waiters_are_dropped(held):
    coalescer, echo = held
    tasks = [asyncio.ensure_future(coalescer.submit(name)) for name in ("a", "b", "c")]
    await asyncio.sleep(0)
    tasks[1].cancel()
    with pytest.raises(asyncio.CancelledError):
        await tasks[1]
    echo.free.set()
    assert (await tasks[0])[0].item.id == "a"
    assert (await tasks[2])[0].item.id == "c"
    assert [call[0] for call in echo.calls[1:]] == [["a", "c"]]


async def test_a_waiter_that_goes_while_its_batch_runs_harms_nobody():
    echo = Echo(held=True)
    coalescer = Coalescer(echo, max_wait_ms=50)
    gone, stays = (asyncio.ensure_future(coalescer.submit(name)) for name in ("gone", "stays"))
    while not echo.begun.is_set():
        await asyncio.sleep(0.001)
    gone.cancel()
    echo.free.set()
    assert (await stays)[0].item.id == "stays"
    with pytest.raises(asyncio.CancelledError):
        await gone
    assert echo.calls[0][0] == ["gone", "stays"]
    coalescer.close()


def test_a_lone_query_does_not_wait_for_a_full_batch():
    coalescer = Coalescer(Echo(), max_wait_ms=1)
    assert ids(coalescer.enqueue("a")) == ["a"]
    coalescer.close()


def test_several_event_loops_and_threads_at_once():
    echo = Echo()
    coalescer = Coalescer(echo, max_batch=8)

    async def ask(loop):
        names = [f"{loop}-{n}" for n in range(20)]
        found = await asyncio.gather(*(coalescer.submit(name) for name in names))
        return [hits[0].item.id for hits in found] == names

    with ThreadPoolExecutor(6) as pool:
        loops = [pool.submit(asyncio.run, ask(n)) for n in range(3)]
        threads = [pool.submit(lambda n=n: ids(coalescer.enqueue(f"t{n}"))) for n in range(20)]
        assert all(future.result(SOON) for future in loops)
        assert [future.result(SOON) for future in threads] == [[f"t{n}"] for n in range(20)]
    assert echo.most_at_once == 1
    assert coalescer.answered == 80
    assert coalescer.batches < 80
    coalescer.close()


def test_close_answers_those_that_wait_and_takes_no_more(held):
    coalescer, echo = held
    futures = [coalescer.enqueue(f"q{n}") for n in range(9)]
    closing = threading.Thread(target=coalescer.close)
    closing.start()

    def ask_on():
        while closing.is_alive():
            futures.append(coalescer.enqueue("late"))

    with pytest.raises(IndexStateError, match="no more queries"):
        ask_on()
    echo.free.set()
    closing.join(SOON)
    assert not closing.is_alive()
    assert not wait(futures, SOON).not_done
    assert all(future.exception() is None for future in futures)


@pytest.mark.parametrize(
    "options", [{"max_batch": 0}, {"max_batch": 1.5}, {"max_wait_ms": -1}, {"max_wait_ms": 1e9}]
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(InputError, match=next(iter(options))):
        Coalescer(Echo(), **options)


def test_other_work_is_done_in_the_thread_that_answers():
    threads = []

    class Noting:
        def retrieve_batch(self, queries, *, k=None, verify=None):
            threads.append(threading.current_thread())
            return [[] for _ in queries]

    coalescer = Coalescer(Noting(), max_wait_ms=0)
    assert coalescer.run(lambda: threads.append(threading.current_thread()) or 7).result() == 7
    coalescer.enqueue("a").result()
    assert len(threads) == 2
    assert threads[0] is threads[1] is not threading.main_thread()
    with pytest.raises(ZeroDivisionError):
        coalescer.run(lambda: 1 / 0).result()
    coalescer.close()
    with pytest.raises(IndexStateError):
        coalescer.run(lambda: None)
