"""Whatever the OpenAPI schema allows, and what it does not: never a 5xx."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress

import pytest

schemathesis = pytest.importorskip("schemathesis")

from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis.errors import Unsatisfiable  # noqa: E402
from pydantic import BaseModel  # noqa: E402
from schemathesis import GenerationMode  # noqa: E402
from schemathesis.checks import not_a_server_error  # noqa: E402
from schemathesis.specs.openapi.checks import (  # noqa: E402
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from genmm_retriever import GenerativeMMRetriever  # noqa: E402

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
EXAMPLES = settings(
    max_examples=10,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


class Told(BaseModel):
    text: str | None


@pytest.fixture
def described(listening, own, token, monkeypatch):
    """The schema of a service that may be changed."""
    if not hasattr(GenerativeMMRetriever, "explain_written"):
        told = lambda self, query, *, k: Told(text=query.text)  # noqa: E731
        monkeypatch.setattr(GenerativeMMRetriever, "explain_written", told, raising=False)
    return schemathesis.openapi.from_url(listening(own, token=token) + "/openapi.json")


@pytest.mark.filterwarnings("default")
def test_no_request_breaks_it(described, bearer):
    asked = Counter()
    for found in described.get_all_operations():
        operation = found.ok()
        for mode in GenerationMode:

            @EXAMPLES
            @given(case=operation.as_strategy(generation_mode=mode))
            def ask(case):
                asked[case.operation.label] += 1
                case.call_and_validate(headers=bearer, checks=CHECKS)

            # An operation without parameters cannot be asked wrongly.
            with suppress(Unsatisfiable):
                ask()
    assert len(asked) == 15
    assert min(asked.values()) >= 1, asked
    assert asked["POST /api/search"] >= 20
    assert asked["POST /api/ask"] >= 20
