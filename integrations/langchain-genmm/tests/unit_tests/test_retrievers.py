from __future__ import annotations

import asyncio
import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.runnables import ConfigurableField, RunnableLambda
from pydantic import ValidationError

from genmm_retriever.errors import IndexNotFoundError, QueryError
from genmm_retriever.schema import Item
from keyword_core import PICTURES, TEXTS, BatchingCore, KeywordCore, LoopWatch
from langchain_genmm import GenerativeMMRetriever


def ids(documents: list[Any]) -> list[str]:
    return [document.id for document in documents]


def test_finds_the_picture_with_its_evidence(retriever: GenerativeMMRetriever) -> None:
    first = retriever.invoke("a cup of coffee")[0]
    assert first.id == "coffee.png"
    assert first.page_content == PICTURES["coffee.png"][0]
    assert Path(first.metadata["source"]).is_file()
    assert first.metadata["mime_type"] == "image/png"
    assert first.metadata["generated_id"] == "coffee, cup"
    assert first.metadata["verification"] == first.metadata["score"] == 1.0
    assert first.metadata["rank"] == 1
    assert first.metadata["filled"] is False
    assert first.metadata["year"] == 2010


def test_documents_are_sorted_and_serialisable(retriever: GenerativeMMRetriever) -> None:
    documents = retriever.invoke("a man with a camera", k=7)
    scores = [document.metadata["score"] for document in documents]
    assert scores == sorted(scores, reverse=True)
    assert json.loads(json.dumps([document.model_dump() for document in documents]))


@pytest.mark.parametrize("k", [1, 2, 5, 7])
async def test_k_is_exact_sync_and_async(retriever: GenerativeMMRetriever, k: int) -> None:
    assert len(retriever.invoke("nothing that any caption names", k=k)) == k
    assert len(await retriever.ainvoke("nothing that any caption names", k=k)) == k


def test_k_larger_than_the_corpus_gives_all(retriever: GenerativeMMRetriever) -> None:
    assert len(retriever.invoke("a cat", k=1000)) == len(PICTURES) + len(TEXTS)


@pytest.mark.parametrize("k", [0, -1])
async def test_k_below_one_is_refused(retriever: GenerativeMMRetriever, k: int) -> None:
    with pytest.raises(QueryError, match=f"k is {k}"):
        retriever.invoke("a cat", k=k)
    with pytest.raises(QueryError, match=f"k is {k}"):
        await retriever.ainvoke("a cat", k=k)


def test_constructor_checks_its_arguments(core: KeywordCore, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=r"k\n.*greater than or equal to 1"):
        GenerativeMMRetriever(core=core, k=0)
    with pytest.raises(ValidationError, match="top_k"):
        GenerativeMMRetriever(core=core, top_k=3)  # type: ignore[call-arg]
    with pytest.raises(ValidationError, match=r"from_images\(\.\.\.\)"):
        GenerativeMMRetriever(k=3)  # type: ignore[call-arg]
    with pytest.raises(ValidationError, match="core"):
        GenerativeMMRetriever(core=object())  # type: ignore[arg-type]


async def test_async_takes_the_same_keywords_as_sync(
    retriever: GenerativeMMRetriever, items: list[Item]
) -> None:
    cat = next(item.image for item in items if item.id == "cat.jpg")
    for options in (
        {"k": 2},
        {"image": cat},
        {"filters": {"year": 2011}},
        {"kind": "text"},
        {"verify": "off"},
    ):
        assert await retriever.ainvoke("coffee", **options) == retriever.invoke("coffee", **options)


@pytest.mark.parametrize("query", ["", "  \n"])
async def test_empty_query_is_refused(retriever: GenerativeMMRetriever, query: str) -> None:
    with pytest.raises(QueryError, match="the query is empty"):
        retriever.invoke(query)
    with pytest.raises(QueryError, match="the query is empty"):
        await retriever.ainvoke(query)


def test_query_is_stripped(retriever: GenerativeMMRetriever, core: KeywordCore) -> None:
    retriever.invoke(" cats\n\n")
    assert core.queries[-1].text == "cats"


@pytest.mark.parametrize("form", [str, Path, lambda path: Path(path).read_bytes()])
def test_image_query(retriever: GenerativeMMRetriever, items: list[Item], form: Any) -> None:
    rocket = next(item.image for item in items if item.id == "rocket.jpg")
    assert retriever.invoke("", image=form(rocket))[0].id == "rocket.jpg"


def test_composed_query(
    retriever: GenerativeMMRetriever, core: KeywordCore, items: list[Item]
) -> None:
    cat = next(item.image for item in items if item.id == "cat.jpg")
    found = ids(retriever.invoke("with coffee on a table", image=cat, k=2))
    assert set(found) == {"cat.jpg", "coffee.png"}
    assert core.queries[-1].is_composed


def test_filters_reach_the_decoding_so_k_stays_exact(
    core: KeywordCore,
) -> None:
    retriever = GenerativeMMRetriever(core=core, k=2, filters={"year": 2011})
    assert set(ids(retriever.invoke("a cup of coffee"))) == {"cat.jpg", "camera.webp"}
    assert core.queries[-1].filters == {"year": 2011}
    assert ids(retriever.invoke("a cup of coffee", filters={"tags": ["webp", "gif"]})) == [
        "camera.webp"
    ]
    assert core.queries[-1].filters == {"year": 2011, "tags": ["webp", "gif"]}


