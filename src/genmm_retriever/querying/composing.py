"""A picture and a change to it, made into words for the picture that is looked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from genmm_retriever.describing import clean_caption
from genmm_retriever.describing.prompts import describe_prompt
from genmm_retriever.describing.prompts.queries import (
    imagine_prompt,
    keep_and_change_prompt,
    target_prompt,
)
from genmm_retriever.models.base import Generator, ImagePart
from genmm_retriever.querying.adapters import Draft, QueryAdapter, with_context
from genmm_retriever.querying.forms import KeepAndChange, Target
from genmm_retriever.querying.guard import share_kept
from genmm_retriever.querying.writing import ask_for, is_builtin, looked_at, write_freely
from genmm_retriever.schema import Query

MAX_WORDS = 30
_SAMPLES = 6


class ComposedQueryAdapter(QueryAdapter):
    """A picture with a change becomes the description of the target, by two hops.

    First what of the picture stays and what changes, then the target in words (the two hops of
    PTHA, arXiv 2504.05316, taken with words instead of features). The builtin model describes
    the picture, and imagines a caption that goes on with the change. The description guides
    what is written; picture and change stay in the query, for what is found is held against
    both.

    Args:
        model: Looks and writes.
        seed: Of samples and further attempts.
    """

    name: ClassVar[str] = "compose"

    def __init__(self, model: Generator, *, seed: int = 0) -> None:
        super().__init__(model)
        self.seed = seed

    def applies(self, query: Query) -> bool:
        """Whether it is a picture with words."""
        return query.is_composed

    def drafts(self, queries: Sequence[Query]) -> list[Draft]:
        """A target description for each query, or why there is none."""
        images = [image for query in queries if (image := looked_at(self.model, query)) is not None]
        if is_builtin(self.model):
            return self._imagined(queries, images)
        prompts = [
            keep_and_change_prompt(query.text or "", image)
            for query, image in zip(queries, images, strict=True)
        ]
        hops = ask_for(self.model, prompts, KeepAndChange, seed=self.seed)
        plans = [hop.value or KeepAndChange(keep=[], change=[]) for hop in hops]
        second = [
            target_prompt(plan.keep, plan.change or [query.text or ""])
            for query, plan in zip(queries, plans, strict=True)
        ]
        targets = ask_for(self.model, second, Target, seed=self.seed)
        drafts = []
        for query, hop, one in zip(queries, hops, targets, strict=True):
            text = "" if one.value is None else clean_caption(one.value.target, max_words=MAX_WORDS)
            tokens = None if hop.tokens is None or one.tokens is None else hop.tokens + one.tokens
            note = _noted(hop.value) if text else one.problem or "nothing was written"
            new = _with(query, text) if text else None
            drafts.append(Draft(new, note, tokens, hop.seconds + one.seconds))
        return drafts

    def _imagined(self, queries: Sequence[Query], images: Sequence[ImagePart]) -> list[Draft]:
        prompts = [describe_prompt(image, self.model) for image in images]
        shown = write_freely(self.model, prompts, number=1, max_words=MAX_WORDS)
        captions = [one.texts[0] if one.texts else "" for one in shown]
        second = [
            imagine_prompt(*(part for part in (caption, query.text) if part))
            for query, caption in zip(queries, captions, strict=True)
        ]
        found = write_freely(
            self.model, second, number=_SAMPLES, max_words=MAX_WORDS, seed=self.seed
        )
        drafts = []
        for query, caption, first, one in zip(queries, captions, shown, found, strict=True):
            change = query.text or ""
            text = max(
                one.texts,
                key=lambda text: share_kept(change, text) + 0.5 * share_kept(caption, text),
                default="",
            )
            seconds = first.seconds + one.seconds
            tokens = (first.tokens or 0) + (one.tokens or 0)
            new = _with(query, text) if text else None
            drafts.append(Draft(new, f"the picture shows: {caption}", tokens, seconds))
        return drafts


def _with(query: Query, target: str) -> Query:
    return query.model_copy(update={"context": with_context(query.context, target)})


def _noted(plan: KeepAndChange | None) -> str | None:
    if plan is None:
        return "what stays and what changes could not be told apart"
    return f"keep: {', '.join(plan.keep)}; change: {', '.join(plan.change)}"
