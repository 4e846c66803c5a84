"""Generative multimodal retrieval: ask, and a language model writes the name of what you mean.

Public names are imported on first use, so that `import genmm_retriever` costs milliseconds and
pulls in no deep-learning library.

Examples:
    >>> from genmm_retriever import Item, Query
    >>> Query(text="a dog that catches a frisbee", kind="image").kind
    'image'
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from genmm_retriever.errors import GenmmError, InputError
    from genmm_retriever.reranking import GenerativeMMReranker
    from genmm_retriever.retriever import GenerativeMMRetriever
    from genmm_retriever.schema import Evidence, Hit, Item, Query

__all__ = [
    "Evidence",
    "GenerativeMMReranker",
    "GenerativeMMRetriever",
    "GenmmError",
    "Hit",
    "InputError",
    "Item",
    "Query",
    "__version__",
]

_HOME = {
    "Evidence": "schema",
    "GenerativeMMReranker": "reranking",
    "GenerativeMMRetriever": "retriever",
    "GenmmError": "errors",
    "Hit": "schema",
    "InputError": "errors",
    "Item": "schema",
    "Query": "schema",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its room the first time somebody asks for it."""
    try:
        home = _HOME[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names, whether imported yet or not."""
    return sorted({*globals(), *__all__})