def test_kind(core: KeywordCore) -> None:
    retriever = GenerativeMMRetriever(core=core, kind="text")
    assert ids(retriever.invoke("coffee")) == ["note-1", "note-2"]
    assert "note-1" not in ids(retriever.invoke("coffee", kind="image"))


def test_verification_can_be_switched_off(core: KeywordCore) -> None:
    retriever = GenerativeMMRetriever(core=core, verify="off")
    assert retriever.invoke("coffee")[0].metadata["verification"] is None
    assert retriever.invoke("coffee", verify="likelihood")[0].metadata["verification"] == 1.0
    assert core.verify_asked == ["off", "likelihood"]


async def test_eight_at_once_are_answered_together_and_leave_the_loop_free(
    items: list[Item],
) -> None:
    delay = 0.2
    core = BatchingCore(items, delay=delay)
    retriever = GenerativeMMRetriever(core=core, k=1)
    queries = ["a cat", "coffee", "a rocket", "a motorcycle"] * 2
    await retriever.ainvoke("a cat")
    core.batches.clear()
    async with LoopWatch() as watch:
        started = time.perf_counter()
        found = await retriever.abatch(queries)
        seconds = time.perf_counter() - started
    first = ["cat.jpg", "coffee.png", "rocket.jpg", "motorcycle.png"]
    assert [ids(documents) for documents in found] == [[one] for one in first * 2]
    assert sum(core.batches) == 8
    assert len(core.batches) <= 2
    assert seconds < 8 * delay / 2
    assert watch.longest < 0.05
    assert threading.get_ident() not in core.threads


async def test_a_core_that_cannot_batch_is_asked_at_once(items: list[Item]) -> None:
    core = KeywordCore(items, delay=0.1)
    retriever = GenerativeMMRetriever(core=core, k=1)
    await asyncio.gather(*(retriever.ainvoke(query) for query in ("cat", "coffee", "rocket")))
    assert core.most_at_once == 3, "the queries ran one after another"
    assert threading.get_ident() not in core.threads


def test_works_as_a_runnable(retriever: GenerativeMMRetriever, core: KeywordCore) -> None:
    assert [d[0].id for d in retriever.batch(["a cat", "a rocket"])] == ["cat.jpg", "rocket.jpg"]
    assert len(retriever.bind(k=1).invoke("a cat")) == 1
    chain = retriever | RunnableLambda(lambda documents: documents[0].id)
    assert chain.invoke("a motorcycle") == "motorcycle.png"


def test_configurable_field_keeps_the_core(retriever: GenerativeMMRetriever) -> None:
    configurable = retriever.configurable_fields(k=ConfigurableField(id="k"))
    assert len(configurable.invoke("a cat", config={"configurable": {"k": 5}})) == 5
    assert len(configurable.invoke("a cat")) == 3


def test_callbacks_see_the_run_and_its_failure(retriever: GenerativeMMRetriever) -> None:
    class Log(BaseCallbackHandler):
        def __init__(self) -> None:
            self.seen: list[Any] = []

        def on_retriever_start(self, *args: Any, **kwargs: Any) -> None:
            self.seen.append(kwargs["metadata"]["ls_retriever_name"])

        def on_retriever_end(self, documents: Any, **kwargs: Any) -> None:
            self.seen.append(ids(documents))

        def on_retriever_error(self, error: BaseException, **kwargs: Any) -> None:
            self.seen.append(type(error))

    log = Log()
    retriever.invoke("a cat", config={"callbacks": [log]}, k=1)
    with pytest.raises(QueryError, match="empty"):
        retriever.invoke("", config={"callbacks": [log]})
    assert log.seen == ["genmm", ["cat.jpg"], "genmm", QueryError]


def test_close_closes_the_core(retriever: GenerativeMMRetriever, core: KeywordCore) -> None:
    retriever.close()
    assert core.closed


def test_missing_index_is_named(tmp_path: Path) -> None:
    pytest.importorskip("genmm_retriever.retriever", reason="the core class is not there")
    with pytest.raises(IndexNotFoundError, match="nowhere"):
        GenerativeMMRetriever.from_index(tmp_path / "nowhere", k=3)


@pytest.mark.parametrize(
    ("query", "options", "told"),
    [
        (None, {}, "the query is empty"),
        (5, {}, "a query of type int .give a str or a Query"),
        ({"query": "a dog"}, {}, "a query of type dict .give a str or a Query"),
        ("a dog", {"k": "x"}, "k is 'x' .give a whole number"),
        ("a dog", {"filters": [1]}, r"filters is \[1\] .give fields"),
        ("a dog", {"filters": "year"}, "filters is 'year' .give fields"),
        ("a dog", {"filters": {"a": {"b": 1}}}, "the filter 'a' is {'b': 1} .give"),
        ("a dog", {"kind": "video"}, "kind is 'video' .use"),
    ],
)
async def test_bad_input_is_one_clear_error(
    retriever: GenerativeMMRetriever, query: Any, options: Any, told: str
) -> None:
    with pytest.raises(QueryError, match=f"^{told}"):
        retriever.invoke(query, **options)
    with pytest.raises(QueryError, match=f"^{told}"):
        await retriever.ainvoke(query, **options)
