"""Wordy requests cut to what must be true of what is looked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from genmm_retriever.describing import clean_caption
from genmm_retriever.describing.prompts.queries import rewrite_prompt
from genmm_retriever.errors import InputError
from genmm_retriever.models.base import Generator
from genmm_retriever.querying.adapters import Draft, QueryAdapter
from genmm_retriever.querying.clauses import describing_clauses
from genmm_retriever.querying.forms import Constraints
from genmm_retriever.querying.guard import LEAST_KEPT, dropped_words, share_kept, telling_words
from genmm_retriever.querying.writing import Said, ask_for, is_builtin
from genmm_retriever.schema import Query

LEAST_MOST = 20
"""Words that a rewriting may have in any case."""


class QueryRewriter(QueryAdapter):
    """A verbose request becomes short constraints (as in arXiv 2602.07125).

    Short queries, and those with a picture, are left alone. A rewriting that drops more than 40
    percent of the query's telling words is not taken. The builtin model writes nothing: it drops
    courtesy and the words of asking, and small talk beside a clause that describes; the rest
    stays word by word. What it leaves out may be most of the words, and is told.

    Args:
        model: Writes.
        min_words: Queries of fewer words are left alone.
        least_kept: Share of the telling words that a rewriting must keep, 0 to 1. None for 0.6
            of a written one and no bound on what the builtin model picks.
        seed: Of further attempts where a form could not be filled.

    Raises:
        InputError: If the share is none, or a name is given for the model.

    Examples:
        >>> rewriter = QueryRewriter(model)  # doctest: +SKIP
        >>> rewriter.adapt("Hi! I am looking for a photo of two ...").text  # doctest: +SKIP
        'two dogs'
    """

    name: ClassVar[str] = "rewrite"

    def __init__(
        self,
        model: Generator,
        *,
        min_words: int = 12,
        least_kept: float | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(model)
        if least_kept is not None and not 0 <= least_kept <= 1:
            raise InputError(f"least_kept is {least_kept!r}", "give a share, 0 to 1")
        self.min_words, self.least_kept, self.seed = min_words, least_kept, seed

    def applies(self, query: Query) -> bool:
        """Whether it is words alone, and many."""
        return query.image is None and len((query.text or "").split()) >= self.min_words

    def drafts(self, queries: Sequence[Query]) -> list[Draft]:
        """Constraints for each query, or why there are none."""
        if is_builtin(self.model):
            return self._picked(queries)
        texts = [query.text or "" for query in queries]
        prompts = [rewrite_prompt(text, _most(text)) for text in texts]
        said = ask_for(self.model, prompts, Constraints, seed=self.seed)
        return [self._draft(query, one) for query, one in zip(queries, said, strict=True)]

    def _picked(self, queries: Sequence[Query]) -> list[Draft]:
        """What describes in each query."""
        drafts = []
        texts = [query.text or "" for query in queries]
        for query, one in zip(queries, describing_clauses(self.model, texts), strict=True):
            if one.text == query.text:
                drafts.append(Draft(None, "nothing to leave out", 0, one.seconds))
                continue
            fault = self._fault(query.text or "", one.text, self.least_kept or 0.0)
            new = query.model_copy(update={"text": one.text}) if fault is None else None
            left = f"left out: {'; '.join(one.left_out)}" if one.left_out else None
            drafts.append(Draft(new, fault or left, 0, one.seconds))
        return drafts

    def _draft(self, query: Query, said: Said[Constraints]) -> Draft:
        text = query.text or ""
        written = "" if said.value is None else said.value.constraints
        best = clean_caption(written, max_words=_most(text) + 4)
        if not best:
            return Draft(None, said.problem or "nothing was written", said.tokens, said.seconds)
        least = LEAST_KEPT if self.least_kept is None else self.least_kept
        fault = self._fault(text, best, least)
        new = query.model_copy(update={"text": best}) if fault is None else None
        return Draft(new, fault, said.tokens, said.seconds)

    @staticmethod
    def _fault(text: str, rewritten: str, least: float) -> str | None:
        """Why a rewriting is not taken."""
        if share_kept(text, rewritten) >= least:
            return None
        return (
            f"the rewriting {rewritten!r} dropped {', '.join(dropped_words(text, rewritten)[:5])}"
        )


def _most(text: str) -> int:
    """Words of a rewriting, at most: long requests may have many conditions."""
    return max(LEAST_MOST, len(dict.fromkeys(telling_words(text))))
