"""LangChain's own tests of retrievers, unmodified, over the keyword core."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from langchain_tests.integration_tests import RetrieversIntegrationTests

from keyword_core import KeywordCore, draw_pictures
from langchain_genmm import GenerativeMMRetriever


class TestStandard(RetrieversIntegrationTests):
    @pytest.fixture(autouse=True)
    def _pictures(self, tmp_path: Path) -> None:
        self.core = KeywordCore(draw_pictures(tmp_path))

    @property
    def retriever_constructor(self) -> type[GenerativeMMRetriever]:
        return GenerativeMMRetriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {"core": self.core}

    @property
    def retriever_query_example(self) -> str:
        return "a cup of coffee"
