"""The adapter over the builtin model."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from builtin_case import MISSING, NOTE, REASON, items, photograph
from llama_index.core.query_engine import RetrieverQueryEngine, TransformQueryEngine
from llama_index.core.schema import ImageNode, Node, QueryBundle, TextNode
from llama_index.core.vector_stores.types import MetadataFilter, MetadataFilters

from genmm_retriever.querying import Answerer, QueryRewriter, adapted
from llama_index.retrievers.genmm import (
    GenerativeMMRetriever,
    GenmmQueryTransform,
    GroundedQueryEngine,
    GroundedSynthesizer,
)

pytestmark = pytest.mark.skipif(bool(MISSING), reason=REASON)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("genmm") / "index"
    GenerativeMMRetriever.from_defaults(items(), path=path, progress=False).close()
    return path


@pytest.fixture(scope="module")
def opened(index: Path) -> Iterator[GenerativeMMRetriever]:
    retriever = GenerativeMMRetriever.from_index(index, similarity_top_k=3)
    yield retriever
    retriever.close()


def test_text_query(opened: GenerativeMMRetriever) -> None:
    nodes = opened.text_to_image_retrieve("a cup of coffee")
    first = nodes[0]
    assert first.node_id == "coffee.png"
    assert isinstance(first.node, Node)
    path = first.node.image_resource.path
    assert path.read_bytes() == Path(photograph("coffee.png")).read_bytes()
    assert first.node.image_resource.mimetype == "image/png"
    assert first.get_content()
    assert first.metadata["generated_id"]
    assert first.metadata["verification"] == pytest.approx(first.score)
    scores = [node.score for node in nodes]
    assert scores == sorted(scores, reverse=True)
    assert len(nodes) == 3
    assert len({node.node_id for node in nodes}) == 3


async def test_async_equals_sync(opened: GenerativeMMRetriever) -> None:
    queries = ["a motorcycle", "an astronaut", "a cat"]
    expected = [opened.retrieve(query) for query in queries]
    ids = [[node.node_id for node in nodes] for nodes in expected]
    assert [[node.node_id for node in await opened.aretrieve(query)] for query in queries] == ids
    found = await asyncio.gather(*(opened.aretrieve(query) for query in queries))
    for ours, theirs in zip(found, expected, strict=True):
        # Those that wait are answered together, which turns hits around that are almost equal.
        assert ours[0].node_id == theirs[0].node_id
        assert [node.score for node in ours] == pytest.approx(
            [node.score for node in theirs], rel=0.1, abs=0.01
        )


def test_image_and_composed_queries(opened: GenerativeMMRetriever) -> None:
    cat = photograph("chelsea.png")
    assert opened.image_to_image_retrieve(cat)[0].node_id == "chelsea.png"
    assert len(opened.retrieve(QueryBundle("on the moon", image_path=cat))) == 3


def test_text_items(opened: GenerativeMMRetriever) -> None:
    (found,) = opened.text_retrieve("how is espresso made?")
    assert type(found.node) is TextNode
    assert found.text == NOTE


def test_filters(index: Path) -> None:
    filters = MetadataFilters(filters=[MetadataFilter(key="topic", value="vehicle")])
    retriever = GenerativeMMRetriever.from_index(index, similarity_top_k=2, filters=filters)
    found = {node.node_id for node in retriever.retrieve("a cat")}
    retriever.close()
    assert found == {"motorcycle_left.png", "rocket.jpg"}


def test_persist_and_load(index: Path, tmp_path: Path) -> None:
    shutil.copytree(index, tmp_path / "first")
    first = GenerativeMMRetriever.from_index(
        tmp_path / "first", similarity_top_k=2, kind="image", verify="off", node_type="image"
    )
    first.persist(tmp_path / "kept")
    expected = [(node.node_id, node.score) for node in first.retrieve("a motorcycle")]
    first.close()
    shutil.rmtree(tmp_path / "first")
    again = GenerativeMMRetriever.from_persist_dir(tmp_path / "kept")
    nodes = again.retrieve("a motorcycle")
    again.close()
    assert [node.node_id for node in nodes] == [name for name, _ in expected]
    assert [node.score for node in nodes] == pytest.approx([score for _, score in expected])
    assert all(isinstance(node.node, ImageNode) for node in nodes)


async def test_adapters_and_grounded_answers(opened: GenerativeMMRetriever) -> None:
    core: Any = opened.core
    wordy = "Hello! Could you please find me the picture of a motorcycle in a garage? Thanks!"
    within = GenerativeMMRetriever(adapted(core, ["rewrite"]), 3, kind="image")
    first = (await within.aretrieve(wordy))[0]
    assert first.node_id == "motorcycle_left.png"
    (step,) = first.metadata["steps"]
    assert (step["adapter"], step["changed"]) == ("rewrite", True)
    assert step["changed"]
    transform = GenmmQueryTransform([QueryRewriter(core.model)], core)
    pictures = GenerativeMMRetriever(core, 3, kind="image")
    engine = RetrieverQueryEngine(pictures, GroundedSynthesizer(Answerer(core)))
    response = TransformQueryEngine(engine, transform).query(wordy)
    assert response.metadata["found"]
    assert response.metadata["quoted"]
    assert [node.node_id for node in response.source_nodes] == ["motorcycle_left.png"]
    sure = GroundedQueryEngine(Answerer(core, threshold=1.0))
    unsure = await sure.aquery("an elephant in a swimming pool")
    assert not unsure.metadata["found"]
    assert "less than 1.00" in str(unsure)
