from __future__ import annotations

import pytest

from genmm_retriever.errors import InputError
from genmm_retriever.serving.options import (
    parse_adapters,
    parse_budget,
    parse_cutoffs,
    parse_filters,
)


def test_filters():
    assert parse_filters([]) == {}
    assert parse_filters(["a=b=c", " key = x"]) == {"a": "b=c", "key": " x"}
    assert parse_filters(["n=1.5"]) == {"n": [1.5, "1.5"]}
    assert parse_filters(["t=true", "z=null"]) == {"t": [True, "true"], "z": [None, "null"]}
    assert parse_filters(["o={}", "l=[1]"]) == {"o": "{}", "l": "[1]"}
    assert parse_filters(["x=NaN"]) == {"x": "NaN"}
    assert parse_filters(["x="]) == {"x": ""}


@pytest.mark.parametrize("condition", ["novalue", "=x", " =x"])
def test_broken_filter_is_named(condition):
    with pytest.raises(InputError, match="--filter key=value"):
        parse_filters([condition])


@pytest.mark.parametrize("text", ["", "a", "1,,2", "0,1", "-3", "1.5"])
def test_broken_cutoffs(text):
    with pytest.raises(InputError, match="1,5,10"):
        parse_cutoffs(text)


def test_cutoffs():
    assert parse_cutoffs("10, 5,5,1") == (1, 5, 10)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (None, {}),
        ("1", {"budget": 1}),
        (" 16 ", {"budget": 16}),
        ("50ms", {"budget": None, "budget_ms": 50.0}),
        ("0.5 s", {"budget": None, "budget_ms": 500.0}),
        ("2s, 8", {"budget": 8, "budget_ms": 2000.0}),
    ],
)
def test_budgets(text, found):
    assert parse_budget(text) == found


@pytest.mark.parametrize(
    "text", ["", "0", "-1", "1.5", "0ms", "50m", "ms", "16,", "16,16", "1s,2s", "9" * 30, "1e3"]
)
def test_broken_budgets(text):
    with pytest.raises(InputError, match="16 or 50ms"):
        parse_budget(text)


def test_a_writer_needs_something_to_write():
    assert parse_adapters(["rewrite,consistency"], "openai:m") == ["rewrite", "consistency"]
    assert parse_adapters(["consistency"], "a/local-model") == ["consistency"]
    with pytest.raises(InputError, match="cannot check the way back"):
        parse_adapters(["consistency"], "openai:m")
    with pytest.raises(InputError, match="nothing to write"):
        parse_adapters(None, "openai:m")
