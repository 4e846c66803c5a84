"""A small retriever over words, with the interface of the core class, for the adapters' tests.

It is a complete retriever of its own (word overlap instead of a language model), so that what
the adapters make of hits can be tested in milliseconds and without weights. The same tests of
behaviour run on the real model in the packages' integration tests.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from genmm_retriever.candidates import read_candidates
from genmm_retriever.coalescing import Coalescer
from genmm_retriever.errors import QueryError
from genmm_retriever.schema import Evidence, GeneratedIdentifier, Hit, Item, Query

PICTURES = {
    "coffee.png": ("a cup of coffee with a spoon on a table", (96, 48, 16)),
    "cat.jpg": ("a cat with green eyes looks up", (160, 120, 90)),
    "motorcycle.png": ("a red motorcycle in a garage", (200, 20, 20)),
    "camera.webp": ("a man with a camera on a tripod", (90, 90, 90)),
    "rocket.jpg": ("a rocket on its pad at night", (20, 20, 60)),
}
TEXTS = {
    "note-1": "Coffee is brewed from roasted beans.",
    "note-2": "A motorcycle has two wheels and an engine.",
}


def words(text: str) -> set[str]:
    """Lower-case words of at least three letters."""
    return set(re.findall(r"[a-z]{3,}", text.lower()))


def draw_pictures(folder: Path) -> list[Item]:
    """Write one small picture for each caption and return the items, texts included."""
    items = []
    for number, (name, (caption, colour)) in enumerate(PICTURES.items()):
        Image.new("RGB", (24, 24), colour).save(folder / name)
        items.append(
            Item(
                id=name,
                image=str(folder / name),
                text=caption,
                metadata={"year": 2010 + number % 2, "tags": ["drawn", name.split(".")[1]]},
            )
        )
    items += [Item(id=key, text=text, metadata={"year": 2010}) for key, text in TEXTS.items()]
    return items


_TICK = 0.002


class KeywordCore:
    """Finds items by the words that they share with the query.

    Args:
        items: What to search.
        path: Where the index would lie on disk; the adapters' `persist` copies it.
        delay: Seconds that every query takes, to show whether callers block.
    """

    def __init__(
        self, items: Sequence[Item], *, path: Path | None = None, delay: float = 0.0
    ) -> None:
        self.items = list(items)
        self.path = path
        self.delay = delay
        self.threads: set[int] = set()
        self.running = 0
        self.most_at_once = 0
        self.queries: list[Query] = []
        self.verify_asked: list[str | None] = []
        self.closed = False

    def retrieve(
        self,
        query: str | Query,
        *,
        k: int | None = None,
        image: str | bytes | None = None,
        filters: dict[str, Any] | None = None,
        kind: Any = None,
        verify: Any = None,
    ) -> list[Hit]:
        """The k items that share most words with the query, all k whenever there are k."""
        if isinstance(query, str):
            query = Query(text=query or None, image=image, filters=filters or {}, kind=kind)
        self.threads.add(threading.get_ident())
        self.queries.append(query)
        self.verify_asked.append(verify)
        self.running += 1
        self.most_at_once = max(self.most_at_once, self.running)
        time.sleep(self.delay)
        self.running -= 1
        wanted = words(query.text or "") | self._words_of_picture(query.image)
        pool = [item for item in self.items if self._admits(query, item)]
        shared = {item.id: wanted & self._words_of(item) for item in pool}
        pool.sort(key=lambda item: -len(shared[item.id]))
        return [
            self._hit(item, rank, shared[item.id], len(wanted), verify)
            for rank, item in enumerate(pool[: k or 10], start=1)
        ]

    def retrieve_batch(
        self, queries: Sequence[str | Query], *, k: int | None = None, verify: Any = None
    ) -> list[list[Hit]]:
        """As `retrieve` for each query."""
        return [self.retrieve(query, k=k, verify=verify) for query in queries]

    async def aretrieve(self, query: str | Query, **options: Any) -> list[Hit]:
        """As `retrieve`, in a worker thread."""
        return await asyncio.to_thread(self.retrieve, query, **options)

    def close(self) -> None:
        """Remember that it was closed."""
        self.closed = True

    def _words_of(self, item: Item) -> set[str]:
        return words(f"{item.text or ''} {item.title or ''} {item.id}")

    def _words_of_picture(self, image: str | bytes | None) -> set[str]:
        """What is known of a query picture: the words of the item with the same bytes."""
        if image is None:
            return set()
        if isinstance(image, str) and not Path(image).is_file():
            raise QueryError(f"no such picture: {image}", "give the path of an image file")
        data = Path(image).read_bytes() if isinstance(image, str) else image
        for item in self.items:
            if isinstance(item.image, bytes) and item.image == data:
                return self._words_of(item)
            if isinstance(item.image, str) and Path(item.image).read_bytes() == data:
                return self._words_of(item)
        return set()

    @staticmethod
    def _admits(query: Query, item: Item) -> bool:
        def values(value: Any) -> set[Any]:
            return set(value) if isinstance(value, list) else {value}

        return query.kind in (None, item.kind) and all(
            key in item.metadata and values(item.metadata[key]) & values(wanted)
            for key, wanted in query.filters.items()
        )

    @staticmethod
    def _hit(item: Item, rank: int, shared: set[str], wanted: int, verify: Any) -> Hit:
        score = len(shared) / max(wanted, 1)
        written = GeneratedIdentifier(text=", ".join(sorted(shared)), logprob=-1.0, score=score)
        return Hit(
            item=item,
            score=score,
            rank=rank,
            evidence=Evidence(
                identifiers=(written,) if shared else (),
                verification=None if verify == "off" else score,
                filled=not shared,
                caption=item.text,
            ),
        )


class BatchingCore(KeywordCore):
    """Asked at once, it answers together, as the core class does: a batch takes one delay."""

    def __init__(self, items: Sequence[Item], *, delay: float = 0.0) -> None:
        super().__init__(items)
        self.batch_delay = delay
        self.batches: list[int] = []
        self._coalescer = Coalescer(self)

    def retrieve_batch(
        self, queries: Sequence[str | Query], *, k: int | None = None, verify: Any = None
    ) -> list[list[Hit]]:
        """One delay for all of them."""
        self.batches.append(len(queries))
        time.sleep(self.batch_delay)
        return super().retrieve_batch(queries, k=k, verify=verify)

    async def aretrieve(self, query: str | Query, **options: Any) -> list[Hit]:
        """As `retrieve`; those that wait are answered together."""
        return await self._coalescer.submit(query, options.get("k"), options.get("verify"))


class Words:
    """A reranker by shared words, with the interface of the core's, for milliseconds.

    Attributes:
        asked: What came in: the query and the candidates, by call.
    """

    verify = "likelihood"

    def __init__(self) -> None:
        self.asked: list[tuple[Query, list[Item]]] = []
        self.threads: set[int] = set()

    def rerank(
        self,
        query: str | Query,
        candidates: Iterable[Any],
        *,
        k: int | None = None,
        image: str | bytes | None = None,
    ) -> list[Hit]:
        """Candidates by the words that they share with the query."""
        whole = query if isinstance(query, Query) else Query(text=query, image=image)
        given = read_candidates(candidates)
        self.asked.append((whole, [one.item for one in given]))
        self.threads.add(threading.get_ident())
        wanted = words(whole.text or "")
        scored = [
            (len(wanted & words(one.item.text or "")) / max(1, len(wanted)), one) for one in given
        ]
        scored.sort(key=lambda pair: -pair[0])
        return [
            Hit(item=one.item, score=score, rank=rank, evidence=Evidence(verification=score))
            for rank, (score, one) in enumerate(scored[:k], start=1)
        ]

    async def arerank(
        self, query: str | Query, candidates: Iterable[Any], **options: Any
    ) -> list[Hit]:
        """As `rerank`, in a worker thread."""
        return await asyncio.to_thread(self.rerank, query, list(candidates), **options)


class LoopWatch:
    """Measures the longest time that the event loop stood still while other threads ran.

    What stops the whole process, such as a machine with other work, stops a thread that only
    sleeps too, and is not counted.
    """

    def __init__(self) -> None:
        self._loop: list[tuple[float, float]] = []
        self._process: list[tuple[float, float]] = []
        self._done = threading.Event()

    @property
    def longest(self) -> float:
        """In seconds; to be asked at the end."""
        own = (
            end - begin - sum(max(0.0, min(end, e) - max(begin, b)) for b, e in self._process)
            for begin, end in self._loop
        )
        return max(own, default=0.0)

    async def __aenter__(self) -> LoopWatch:
        """Begin."""
        self._task = asyncio.ensure_future(self._watch())
        self._thread = threading.Thread(target=self._sleep, daemon=True)
        self._thread.start()
        await asyncio.sleep(0)
        return self

    async def __aexit__(self, *_: object) -> None:
        """End."""
        self._task.cancel()
        self._done.set()
        await asyncio.to_thread(self._thread.join)

    def _sleep(self) -> None:
        while not self._done.is_set():
            due = time.monotonic() + _TICK
            time.sleep(_TICK)
            self._process.append((due, time.monotonic()))

    async def _watch(self) -> None:
        while True:
            due = time.monotonic() + _TICK
            await asyncio.sleep(_TICK)
            self._loop.append((due, time.monotonic()))


class ScriptedWriter:
    """A model that only writes: what it is told to, by the first key that a prompt contains.

    Args:
        answers: Texts, or values that are written as JSON, by what a prompt contains.
        delay: Seconds that every call takes.
        style: How it is asked; `"builtin"` for a model that cannot answer questions.

    Attributes:
        calls: Number of prompts, by call.
        prompts: Words of all prompts.
        pictures: Number of pictures in each prompt.
    """

    name = "scripted"
    supports_images = True

    def __init__(
        self, answers: dict[str, Any], *, delay: float = 0.0, style: str = "instruct"
    ) -> None:
        self.answers = answers
        self.delay = delay
        self.prompt_style = style
        self.calls: list[int] = []
        self.prompts: list[str] = []
        self.pictures: list[int] = []
        self.threads: set[int] = set()

    def generate(
        self, prompts: Sequence[Any], *, num_return_sequences: int = 1, **_: Any
    ) -> list[list[str]]:
        """As many equal texts for each prompt; empty ones where no key fits."""
        time.sleep(self.delay)
        self.threads.add(threading.get_ident())
        self.calls.append(len(prompts))
        texts = ["".join(getattr(part, "text", "") for part in one.parts) for one in prompts]
        self.prompts += texts
        self.pictures += [sum(not hasattr(part, "text") for part in one.parts) for one in prompts]
        return [[self._answer(text)] * num_return_sequences for text in texts]

    def _answer(self, text: str) -> str:
        found = next((value for key, value in self.answers.items() if key in text), "")
        return found if isinstance(found, str) else json.dumps(found)


class SearcherCore(KeywordCore):
    """A keyword retriever with a model, so that query adapters may stand in front of it."""

    def __init__(
        self,
        items: Sequence[Item],
        model: Any = None,
        *,
        path: Path | None = None,
        delay: float = 0.0,
    ) -> None:
        super().__init__(items, path=path, delay=delay)
        self.model = model
        self.k = 3
        self.last_timings: dict[str, float] = {}
        self.last_candidates: list[list[str]] = []
        self.lock = threading.RLock()
        self.held = 0

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Hold the model, and count how often that was done."""
        with self.lock:
            self.held += 1
            yield

    async def acompute(self, work: Callable[[], Any]) -> Any:
        """Do work in a thread, with the model held."""

        def held() -> Any:
            with self.computing():
                return work()

        return await asyncio.to_thread(held)

    def retrieve_batch(
        self, queries: Sequence[str | Query], *, k: int | None = None, verify: Any = None
    ) -> list[list[Hit]]:
        """As `retrieve` for each query, whose steps come back in the evidence."""
        found = [
            [_with_steps(hit, query) for hit in self.retrieve(query, k=k or self.k, verify=verify)]
            for query in queries
        ]
        self.last_timings = {"decode": 0.0}
        self.last_candidates = [[hit.item.id for hit in hits] for hits in found]
        return found

    async def aretrieve(self, query: str | Query, **options: Any) -> list[Hit]:
        """As `retrieve_batch` of one, in a worker thread."""
        return (await asyncio.to_thread(self.retrieve_batch, [query], **options))[0]


def _with_steps(hit: Hit, query: str | Query) -> Hit:
    if isinstance(query, str):
        return hit
    told = {"steps": query.steps, "rewritings": query.rewritings}
    return hit.model_copy(update={"evidence": hit.evidence.model_copy(update=told)})
