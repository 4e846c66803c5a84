from __future__ import annotations

from typing import Any

import pytest
from llama_index.core.vector_stores.types import (
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
)

from genmm_retriever.errors import QueryError
from keyword_core import KeywordCore
from llama_index.retrievers.genmm import GenerativeMMRetriever
from llama_index.retrievers.genmm.filters import to_conditions


def one(key: str, value: Any, operator: str = "==") -> MetadataFilter:
    return MetadataFilter(key=key, value=value, operator=FilterOperator(operator))


def test_filters_reach_the_decoding_so_top_k_stays_exact(core: KeywordCore) -> None:
    filters = MetadataFilters(filters=[one("year", 2011)])
    retriever = GenerativeMMRetriever(core, similarity_top_k=2, filters=filters)
    found = {node.node_id for node in retriever.retrieve("a cup of coffee")}
    assert found == {"cat.jpg", "camera.webp"}
    assert core.queries[-1].filters == {"year": 2011}


def test_all_methods_are_filtered(core: KeywordCore) -> None:
    retriever = GenerativeMMRetriever(core, similarity_top_k=9, filters={"tags": ["webp"]})
    assert [n.node_id for n in retriever.retrieve("coffee")] == ["camera.webp"]
    assert [n.node_id for n in retriever.text_to_image_retrieve("coffee")] == ["camera.webp"]
    assert retriever.text_retrieve("coffee") == []


@pytest.mark.parametrize(
    ("filters", "conditions"),
    [
        (None, {}),
        ({"indoor": True}, {"indoor": True}),
        (MetadataFilters(filters=[]), {}),
        (MetadataFilters(filters=[one("a", "x"), one("b", 2.5)]), {"a": "x", "b": 2.5}),
        (MetadataFilters(filters=[one("a", ["x", "y"], "in")]), {"a": ["x", "y"]}),
        (MetadataFilters(filters=[one("a", ["x"], "any")]), {"a": ["x"]}),
        (MetadataFilters(filters=[one("a", "x", "contains")]), {"a": "x"}),
        (
            MetadataFilters(filters=[one("a", 1), MetadataFilters(filters=[one("b", 2)])]),
            {"a": 1, "b": 2},
        ),
        (MetadataFilters(filters=[one("a", 1)], condition=FilterCondition.OR), {"a": 1}),
    ],
)
def test_conditions(filters: Any, conditions: dict[str, Any]) -> None:
    assert to_conditions(filters) == conditions


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        (MetadataFilters(filters=[one("year", 2010, ">")]), "'year' > 2010"),
        (MetadataFilters(filters=[one("a", ["x"])]), r"'a' == \['x'\]"),
        (MetadataFilters(filters=[one("a", "x", "in")]), "'a' in 'x'"),
        (MetadataFilters(filters=[one("a", None)]), "'a' == None"),
        (MetadataFilters(filters=[one("a", 1), one("a", 2)]), "two filters name the key 'a'"),
        (MetadataFilters(filters=[one("a", 1), one("b", 2)], condition="or"), "joined by 'or'"),
        (MetadataFilters(filters=[one("a", 1)], condition="not"), "joined by 'not'"),
    ],
)
def test_what_decoding_cannot_hold_is_refused(
    core: KeywordCore, filters: MetadataFilters, message: str
) -> None:
    with pytest.raises(QueryError, match=message):
        GenerativeMMRetriever(core, filters=filters)
