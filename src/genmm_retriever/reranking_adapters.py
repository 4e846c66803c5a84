"""What the frameworks' adapters of the reranker have in common."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Protocol, runtime_checkable

from genmm_retriever.errors import InputError
from genmm_retriever.schema import Hit, Query


@runtime_checkable
class RerankerCore(Protocol):
    """What an adapter needs of `genmm_retriever.GenerativeMMReranker`."""

    def rerank(self, query: str | Query, candidates: Sequence[Any], **options: Any) -> list[Hit]:
        """Hits, best first."""
        ...

    async def arerank(
        self, query: str | Query, candidates: Sequence[Any], **options: Any
    ) -> list[Hit]:
        """As `rerank`, without blocking the event loop."""
        ...


def reranker_core(
    reranker: object | None, model: str, *, said: Collection[str] = (), **options: Any
) -> RerankerCore:
    """The reranker that was given, or a new one.

    Args:
        reranker: One to share, or None.
        model: Name of a new one's model.
        said: Names of what the caller set, of which none may be an option of a new one where
            one is given: it would be ignored.
        **options: Further options of a new `GenerativeMMReranker`.

    Raises:
        InputError: If what was given is none, comes with options of its own, or an option is
            out of range.
    """
    if reranker is None:
        from genmm_retriever.reranking import GenerativeMMReranker

        made: Any = GenerativeMMReranker(model, **options)
        return made  # type: ignore[no-any-return]
    if not isinstance(reranker, RerankerCore):
        raise InputError(f"reranker is a {type(reranker).__name__}", "give a GenerativeMMReranker")
    ignored = [name for name in ("model", *options) if name in said]
    if ignored:
        raise InputError(
            f"{' and '.join(ignored)} cannot be given beside reranker=",
            f"give it to the reranker: GenerativeMMReranker({ignored[0]}=...)",
        )
    return reranker


def places_of(hits: Sequence[Hit], count: int) -> list[tuple[int, float]]:
    """Places and scores, best first, of `count` candidates whose ids were their places.

    Those that were not candidates, since they show nothing, come last with a score of 0.
    """
    found = [(int(hit.item.id), hit.score) for hit in hits]
    known = {place for place, _ in found}
    return [*found, *((place, 0.0) for place in range(count) if place not in known)]
