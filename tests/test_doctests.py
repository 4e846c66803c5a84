"""Runs the examples in the docstrings of the *installed* package."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import genmm_retriever

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(genmm_retriever.__path__, "genmm_retriever.")
    if not module.name.endswith("__main__")
)
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@pytest.mark.parametrize("name", ["genmm_retriever", *MODULES])
def test_examples(name):
    module = importlib.import_module(name)
    result = doctest.testmod(module, optionflags=OPTIONS)
    assert result.failed == 0


def test_there_are_examples():
    found = doctest.DocTestFinder().find(importlib.import_module("genmm_retriever.schema"))
    assert any(example.examples for example in found)
