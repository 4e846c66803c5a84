from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

from genmm_retriever.corpus.store import staging
from genmm_retriever.corpus.store.database import connect_work


@pytest.fixture(scope="session")
def builder():
    """The module `builder.py`, which is also run as a process."""
    path = Path(__file__).with_name("builder.py")
    spec = importlib.util.spec_from_file_location("store_builder", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.__file__ = str(path)
    return module


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch):
    """No test here pulls the plug; those that kill run another process, without this."""

    def connect_fast(path):
        connection = connect_work(path)
        connection.execute("PRAGMA synchronous=OFF")
        return connection

    monkeypatch.setattr(os, "fsync", lambda handle: None)
    monkeypatch.setattr(staging, "connect_work", connect_fast)


@pytest.fixture
def index(tmp_path, builder):
    """A finished index of 24 items in one generation."""
    folder = tmp_path / "index"
    builder.build(folder)
    return folder
