from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import pytest
from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.load import dumps
from langchain_core.runnables import RunnableLambda, RunnablePassthrough
from pydantic import ValidationError

from genmm_retriever.errors import ImageError, QueryError
from genmm_retriever.querying import (
    AdaptedRetriever,
    Answerer,
    ComposedQueryAdapter,
    QueryExpander,
    QueryRewriter,
    ReasoningRetriever,
    adapted,
)
from genmm_retriever.schema import Item, Query
from keyword_core import LoopWatch, ScriptedWriter, SearcherCore
from langchain_genmm import GenerativeMMRetriever, GenmmAnswerer, GenmmQueryAdapter

WORDY = "Hello! Could you please find me the picture that I saw, of a rocket at night? Thanks!"
WORDY_CAT = "Hello! Could you please find me the picture that I saw, of a cat with eyes? Thanks!"
SHORT = {
    "rocket at night": {"constraints": "rocket, night"},
    "cat with eyes": {"constraints": "cat, eyes"},
}
COMPOSED = {
    "with coffee": {"keep": ["cat"], "change": ["coffee"]},
    "coffee": {"target": "a cat beside coffee"},
}
ANSWER = {"found": True, "answer": "A spoon.", "sources": [1]}
NOT_FOUND = {"found": False, "answer": "", "sources": []}


def ids(documents: list[Any]) -> list[str]:
    return [document.id for document in documents]


@pytest.fixture
def searcher(items: list[Item]) -> SearcherCore:
    return SearcherCore(items)


@pytest.fixture
def cat(items: list[Item]) -> str:
    return next(str(item.image) for item in items if item.id == "cat.jpg")


@pytest.fixture
def writer() -> ScriptedWriter:
    return ScriptedWriter(SHORT)


@pytest.fixture
def adapter(writer: ScriptedWriter) -> GenmmQueryAdapter:
    return GenmmQueryAdapter(adapters=[QueryRewriter(writer)])


