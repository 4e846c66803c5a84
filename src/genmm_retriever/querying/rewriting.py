"""Wordy requests cut to what must be true of what is looked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from genmm_retriever.describing import clean_caption
from genmm_retriever.describing.prompts.queries import rewrite_prompt
from genmm_retriever.models.base import Generator, Prompt
from genmm_retriever.querying.adapters import Draft, QueryAdapter
from genmm_retriever.querying.clauses import describing_clauses
from genmm_retriever.querying.forms import Constraints
from genmm_retriever.querying.guard import (
    LEAST_KEPT,
    dropped_words,
    new_words,
    share_kept,
    telling_words,
)
from genmm_retriever.querying.writing import ask_for, is_builtin, write_freely
from genmm_retriever.schema import Query

MAX_WORDS = 24
_SAMPLES = 6
_NEW_WORD = 0.5
"""What a share of new words weighs against a share of words kept."""


class QueryRewriter(QueryAdapter):
    """A verbose request becomes short constraints (as in arXiv 2602.07125).

    Short queries, and those with a picture, are left alone. A rewriting that drops more than 40
    percent of the query's telling words is not taken. The builtin model keeps the clauses that
    describe, word by word; of a single clause it writes captions of fitting pictures, of which
    that is taken which keeps the most and adds the least.

    Args:
        model: Writes.
        min_words: Queries of fewer words are left alone.
        least_kept: Share of the telling words that a rewriting must keep, 0 to 1.
        seed: Of the builtin model's samples.

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
        least_kept: float = LEAST_KEPT,
        seed: int = 0,
    ) -> None:
        super().__init__(model)
        self.min_words, self.least_kept, self.seed = min_words, least_kept, seed

    def applies(self, query: Query) -> bool:
        """Whether it is words alone, and many."""
        return query.image is None and len((query.text or "").split()) >= self.min_words

    def drafts(self, queries: Sequence[Query]) -> list[Draft]:
        """Constraints for each query, or why there are none."""
        texts = [query.text or "" for query in queries]
        prompts = [rewrite_prompt(text, self.model) for text in texts]
        if is_builtin(self.model):
            return self._picked_or_imagined(queries, prompts)
        said = ask_for(self.model, prompts, Constraints, seed=self.seed)
        return [
            self._draft(
                query,
                [] if one.value is None else [one.value.constraints],
                one.tokens,
                one.seconds,
                one.problem,
            )
            for query, one in zip(queries, said, strict=True)
        ]

    def _picked_or_imagined(
        self, queries: Sequence[Query], prompts: Sequence[Prompt]
    ) -> list[Draft]:
        """The describing clauses of a query; the truest of sampled captions if it has but one."""
        drafts: list[Draft | None] = []
        for query, one in zip(
            queries,
            describing_clauses(self.model, [query.text or "" for query in queries]),
            strict=True,
        ):
            if one is None:
                drafts.append(None)
                continue
            new = query.model_copy(update={"text": one.text}) if one.left_out else None
            note = f"left out: {'; '.join(one.left_out)}" if one.left_out else "all of it describes"
            drafts.append(Draft(new, note, 0, one.seconds))
        rest = [place for place, draft in enumerate(drafts) if draft is None]
        if rest:
            written = write_freely(
                self.model,
                [prompts[place] for place in rest],
                number=_SAMPLES,
                max_words=MAX_WORDS,
                seed=self.seed,
            )
            for place, said in zip(rest, written, strict=True):
                drafts[place] = self._draft(
                    queries[place], said.texts, said.tokens, said.seconds, None
                )
        return [draft for draft in drafts if draft is not None]

    def _draft(
        self,
        query: Query,
        written: Sequence[str],
        tokens: int | None,
        seconds: float,
        problem: str | None,
    ) -> Draft:
        text = query.text or ""
        texts = [clean_caption(one, max_words=MAX_WORDS) for one in written]
        texts = [one for one in texts if one]
        if not texts:
            return Draft(None, problem or "nothing was written", tokens, seconds)
        best = max(texts, key=lambda one: _worth(text, one))
        if share_kept(text, best) < self.least_kept:
            lost = ", ".join(dropped_words(text, best)[:5])
            return Draft(None, f"the rewriting {best!r} dropped {lost}", tokens, seconds)
        return Draft(query.model_copy(update={"text": best}), None, tokens, seconds)


def _worth(original: str, rewritten: str) -> float:
    added = len(new_words(original, rewritten)) / max(1, len(telling_words(rewritten)))
    return share_kept(original, rewritten) - _NEW_WORD * added
