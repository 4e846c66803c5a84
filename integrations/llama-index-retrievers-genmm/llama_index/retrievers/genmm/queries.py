"""LlamaIndex query bundles as queries of the core."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from dataclasses_json import config
from llama_index.core.schema import QueryBundle
from typing_extensions import Self

from genmm_retriever.checks import as_query
from genmm_retriever.errors import QueryError
from genmm_retriever.schema import Kind, Query
from llama_index.retrievers.genmm.filters import Conditions

# What `RetrieverTool` puts around the argument of a call by keyword.
_TOOL_PREFIX = "\ninput is "


def _recorded(query: Query | None) -> dict[str, Any] | None:
    """A query for JSON; a picture given as bytes is left out, as everywhere in records."""
    if query is None:
        return None
    if isinstance(query.image, bytes):
        query = query.model_copy(update={"image": None})
    return query.model_dump(mode="json")


def _read(record: dict[str, Any] | None) -> Query | None:
    """What `_recorded` gave; None where a picture in bytes was all that there was."""
    if record is None or not (record["text"] or record["image"]):
        return None
    return Query.model_validate(record)


@dataclass
class GenmmQueryBundle(QueryBundle):
    """A query bundle with a whole query of the core: its filters, ids, kind and context too.

    `GenerativeMMRetriever`, `GenmmRerank` and the grounded answers take the query; whatever else
    gets the bundle sees `query_str` and `image_path`.

    Args:
        query: The query. None makes this a plain bundle.

    Examples:
        >>> bundle = GenmmQueryBundle.from_query(Query(text="a dog", filters={"year": 2013}))
        >>> bundle.query_str, bundle.query.filters
        ('a dog', {'year': 2013})
    """

    query: Query | None = field(default=None, metadata=config(encoder=_recorded, decoder=_read))

    @classmethod
    def from_query(cls, query: Query) -> Self:
        """A bundle of a core query; its words and its context are what others see."""
        words = [part for part in (query.text, query.context) if part]
        image = query.image if isinstance(query.image, str) else None
        return cls(query_str=", ".join(words), image_path=image, query=query)


def to_query(bundle: QueryBundle, kind: Kind | None, conditions: Conditions) -> Query:
    r"""A query of words, of a picture, or of both (composed).

    Args:
        bundle: Its `query_str` and `image_path` are used, or the whole query of a
            `GenmmQueryBundle`.
        kind: What to look for where the query does not say, or None for everything.
        conditions: Metadata conditions, see `to_conditions`. Those of a whole query are added;
            of two on the same key, the query's holds.

    Returns:
        The query, its words stripped of what `RetrieverTool` puts around them.

    Raises:
        QueryError: If there are neither words nor a picture.

    Examples:
        >>> to_query(QueryBundle("cats\n\n"), None, {}).text
        'cats'
    """
    made = bundle.query if isinstance(bundle, GenmmQueryBundle) else None
    if made is not None:
        update = {"filters": {**conditions, **made.filters}, "kind": made.kind or kind}
        return made.model_copy(update=update)
    text = _words(bundle)
    if not text and not bundle.image_path:
        raise QueryError("the query is empty", "give words, a picture (image_path), or both")
    return as_query(text or None, image=bundle.image_path or None, filters=conditions, kind=kind)


def words_alone(bundle: QueryBundle, kind: Kind, conditions: Conditions) -> Query:
    """As `to_query` without the picture, for what is of one kind."""
    made = bundle.query if isinstance(bundle, GenmmQueryBundle) else None
    text = _words(bundle) if made is None else (made.text or "").strip()
    if not text:
        raise QueryError("the query is empty", "give words")
    if made is None:
        return as_query(text, filters=conditions, kind=kind)
    return to_query(bundle, kind, conditions).model_copy(update={"image": None, "kind": kind})


def _words(bundle: QueryBundle) -> str:
    text = bundle.query_str or ""
    if text.endswith("\n"):
        text = text.removeprefix(_TOOL_PREFIX)
    return text.strip()
