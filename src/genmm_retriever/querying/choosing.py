"""Query adapters by name, as commands and services take them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from genmm_retriever.checks import ADAPTERS, check_adapters, read_adapter
from genmm_retriever.errors import InputError
from genmm_retriever.models.base import MLLM, Generator
from genmm_retriever.querying.adapters import QueryAdapter, check_model
from genmm_retriever.querying.composing import ComposedQueryAdapter
from genmm_retriever.querying.computing import Searcher
from genmm_retriever.querying.consistency import ConsistentRetriever
from genmm_retriever.querying.expanding import QueryExpander
from genmm_retriever.querying.reasoning import ReasoningRetriever
from genmm_retriever.querying.resolving import ReferenceResolver
from genmm_retriever.querying.rewriting import QueryRewriter
from genmm_retriever.querying.searching import AdaptedRetriever

_ADAPTERS: dict[str, Callable[[Generator], QueryAdapter]] = {
    "resolve": ReferenceResolver,
    "rewrite": QueryRewriter,
    "compose": ComposedQueryAdapter,
}
__all__ = ["ADAPTERS", "adapted", "check_adapters"]


def adapted(retriever: Searcher, names: Sequence[str], model: Generator | None = None) -> Searcher:
    """A retriever with the named adapters in front of it.

    Whatever order they are named in, references are resolved first, then requests rewritten,
    pictures and changes composed, the query expanded, and the rounds of reasoning run; the way
    back from what they found is checked last.

    Args:
        retriever: Whom to ask.
        names: Of `ADAPTERS`; `"expand:5"` is five expansions instead of three, `"reason:2"` at
            most two rounds instead of three. None: the retriever itself comes back.
        model: Who rewrites and reasons; None for the retriever's own model, which also checks
            the way back where this one gives no log-probabilities.

    Raises:
        InputError: If there is no such adapter, its number is out of range, or one is named twice.
    """
    if isinstance(names, str):
        raise InputError(f"the adapters are {names!r}", f"give a list of names: [{names!r}]")
    check_model(model)
    check_adapters(names)
    chosen = dict(map(read_adapter, names))
    if not chosen:
        return retriever
    writer = model or retriever.model
    if "reason" in chosen:
        retriever = ReasoningRetriever(retriever, model, rounds=chosen["reason"])
    adapters = [make(writer) for name, make in _ADAPTERS.items() if name in chosen]
    expander = QueryExpander(writer, number=chosen["expand"]) if "expand" in chosen else None
    if adapters or expander is not None:
        retriever = AdaptedRetriever(retriever, adapters, expander=expander)
    if "consistency" in chosen:
        retriever = ConsistentRetriever(retriever, model if isinstance(model, MLLM) else None)
    return retriever
