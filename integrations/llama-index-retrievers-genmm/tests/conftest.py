from __future__ import annotations

from pathlib import Path

import pytest

from genmm_retriever.schema import Item
from keyword_core import KeywordCore, draw_pictures
from llama_index.retrievers.genmm import GenerativeMMRetriever


@pytest.fixture
def items(tmp_path: Path) -> list[Item]:
    return draw_pictures(tmp_path)


@pytest.fixture
def core(items: list[Item]) -> KeywordCore:
    return KeywordCore(items)


@pytest.fixture
def retriever(core: KeywordCore) -> GenerativeMMRetriever:
    return GenerativeMMRetriever(core, similarity_top_k=3)


@pytest.fixture
def cat(items: list[Item]) -> str:
    return next(str(item.image) for item in items if item.id == "cat.jpg")
