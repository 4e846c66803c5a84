"""What all query adapters are: a query in, a query out, and an account of what it cost."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from genmm_retriever.checks import as_queries
from genmm_retriever.errors import InputError
from genmm_retriever.models.base import Generator
from genmm_retriever.schema import Query, QueryStep


@dataclass(frozen=True)
class Draft:
    """What an adapter would make of a query.

    Attributes:
        query: The new query, or None to leave it as it is.
        note: Why it is left, or anything worth knowing.
        tokens: Written for it; None if the engine does not say.
        seconds: Spent on it.
    """

    query: Query | None
    note: str | None = None
    tokens: int | None = 0
    seconds: float = 0.0


def check_model(model: object) -> None:
    """Refuse a name where a model is needed.

    Raises:
        InputError: If it is one.
    """
    if isinstance(model, str):
        raise InputError(
            f"the model is {model!r}, a name",
            "load it: genmm_retriever.models.loading.load_generator(name)",
        )


def with_context(own: str | None, more: str | None) -> str | None:
    """What guides a query already, and what an adapter adds to it.

    Examples:
        >>> with_context("at night", "a dog in the snow")
        'at night, a dog in the snow'
    """
    return ", ".join(part for part in (own, more) if part) or None


class QueryAdapter(ABC):
    """Changes queries before they are asked; usable alone, and off unless it is used.

    Subclasses say which queries they apply to and draft the new ones. Whatever fails leaves the
    query as it was, with the reason in its `steps`: an adapter never loses a query.

    Args:
        model: Writes; a local model or a remote engine. A model that a retriever computes with
            at the same time is shared by `querying.AdaptedRetriever`.
    """

    name: ClassVar[str]

    def __init__(self, model: Generator) -> None:
        check_model(model)
        self.model = model

    def adapt(self, query: str | Query) -> Query:
        """The query as it should be asked.

        Raises:
            QueryError: If the query is empty.
            ImageError: If its picture is needed and cannot be opened.
        """
        return self.adapt_all([query])[0]

    def adapt_all(self, queries: Sequence[str | Query]) -> list[Query]:
        """As `adapt`, for several queries in one batch."""
        asked = as_queries(queries)
        places = [place for place, query in enumerate(asked) if self.applies(query)]
        if places:
            drafts = self.drafts([asked[place] for place in places])
            for place, draft in zip(places, drafts, strict=True):
                asked[place] = self._taken(asked[place], draft)
        return asked

    @abstractmethod
    def applies(self, query: Query) -> bool:
        """Whether there is anything to do for a query; it costs nothing if not."""

    @abstractmethod
    def drafts(self, queries: Sequence[Query]) -> list[Draft]:
        """A draft for each query that `applies`."""

    def _taken(self, query: Query, draft: Draft) -> Query:
        new = draft.query or query
        step = QueryStep(
            adapter=self.name,
            text=searched_for(new),
            changed=draft.query is not None and draft.query != query,
            note=draft.note,
            tokens=draft.tokens,
            seconds=draft.seconds,
        )
        earlier = query.rewritings
        if new.text != query.text and query.text:
            earlier = (*earlier, query.text)
        return new.model_copy(update={"rewritings": earlier, "steps": (*query.steps, step)})


def searched_for(query: Query) -> str:
    """A query's words with its context, in words to be shown.

    Examples:
        >>> searched_for(Query(text="a dog", context="in snow"))
        'a dog [in snow]'
    """
    context = f"[{query.context}]" if query.context else ""
    return " ".join(part for part in (query.text or "", context) if part)
