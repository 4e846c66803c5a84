"""LlamaIndex query bundles as queries of the core."""

from __future__ import annotations

from llama_index.core.schema import QueryBundle

from genmm_retriever.errors import QueryError
from genmm_retriever.schema import Kind, Query
from llama_index.retrievers.genmm.filters import Conditions

# What `RetrieverTool` puts around the argument of a call by keyword.
_TOOL_PREFIX = "\ninput is "


def to_query(bundle: QueryBundle, kind: Kind | None, conditions: Conditions) -> Query:
    r"""A query of words, of a picture, or of both (composed).

    Args:
        bundle: Its `query_str` and `image_path` are used, or the whole query that
            `GenmmQueryTransform` made.
        kind: What to look for, or None for everything.
        conditions: Metadata conditions, see `to_conditions`.

    Returns:
        The query, its words stripped of what `RetrieverTool` puts around them.

    Raises:
        QueryError: If there are neither words nor a picture.

    Examples:
        >>> to_query(QueryBundle("cats\n\n"), None, {}).text
        'cats'
    """
    made = getattr(bundle, "query", None)
    if isinstance(made, Query):
        update = {"filters": {**conditions, **made.filters}, "kind": made.kind or kind}
        return made.model_copy(update=update)
    text = bundle.query_str or ""
    if text.endswith("\n"):
        text = text.removeprefix(_TOOL_PREFIX)
    text = text.strip()
    if not text and not bundle.image_path:
        raise QueryError("the query is empty", "give words, a picture (image_path), or both")
    return Query(text=text or None, image=bundle.image_path or None, filters=conditions, kind=kind)
