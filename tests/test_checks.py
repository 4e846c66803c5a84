"""What callers give, refused in their own words."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from genmm_retriever.checks import as_queries, as_query, check_options, checked_k, joined_filters
from genmm_retriever.errors import InputError, QueryError
from genmm_retriever.schema import Query


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"kind": "video"}, "kind is 'video' (use 'image' or 'text')"),
        ({"filters": [1]}, "filters is [1] (give fields with a value or a list of values"),
        ({"filters": "year"}, "filters is 'year' (give fields"),
        ({"filters": {"a": {"b": 1}}}, "the filter 'a' is {'b': 1} (give a text, a number"),
        ({"filters": {"a": [1, [2]]}}, "the filter 'a' is [1, [2]] (give a text"),
        ({"filters": {1: 2}}, "the query cannot be asked: `filters`: the name 1 is no text"),
        ({"image": 5}, "the query cannot be asked: `image"),
    ],
)
def test_a_query_that_cannot_be_asked_is_refused_on_one_line(given, told):
    for query in ("a dog", Query(text="a dog")):
        with pytest.raises(QueryError) as refused:
            as_query(query, **given)
        assert str(refused.value).startswith(told)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("query", [5, {"query": "a dog"}, ["a dog"], b"a dog"])
def test_what_is_no_query_is_refused(query):
    with pytest.raises(QueryError, match=type(query).__name__):
        as_query(query)


@pytest.mark.parametrize("queries", ["a dog", Query(text="a dog")])
def test_a_single_query_is_not_taken_for_several(queries):
    with pytest.raises(QueryError, match=r"a single one .give a list"):
        as_queries(queries)


@pytest.mark.parametrize("queries", [None, 3, {"a dog": 1}])
def test_what_is_no_list_of_queries_is_refused(queries):
    with pytest.raises(QueryError, match=r"the queries are (None|3|\{'a dog': 1\}) .give a list"):
        as_queries(queries)


def test_filters_that_are_no_mapping_are_not_joined():
    with pytest.raises(QueryError, match="filters is 'year=1'"):
        joined_filters({"a": 1}, "year=1")


def test_whole_numbers_of_numpy_are_taken_and_truth_values_are_none():
    assert type(checked_k(np.int64(3))) is int
    check_options(k=np.int32(2), candidates=np.int64(5), num_beams=np.int64(1), budget=np.int8(4))
    for name in ("k", "candidates", "num_beams", "budget", "budget_ms"):
        with pytest.raises(InputError, match=f"{name} is True"):
            check_options(**{name: True})


def test_one_text_is_no_list_of_ids():
    with pytest.raises(ValidationError, match="'abc' is one text; give a list of ids"):
        Query(text="x", ids="abc")
    assert Query(text="x", ids=["abc"]).ids == ("abc",)
