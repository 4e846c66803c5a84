from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda, RunnablePassthrough
from pydantic import ValidationError

from genmm_retriever import GenerativeMMReranker
from genmm_retriever.errors import InputError, QueryError
from genmm_retriever.schema import Item
from keyword_core import LoopWatch, Words
from langchain_genmm import GenerativeMMRetriever, GenmmCompressor


@pytest.fixture
def cat(items: list[Item]) -> str:
    return next(str(item.image) for item in items if item.id == "cat.jpg")


@pytest.fixture
def documents(cat: str) -> list[Document]:
    """Documents of other retrievers, worst first for a cat."""
    return [
        Document(id="text", page_content="Espresso is strong.", metadata={"score": 9}),
        Document(id="page", page_content="A cat.", metadata={"source": "https://example.org/cat"}),
        Document(id="empty", page_content=" "),
        Document(
            id="picture", page_content="a cat with green eyes", metadata={"source": cat, "x": 1}
        ),
    ]


@pytest.fixture
def words() -> Words:
    return Words()


def ids(documents: Any) -> list[str]:
    return [document.id for document in documents]


async def test_documents_of_any_retriever_are_ordered(
    documents: list[Document], words: Words
) -> None:
    compressor = GenmmCompressor(reranker=words)
    found = compressor.compress_documents(documents, "a cat with green eyes")
    assert ids(found) == ["picture", "page", "text", "empty"]
    assert [d.metadata["relevance_score"] for d in found] == [1.0, 0.25, 0.0, 0.0]
    assert found[0].metadata["x"] == 1
    assert found[2].metadata["score"] == 9, "the first stage's score was lost"
    assert all("relevance_score" not in document.metadata for document in documents)
    assert await compressor.acompress_documents(documents, "a cat with green eyes") == found
    assert len(words.threads) == 2
    assert threading.get_ident() in words.threads


def test_pictures_texts_and_scores_reach_the_core(
    documents: list[Document], words: Words, cat: str
) -> None:
    documents += [
        Document("shop", metadata={"source": "https://example.org/a.JPG?x=1"}),
        Document("typed", metadata={"source": "/photos/7", "mime_type": "image/webp"}),
        Document("a text about", metadata={"source": "a.png", "mime_type": "text/plain"}),
        Document("bytes", id="a.png", metadata={"source": "a.png", "mime_type": "image/png"}),
        Document("odd", metadata={"source": 7, "score": "high"}),
    ]
    GenmmCompressor(reranker=words).compress_documents(documents, "a")
    ((_, items),) = words.asked
    assert [(item.id, item.image) for item in items] == [
        ("0", None),
        ("1", None),
        ("3", cat),
        ("4", "https://example.org/a.JPG?x=1"),
        ("5", "/photos/7"),
        ("6", None),
        ("7", None),
        ("8", None),
    ]


def test_another_image_key_or_none(words: Words, cat: str) -> None:
    document = Document("a cat", metadata={"source": "x.png", "picture": cat})
    GenmmCompressor(reranker=words, image_key="picture").compress_documents([document], "a")
    GenmmCompressor(reranker=words, image_key=None).compress_documents([document], "a")
    assert [items[0].image for _, items in words.asked] == [cat, None]


def test_top_n(documents: list[Document], words: Words) -> None:
    compressor = GenmmCompressor(reranker=words, top_n=1)
    assert ids(compressor.compress_documents(documents, "a cat with green eyes")) == ["picture"]
    assert compressor.compress_documents([], "a cat") == []


async def test_an_empty_query_is_refused(documents: list[Document], words: Words) -> None:
    with pytest.raises(QueryError, match="the query is empty"):
        GenmmCompressor(reranker=words).compress_documents(documents, " ")
    with pytest.raises(QueryError, match="the query is empty"):
        await GenmmCompressor(reranker=words).acompress_documents(documents, "")


def test_options_make_the_core_reranker() -> None:
    compressor = GenmmCompressor(model="some/model", verify="choice", budget=5, strict=False)
    core = compressor._reranker
    assert isinstance(core, GenerativeMMReranker)
    assert (core.verify, core.strict) == ("choice", False)


@pytest.mark.parametrize(
    "options", [{"top_n": 0}, {"verify": "off"}, {"budget": "all"}, {"top_k": 3}]
)
def test_options_are_checked(options: Any) -> None:
    with pytest.raises(ValidationError, match=next(iter(options))):
        GenmmCompressor(**options)
    with pytest.raises(InputError, match="reranker is a str"):
        GenmmCompressor(reranker="builtin")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options",
    [{"strict": False}, {"budget": None}, {"verify": "choice"}, {"model": "m"}, {"device": "cpu"}],
)
def test_options_of_a_shared_reranker_are_refused(words: Words, options: Any) -> None:
    (name,) = options
    named = rf"{name} cannot be given beside reranker= .*GenerativeMMReranker\({name}="
    with pytest.raises(InputError, match=named):
        GenmmCompressor(reranker=words, top_n=1, **options)


class Compressing(BaseRetriever):
    """What `ContextualCompressionRetriever` of langchain-classic does."""

    base_retriever: BaseRetriever
    base_compressor: GenmmCompressor

    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        found = self.base_retriever.invoke(query, config={"callbacks": run_manager.get_child()})
        return self.base_compressor.compress_documents(
            found, query, callbacks=run_manager.get_child()
        )

    async def _aget_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        found = await self.base_retriever.ainvoke(
            query, config={"callbacks": run_manager.get_child()}
        )
        return await self.base_compressor.acompress_documents(
            found, query, callbacks=run_manager.get_child()
        )


async def test_in_a_compression_retriever_and_in_a_chain(
    retriever: GenerativeMMRetriever, words: Words
) -> None:
    retriever.k = 7
    compressor = GenmmCompressor(reranker=words, top_n=2)
    both = Compressing(base_retriever=retriever, base_compressor=compressor)
    found = both.invoke("a rocket at night")
    assert found[0].id == "rocket.jpg"
    assert Path(found[0].metadata["source"]).is_file()
    assert found[0].metadata["score"] == pytest.approx(1.0)
    assert len(found) == 2
    async with LoopWatch() as watch:
        assert await both.ainvoke("a rocket at night") == found
    assert watch.longest < 0.05
    chain = RunnablePassthrough.assign(documents=lambda given: retriever.invoke(given["query"])) | (
        RunnableLambda(
            lambda given: compressor.compress_documents(given["documents"], given["query"])
        )
    )
    assert chain.invoke({"query": "a rocket at night"}) == found
