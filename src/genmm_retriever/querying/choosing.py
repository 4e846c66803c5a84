"""Query adapters by name, as commands and services take them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from genmm_retriever.errors import InputError
from genmm_retriever.models.base import Generator
from genmm_retriever.querying.adapters import QueryAdapter
from genmm_retriever.querying.composing import ComposedQueryAdapter
from genmm_retriever.querying.expanding import QueryExpander
from genmm_retriever.querying.reasoning import ReasoningRetriever
from genmm_retriever.querying.resolving import ReferenceResolver
from genmm_retriever.querying.rewriting import QueryRewriter
from genmm_retriever.querying.searching import AdaptedRetriever, Searcher

_ADAPTERS: dict[str, Callable[[Generator], QueryAdapter]] = {
    "resolve": ReferenceResolver,
    "rewrite": QueryRewriter,
    "compose": ComposedQueryAdapter,
}
_LOOPS = {"expand": 3, "reason": 3}
ADAPTERS = (*_ADAPTERS, *_LOOPS)
"""Names of what can be done to a query, in the order in which it is done."""


def adapted(retriever: Searcher, names: Sequence[str], model: Generator | None = None) -> Searcher:
    """A retriever with the named adapters in front of it.

    Whatever order they are named in, references are resolved first, then requests rewritten,
    pictures and changes composed, the query expanded, and the rounds of reasoning run.

    Args:
        retriever: Whom to ask.
        names: Of `ADAPTERS`; `"expand:5"` is five expansions instead of three, `"reason:2"` at
            most two rounds instead of three. None: the retriever itself comes back.
        model: Who rewrites and reasons; None for the retriever's own model.

    Raises:
        InputError: If there is no such adapter, or its number is out of range.
    """
    chosen = dict(map(_read, names))
    if not chosen:
        return retriever
    writer = model or retriever.model
    if "reason" in chosen:
        retriever = ReasoningRetriever(retriever, model, rounds=chosen["reason"])
    adapters = [make(writer) for name, make in _ADAPTERS.items() if name in chosen]
    expander = QueryExpander(writer, number=chosen["expand"]) if "expand" in chosen else None
    if not adapters and expander is None:
        return retriever
    return AdaptedRetriever(retriever, adapters, expander=expander)


def check_adapters(names: Sequence[str]) -> None:
    """Refuse names that are none, before a model is loaded.

    Raises:
        InputError: As `adapted`.

    Examples:
        >>> check_adapters(["rewrite", "expand:5"])
    """
    for name in names:
        _read(name)


def _read(name: str) -> tuple[str, int]:
    kind, colon, number = name.partition(":")
    if kind not in ADAPTERS:
        raise InputError(f"there is no query adapter {kind!r}", f"one of {', '.join(ADAPTERS)}")
    if not colon:
        return kind, _LOOPS.get(kind, 0)
    if kind not in _LOOPS or not number.isdigit() or not 1 <= int(number) <= 8:
        hint = "write for example expand:3 or reason:2; 8 at most"
        raise InputError(f"{name!r} is no query adapter", hint)
    return kind, int(number)
