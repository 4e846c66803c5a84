"""The adapter over the builtin model, LangChain's own tests among them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from builtin_case import MISSING, NOTE, REASON, items, photograph
from langchain_tests.integration_tests import RetrieversIntegrationTests

from genmm_retriever.querying import Answerer, QueryRewriter, adapted
from langchain_genmm import (
    GenerativeMMRetriever,
    GenmmAnswerer,
    GenmmQueryAdapter,
    documents_to_content_blocks,
)

pytestmark = pytest.mark.skipif(bool(MISSING), reason=REASON)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("genmm") / "index"
    GenerativeMMRetriever.from_images(items(), path=path, progress=False).close()
    return path


@pytest.fixture(scope="module")
def opened(index: Path) -> Iterator[GenerativeMMRetriever]:
    retriever = GenerativeMMRetriever.from_index(index, k=3)
    yield retriever
    retriever.close()


class TestStandard(RetrieversIntegrationTests):
    """Unmodified; every test of the class opens the index by its path."""

    @pytest.fixture(autouse=True)
    def _index(self, index: Path) -> None:
        self.index = index

    @property
    def retriever_constructor(self) -> type[GenerativeMMRetriever]:
        return GenerativeMMRetriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {"path": self.index}

    @property
    def retriever_query_example(self) -> str:
        return "a cup of coffee"


def test_text_query(opened: GenerativeMMRetriever) -> None:
    documents = opened.invoke("a cup of coffee", kind="image")
    first = documents[0]
    assert first.id == "coffee.png"
    path = Path(first.metadata["source"])
    assert path.read_bytes() == Path(photograph("coffee.png")).read_bytes()
    assert first.metadata["mime_type"] == "image/png"
    assert first.page_content
    assert first.metadata["generated_id"]
    assert first.metadata["verification"] == pytest.approx(first.metadata["score"])
    scores = [document.metadata["score"] for document in documents]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 for score in scores)


@pytest.mark.parametrize("k", [1, 4, 6])
async def test_k_is_exact(opened: GenerativeMMRetriever, k: int) -> None:
    assert len(opened.invoke("a quiet evening", k=k)) == k
    assert len(await opened.ainvoke("a quiet evening", k=k)) == k
    assert len(opened.invoke("a quiet evening", k=k, verify="off")) == k


def test_image_and_composed_queries(opened: GenerativeMMRetriever) -> None:
    cat = photograph("chelsea.png")
    assert opened.invoke("", image=cat, kind="image")[0].id == "chelsea.png"
    assert len(opened.invoke("on the moon", image=Path(cat), k=2)) == 2


def test_filters(opened: GenerativeMMRetriever) -> None:
    found = opened.invoke("a cat", filters={"topic": "vehicle"}, k=2)
    assert {document.id for document in found} == {"motorcycle_left.png", "rocket.jpg"}
    assert len(opened.invoke("a cat", filters={"topic": ["drink", "animal"]}, k=6)) == 3


def test_text_items(opened: GenerativeMMRetriever) -> None:
    (document,) = opened.invoke("how is espresso made?", kind="text", k=1)
    assert document.page_content == NOTE
    assert document.metadata["mime_type"] == "text/plain"


async def test_async_equals_sync_and_leaves_the_loop_free(opened: GenerativeMMRetriever) -> None:
    queries = ["a motorcycle", "an astronaut", "a cat"]
    expected = [opened.invoke(query) for query in queries]
    ids = [[document.id for document in documents] for documents in expected]
    assert [[document.id for document in await opened.ainvoke(query)] for query in queries] == ids
    longest = 0.0

    async def watch() -> None:
        nonlocal longest
        loop = asyncio.get_running_loop()
        while True:
            before = loop.time()
            await asyncio.sleep(0.005)
            longest = max(longest, loop.time() - before)

    watching = asyncio.create_task(watch())
    started = asyncio.get_running_loop().time()
    found = await asyncio.gather(*(opened.ainvoke(query) for query in queries))
    seconds = asyncio.get_running_loop().time() - started
    watching.cancel()
    for ours, theirs in zip(found, expected, strict=True):
        # Those that wait are answered together, which turns hits around that are almost equal.
        assert ours[0].id == theirs[0].id
        assert [one.metadata["score"] for one in ours] == pytest.approx(
            [one.metadata["score"] for one in theirs], rel=0.1, abs=0.01
        )
    assert longest < max(0.5 * seconds, 0.1), "the loop stood still during a query"


def test_content_blocks(opened: GenerativeMMRetriever) -> None:
    documents = opened.invoke("a rocket", kind="image", k=1)
    blocks = documents_to_content_blocks(documents)
    assert [block["type"] for block in blocks] == ["text", "image"]


async def test_adapters_and_grounded_answers(opened: GenerativeMMRetriever) -> None:
    core: Any = opened.core
    wordy = "Hello! Could you please find me the picture of a motorcycle in a garage? Thanks!"
    adapter = GenmmQueryAdapter(adapters=[QueryRewriter(core.model)], core=core)
    (step,) = adapter.invoke(wordy).steps
    assert (step.adapter, step.changed) == ("rewrite", True)
    assert step.changed
    found = await (adapter | opened).ainvoke(wordy, kind="image")
    assert found[0].id == "motorcycle_left.png"
    within = GenerativeMMRetriever(core=adapted(core, ["rewrite"]), k=3).invoke(wordy, kind="image")
    assert [document.id for document in within] == [document.id for document in found]
    assert within[0].metadata["steps"][0]["text"] == step.text
    told = GenmmAnswerer(answerer=Answerer(core)).invoke("a motorcycle", kind="image")
    assert told["found"]
    assert told["quoted"]
    assert [document.id for document in told["documents"]] == ["motorcycle_left.png"]
    sure = GenmmAnswerer(answerer=Answerer(core, threshold=1.0))
    unsure = await sure.ainvoke("an elephant in a swimming pool")
    assert not unsure["found"]
    assert "less than 1.00" in unsure["reason"]
