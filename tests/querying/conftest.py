"""Scripted writers and searchers: what adapters do is told apart from what models say."""

from __future__ import annotations

import asyncio
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from genmm_retriever.models.base import TextPart
from genmm_retriever.schema import Evidence, Hit, Item


def words_of(prompt):
    return "".join(part.text for part in prompt.parts if isinstance(part, TextPart))


class ScriptedWriter:
    """Answers by the first key that a prompt contains; an object is answered as JSON."""

    name = "scripted"
    supports_images = True

    def __init__(self, answers, style="instruct"):
        self.answers = dict(answers)
        self.prompt_style = style
        self.prompts = []

    def generate(
        self, prompts, *, max_new_tokens=64, num_return_sequences=1, temperature=0.0, seed=0
    ):
        self.prompts += prompts
        return [self._answer(words_of(prompt), num_return_sequences) for prompt in prompts]

    def _answer(self, words, number):
        for key, answer in self.answers.items():
            if key in words:
                texts = answer if isinstance(answer, list) else [answer]
                texts = [t if isinstance(t, str) else json.dumps(t) for t in texts]
                return (texts * number)[:number]
        return [""] * number


def hit(name, rank, probability=None, text=None):
    return Hit(
        item=Item(id=name, text=text or f"text of {name}"),
        score=probability or 1 / rank,
        rank=rank,
        evidence=Evidence(verification=probability),
    )


class ScriptedSearcher:
    """Finds by the first key in a query's words and context; a list of (id, probability)."""

    def __init__(self, found, model=None, k=3):
        self.found, self.model, self.k = dict(found), model, k
        self.asked = []
        self.closed = False
        self.last_timings = {}
        self.last_candidates = []
        self.held = threading.RLock()
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="computing")

    def computing(self):
        return self.held

    async def acompute(self, work):
        return await asyncio.wrap_future(self.thread.submit(work))

    def retrieve(self, query, *, k=None, verify=None):
        return self.retrieve_batch([query], k=k, verify=verify)[0]

    def retrieve_batch(self, queries, *, k=None, verify=None):
        self.asked.append(list(queries))
        hits = [self._hits(query)[: k or self.k] for query in queries]
        self.last_timings = {"decode": 0.5}
        self.last_candidates = [[one.item.id for one in some] for some in hits]
        return hits

    async def aretrieve(self, query, *, k=None, verify=None):
        return self.retrieve(query, k=k, verify=verify)

    def close(self):
        self.closed = True

    def _hits(self, query):
        words = f"{query.text} {query.context or ''}"
        for key, found in self.found.items():
            if key in words:
                return [
                    hit(name, rank, probability).model_copy(
                        update={
                            "evidence": Evidence(
                                verification=probability,
                                steps=query.steps,
                                rewritings=query.rewritings,
                            )
                        }
                    )
                    for rank, (name, probability) in enumerate(found, start=1)
                ]
        return []


@pytest.fixture
def writer():
    return ScriptedWriter


class LocalWriter(ScriptedWriter):
    """One that computes in this process, and remembers in which threads."""

    def __init__(self, answers, style="instruct"):
        super().__init__(answers, style)
        self.threads = set()

    def prefill(self, prompts):
        raise AssertionError

    def generate(self, prompts, **options):
        self.threads.add(threading.current_thread().name.partition("_")[0])
        return super().generate(prompts, **options)


class RemoteWriter(ScriptedWriter):
    """One that is waited for: it answers when it is let go, and remembers in which threads."""

    def __init__(self, answers):
        super().__init__(answers)
        self.threads = set()
        self.begun, self.free = threading.Event(), threading.Event()

    def generate(self, prompts, **options):
        self.threads.add(threading.current_thread().name.partition("_")[0])
        self.begun.set()
        assert self.free.wait(30)
        return super().generate(prompts, **options)


@pytest.fixture
def local_writer():
    return LocalWriter


@pytest.fixture
def remote_writer():
    return RemoteWriter


@pytest.fixture
def searcher():
    return ScriptedSearcher


@pytest.fixture
def picture(tmp_path):
    from PIL import Image

    path = tmp_path / "picture.png"
    Image.new("RGB", (32, 32), (200, 30, 30)).save(path)
    return str(path)