def test_importing_the_package_loads_no_deep_learning_library() -> None:
    code = (
        "import sys, langchain_genmm as g; assert 'torch' not in sys.modules; "
        "g.GenmmQueryAdapter; g.GenmmAnswerer"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


# The adapter.


async def test_in_front_of_the_retriever(
    adapter: GenmmQueryAdapter, searcher: SearcherCore
) -> None:
    chain = adapter | GenerativeMMRetriever(core=searcher, k=2) | RunnableLambda(ids)
    assert chain.invoke(WORDY)[0] == (await chain.ainvoke(WORDY))[0] == "rocket.jpg"
    assert [asked.text for asked in searcher.queries] == ["rocket, night"] * 2
    assert searcher.queries[0].rewritings == (WORDY,)
    assert list(chain.stream(WORDY)) == [chunk async for chunk in chain.astream(WORDY)]
    assert chain.batch([WORDY, WORDY_CAT]) == await chain.abatch([WORDY, WORDY_CAT])


async def test_all_that_a_query_has_is_kept(searcher: SearcherCore, cat: str) -> None:
    adapter = GenmmQueryAdapter(adapters=[ComposedQueryAdapter(ScriptedWriter(COMPOSED))])
    retriever = GenerativeMMRetriever(core=searcher, k=1, filters={"tags": "drawn"})
    chain = adapter | retriever
    query = Query(
        text="with coffee", image=cat, filters={"year": [2010, 2011]}, kind="image", ids=("a", "b")
    )
    fields = {"text": "with coffee", "image": Path(cat), "kind": "image", "ids": ["a", "b"]}
    chain.invoke(query)
    await chain.ainvoke(fields | {"filters": {"year": [2010, 2011]}})
    chain.invoke(
        {"text": "with coffee", "ids": ["a", "b"]},
        image=Path(cat),
        filters={"year": [2010, 2011]},
        kind="image",
    )
    for asked in searcher.queries:
        assert asked.image == cat
        assert asked.context == "a cat beside coffee"
        assert asked.filters == {"tags": "drawn", "year": [2010, 2011]}
        assert (asked.kind, asked.ids) == ("image", ("a", "b"))
    await chain.ainvoke(" with coffee\n", image=Path(cat).read_bytes())
    assert searcher.queries[-1].text == "with coffee"
    assert searcher.queries[-1].context == "a cat beside coffee"


def test_keywords_of_the_retriever_are_added_to_a_query(searcher: SearcherCore, cat: str) -> None:
    retriever = GenerativeMMRetriever(core=searcher, filters={"a": 1}, kind="text")
    query = Query(text="a cat", filters={"b": 2}, context="green eyes")
    retriever.invoke(query, image=Path(cat), filters={"c": 3}, k=1)  # type: ignore[arg-type]
    (asked,) = searcher.queries
    assert asked.image == cat
    assert asked.filters == {"a": 1, "b": 2, "c": 3}
    assert (asked.kind, asked.context) == ("text", "green eyes")


@pytest.mark.parametrize(
    "given", ["", " \n", {}, {"text": " "}, {"texts": "a dog"}, {"text": "a", "filters": 3}, None]
)
async def test_what_is_no_query_is_refused(adapter: GenmmQueryAdapter, given: Any) -> None:
    with pytest.raises(QueryError):
        adapter.invoke(given)
    with pytest.raises(QueryError):
        await adapter.ainvoke(given)


async def test_a_batch_is_adapted_together(
    adapter: GenmmQueryAdapter, writer: ScriptedWriter
) -> None:
    given = [WORDY, "a cat", Query(text=WORDY_CAT, ids=("cat.jpg",))]
    found = adapter.batch(given)
    assert [query.text for query in found] == ["rocket, night", "a cat", "cat, eyes"]
    assert found[2].ids == ("cat.jpg",)
    assert [query.text for query in await adapter.abatch(given)] == [q.text for q in found]
    assert writer.calls == [2, 2], "one call a batch"
    assert adapter.batch([]) == await adapter.abatch([]) == []
    adapter.batch([WORDY] * 5, {"max_concurrency": 2})
    assert writer.calls[2:] == [2, 2, 1]
    assert {query.kind for query in adapter.batch(given, kind="image")} == {"image"}


async def test_what_is_wrong_with_one_of_a_batch_is_said_of_it(cat: str) -> None:
    adapter = GenmmQueryAdapter(adapters=[ComposedQueryAdapter(ScriptedWriter(COMPOSED))])
    given: list[Any] = [
        "a cat",
        {"text": "with coffee", "image": "absent.png"},
        "",
        {"text": "with coffee", "image": cat},
    ]
    for found in (
        adapter.batch(given, return_exceptions=True),
        await adapter.abatch(given, return_exceptions=True),
    ):
        assert [type(one) for one in found] == [Query, ImageError, QueryError, Query]
        assert found[3].context == "a cat beside coffee"
    with pytest.raises(ImageError, match=r"absent\.png"):
        adapter.batch(given)
    with pytest.raises(ImageError, match=r"absent\.png"):
        await adapter.abatch(given)


async def test_only_a_model_that_computes_here_is_held(searcher: SearcherCore) -> None:
    writer = ScriptedWriter(SHORT)
    adapter = GenmmQueryAdapter(adapters=[QueryRewriter(writer)], core=searcher)
    adapter.invoke(WORDY)
    assert searcher.held == 0
    writer.prefill = None  # type: ignore[attr-defined]
    adapter.invoke(WORDY)
    await adapter.abatch([WORDY, WORDY])
    assert searcher.held == 2


async def test_the_loop_stays_free() -> None:
    writer = ScriptedWriter(SHORT, delay=0.1)
    adapter = GenmmQueryAdapter(adapters=[QueryRewriter(writer)])
    async with LoopWatch() as watch:
        await asyncio.gather(adapter.ainvoke(WORDY), adapter.abatch([WORDY]))
    assert watch.longest < 0.05
    assert threading.get_ident() not in writer.threads


async def test_runs_are_told_with_names_tags_and_failures(
    adapter: GenmmQueryAdapter, searcher: SearcherCore
) -> None:
    seen: list[Any] = []

    class Log(BaseCallbackHandler):
        def on_chain_start(self, serialized: Any, inputs: Any, **told: Any) -> None:
            seen.append((told["name"], sorted(told["tags"])))

        def on_chain_error(self, error: BaseException, **told: Any) -> None:
            seen.append(type(error))

    class AsyncLog(AsyncCallbackHandler):
        async def on_chain_end(self, outputs: Any, **told: Any) -> None:
            seen.append(type(outputs))

    config: Any = {"callbacks": [Log(), AsyncLog()], "tags": ["a"], "run_name": "mine"}
    with pytest.raises(QueryError):
        adapter.invoke("", config={"callbacks": [Log()]})
    await adapter.with_config(tags=["b"]).ainvoke(WORDY, config=config)
    await adapter.abatch([WORDY, WORDY], config=config)
    assert seen[:2] == [("GenmmQueryAdapter", []), QueryError]
    assert seen[2:4] == [("mine", ["a", "b"]), Query]
    assert seen[4:] == [("mine", ["a"])] * 2 + [Query] * 2
    chain = adapter | GenerativeMMRetriever(core=searcher, k=1)
    names = [event["name"] async for event in chain.astream_events(WORDY, version="v2")]
    assert {"GenmmQueryAdapter", "GenerativeMMRetriever"} <= set(names)


def test_schemas_and_serialisation(adapter: GenmmQueryAdapter, searcher: SearcherCore) -> None:
    answers = GenmmAnswerer(answerer=Answerer(searcher, ScriptedWriter({})))
    assert adapter.OutputType is Query
    assert adapter.get_input_jsonschema()["anyOf"][0] == {"type": "string"}
    assert "rewritings" in adapter.get_output_jsonschema()["properties"]
    assert "documents" in answers.get_output_jsonschema()["$defs"]["GroundedAnswer"]["properties"]
    chain = adapter | answers
    assert chain.get_graph().nodes
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # LangChain's own, about its beta
        assert json.loads(dumps(chain))["kwargs"]["first"]["type"] == "not_implemented"
    assert "SearcherCore" not in repr(GenmmQueryAdapter(adapters=adapter.adapters, core=searcher))
    with pytest.raises(ValidationError, match="adapters"):
        GenmmQueryAdapter(adapters=[])
    with pytest.raises(ValidationError, match="k"):
        GenmmQueryAdapter(adapters=adapter.adapters, k=3)  # type: ignore[call-arg]


# Adapters within the core.


@pytest.fixture(params=["adapted", "reasoning", "both"])
def adapting(request: pytest.FixtureRequest, searcher: SearcherCore) -> Any:
    writer = ScriptedWriter(SHORT | {"": {"context": "rocket on its pad"}})
    searcher.model = writer
    if request.param == "reasoning":
        return ReasoningRetriever(searcher, rounds=2)
    if request.param == "both":
        return adapted(searcher, ["rewrite", "expand:2", "reason:2"])
    return AdaptedRetriever(
        searcher, [QueryRewriter(writer)], expander=QueryExpander(writer, number=2)
    )


@pytest.mark.parametrize("k", [1, 5])
async def test_a_core_with_adapters_does_what_a_core_does(
    adapting: Any, searcher: SearcherCore, cat: str, k: int
) -> None:
    retriever = GenerativeMMRetriever(core=adapting, k=k, filters={"tags": "drawn"}, verify="off")
    documents = retriever.invoke(WORDY)
    assert len(documents) == k
    assert documents[0].id == "rocket.jpg"
    assert documents[0].metadata["steps"]
    assert json.dumps(documents[0].metadata)
    assert ids(await retriever.ainvoke(WORDY)) == ids(documents)
    assert len(await retriever.ainvoke(WORDY, k=2)) == len(retriever.invoke(WORDY, k=2)) == 2
    for batch in (retriever.batch([WORDY] * 4), await retriever.abatch([WORDY] * 4)):
        assert [ids(found) for found in batch] == [ids(documents)] * 4
    assert set(searcher.verify_asked) == {"off"}
    assert all(asked.filters == {"tags": "drawn"} for asked in searcher.queries)
    retriever.invoke(WORDY, verify="likelihood", filters={"year": 2010})
    assert searcher.verify_asked[-1] == "likelihood"
    assert searcher.queries[-1].filters == {"tags": "drawn", "year": 2010}
    assert ids(retriever.invoke("", image=cat))[0] == "cat.jpg"
    assert retriever.invoke("coffee", kind="text") == []
    retriever.close()
    assert searcher.closed


async def test_a_core_with_adapters_leaves_the_loop_free(items: list[Item]) -> None:
    writer = ScriptedWriter(SHORT, delay=0.1)
    core = AdaptedRetriever(SearcherCore(items, delay=0.05), [QueryRewriter(writer)])
    async with LoopWatch() as watch:
        found = await GenerativeMMRetriever(core=core, k=1).abatch([WORDY] * 3)
    assert [ids(documents) for documents in found] == [["rocket.jpg"]] * 3
    assert watch.longest < 0.05


# Grounded answers.


async def test_answers_with_what_they_rest_on(searcher: SearcherCore) -> None:
    writer = ScriptedWriter({"What lies": ANSWER})
    answers = GenmmAnswerer(answerer=Answerer(searcher, writer, k=2))
    question = "What lies beside the cup of coffee?"
    given = {"text": question, "filters": {"tags": "drawn"}}
    for said in (
        answers.invoke(given),
        await answers.ainvoke(given),
        answers.invoke(question, filters={"tags": "drawn"}),
        answers.batch([given, given])[1],
        (await answers.abatch([given, given]))[0],
        next(iter(answers.stream(given))),
    ):
        assert (said["answer"], said["found"], said["reason"]) == ("A spoon.", True, None)
        assert ids(said["documents"]) == ["coffee.png"]
        assert said["confidence"] == said["documents"][0].metadata["verification"]
        assert said["seconds"] > 0
    assert set(writer.pictures) == {2}
    assert all(asked.filters == {"tags": "drawn"} for asked in searcher.queries)
    assert answers.invoke(question, verify="off")["confidence"] is None


@pytest.mark.parametrize(
    ("said", "threshold", "reason"),
    [
        (NOT_FOUND, None, "finds no answer in the sources"),
        (ANSWER | {"sources": []}, None, "names none of the sources"),
        (ANSWER, 0.9, "less than 0.90"),
    ],
)
async def test_what_is_not_found_is_said(
    searcher: SearcherCore, said: Any, threshold: float | None, reason: str
) -> None:
    answerer = Answerer(searcher, ScriptedWriter({"": said}), k=2, threshold=threshold)
    answers = GenmmAnswerer(answerer=answerer)
    for told in (answers.invoke("What coffee is it?"), await answers.ainvoke("What is?")):
        assert (told["answer"], told["found"]) == ("", False)
        assert reason in told["reason"]
        assert len(told["documents"]) == 2, "what was looked at"
    with pytest.raises(QueryError, match="empty"):
        answers.invoke(" ")


async def test_an_answerer_in_a_chain(searcher: SearcherCore) -> None:
    writer = ScriptedWriter({"Answer the question": ANSWER} | SHORT)
    adapter = GenmmQueryAdapter(adapters=[QueryRewriter(writer)])
    answers = GenmmAnswerer(answerer=Answerer(searcher, writer, k=1))
    chain = {"question": RunnablePassthrough(), "told": adapter | answers} | RunnableLambda(
        lambda given: (given["question"], given["told"]["answer"], ids(given["told"]["documents"]))
    )
    expected = (WORDY, "A spoon.", ["rocket.jpg"])
    assert chain.invoke(WORDY) == await chain.ainvoke(WORDY) == expected
    assert searcher.queries[-1].text == "rocket, night"
    assert "that I saw, of a rocket" in writer.prompts[-1], "answered as it was asked"
    assert [said async for said in chain.astream(WORDY)] == [expected]


def test_the_builtin_model_quotes(searcher: SearcherCore) -> None:
    searcher.model = ScriptedWriter({}, style="builtin")
    told = GenmmAnswerer(answerer=Answerer(searcher)).invoke("a cup of coffee")
    assert told["quoted"]
    assert told["answer"] == told["documents"][0].page_content
