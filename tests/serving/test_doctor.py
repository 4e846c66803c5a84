from __future__ import annotations

import importlib.metadata
import json

import numpy
import pytest

import genmm_retriever
from genmm_retriever.serving import doctor


def test_reports_this_machine(genmm):
    code, out, _ = genmm("doctor", "--json")
    assert code == 0
    data = json.loads(out)
    assert data["version"] == genmm_retriever.__version__
    assert data["packages"]["numpy"] == numpy.__version__
    assert data["cores"] >= 1
    assert isinstance(data["bf16"], bool)
    assert set(data["extras"]) == {
        "models",
        "builtin",
        "serve",
        "mcp",
        "remote",
        "clip",
        "parquet",
        "eval",
    }
    assert data["extras"]["eval"] == []


def test_text_form(genmm):
    code, out, _ = genmm("doctor")
    assert code == 0
    assert genmm_retriever.__version__ in out
    assert "extra builtin" in out


def test_missing_packages_are_found_through_nested_extras(monkeypatch):
    lines = [
        "numpy>=1",
        'surely-absent-one>=2; extra == "inner"',
        'genmm-retriever[inner]; extra == "outer"',
        "surely_absent_two; (python_version < '4') and extra == 'outer'",
        'numpy; extra == "outer"',
        'surely-absent-three; extra == "other"',
    ]
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: lines)
    assert doctor.missing_packages("inner") == ["surely-absent-one"]
    assert doctor.missing_packages("outer") == ["surely-absent-one", "surely_absent_two"]
    assert doctor.missing_packages("nonsense") == []


@pytest.mark.parametrize("installed", [[], ["torch"]])
def test_render_names_what_is_missing(installed):
    found = doctor.examine() | {"extras": {"models": installed}}
    text = doctor.render(found)
    assert ("missing torch" in text) == bool(installed)
