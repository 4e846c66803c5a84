"""The two things that a reasoning model is asked for: what is sought, and what went wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from genmm_retriever.describing import clean_caption
from genmm_retriever.describing.prompts.queries import (
    imagine_prompt,
    reason_prompt,
    reflect_prompt,
)
from genmm_retriever.models.base import Generator
from genmm_retriever.querying.forms import MAX_CONTEXT_WORDS, Reasoning, Reflection
from genmm_retriever.querying.guard import share_kept
from genmm_retriever.querying.writing import Said, ask_for, is_builtin, looked_at, write_freely
from genmm_retriever.schema import Hit, Query

_SAMPLES = 4
_LOOKED_BACK = 2
"""Hits whose words the builtin model goes on from."""


@dataclass(frozen=True)
class Thought:
    """What a model thinks before a search.

    Attributes:
        context: What guides the search, at most 24 words; empty to keep the one before.
        note: Intent and conditions, or what was wrong with what came back, or why the model
            had nothing to say.
        tokens: Written, or None if the engine does not say.
        seconds: Spent.
        ok: Whether what came back is right, so that no further search is needed.
        failed: Whether the model could not be asked: it is not asked again.
    """

    context: str
    note: str | None
    tokens: int | None
    seconds: float
    ok: bool = False
    failed: bool = False


class Reasoner:
    """Asks a model to reason, in JSON; the builtin one writes captions that it imagines.

    The builtin model cannot judge what came back: it imagines again, beginning from the words
    of the best hits, which is relevance feedback rather than reasoning.

    Args:
        model: Writes.
        seed: Of samples and further attempts.
    """

    def __init__(self, model: Generator, *, seed: int = 0) -> None:
        self.model, self.seed = model, seed

    def think(self, queries: Sequence[Query]) -> list[Thought]:
        """What each query looks for."""
        if is_builtin(self.model):
            return self._imagined(queries, [[] for _ in queries])
        prompts = [reason_prompt(q.text or "", looked_at(self.model, q)) for q in queries]
        thoughts = []
        for said in ask_for(self.model, prompts, Reasoning, seed=self.seed):
            if said.value is None:
                thoughts.append(_none(said))
                continue
            context = _bounded(said.value.context)
            thoughts.append(Thought(context, _noted(said.value), said.tokens, said.seconds))
        return thoughts

    def reflect(
        self,
        queries: Sequence[Query],
        contexts: Sequence[str],
        found: Sequence[Sequence[Hit]],
    ) -> list[Thought]:
        """What came back for each query, judged.

        Args:
            queries: Q of them.
            contexts: What each search was guided by.
            found: What it found, the best first.
        """
        if is_builtin(self.model):
            seen = [[words_of(hit) for hit in hits[:_LOOKED_BACK]] for hits in found]
            return self._imagined(queries, seen)
        prompts = [
            reflect_prompt(
                query.text or "",
                looked_at(self.model, query),
                context,
                [_shown(hit) for hit in hits],
            )
            for query, context, hits in zip(queries, contexts, found, strict=True)
        ]
        judged = []
        for said in ask_for(self.model, prompts, Reflection, seed=self.seed):
            if said.value is None:
                judged.append(_none(said))
                continue
            ok, why = said.value.ok, clean_caption(said.value.wrong_because) or None
            context = "" if ok else _bounded(said.value.context)
            judged.append(Thought(context, why, said.tokens, said.seconds, ok))
        return judged

    def _imagined(self, queries: Sequence[Query], seen: Sequence[Sequence[str]]) -> list[Thought]:
        """Captions that keep the most of each query, among samples; empty for a picture alone."""
        prompts = [
            imagine_prompt(*([query.text] if query.text else []), *words)
            for query, words in zip(queries, seen, strict=True)
        ]
        written = write_freely(
            self.model, prompts, number=_SAMPLES, max_words=MAX_CONTEXT_WORDS, seed=self.seed
        )
        return [
            Thought(_best(query.text or "", one.texts), None, one.tokens, one.seconds)
            for query, one in zip(queries, written, strict=True)
        ]


def words_of(hit: Hit) -> str:
    """The words that an item is known by.

    Examples:
        >>> from genmm_retriever.schema import Item
        >>> words_of(Hit(item=Item(id="1", text="A dog."), score=1, rank=1))
        'A dog.'
    """
    return titled(hit, hit.item.text or hit.evidence.caption or "")


def titled(hit: Hit, known: str) -> str:
    """Words of an item behind its title, unless they begin with it."""
    title = hit.item.title
    return f"{title}: {known}" if title and not known.startswith(title) else known


def _none(said: Said[Any]) -> Thought:
    return Thought("", said.problem, said.tokens, said.seconds, failed=said.failed)


def _shown(hit: Hit) -> str:
    written = [one.text for one in hit.evidence.identifiers[:1]]
    written += [one.text for one in hit.evidence.clues[:1]]
    return " | ".join(part for part in (*written, words_of(hit)) if part)


def _best(query: str, texts: Sequence[str]) -> str:
    """The text that keeps the most of a query; empty for a picture alone."""
    if not query:
        return ""
    return max(texts, key=lambda text: share_kept(query, text), default="")


def _bounded(context: str) -> str:
    return clean_caption(context, max_words=MAX_CONTEXT_WORDS)


def _noted(reasoning: Reasoning) -> str | None:
    """The other fields of a reasoning, on one line."""
    lists = (
        ("entities", reasoning.entities),
        ("must have", reasoning.must_have),
        ("avoid", reasoning.avoid),
    )
    parts = [reasoning.intent, *(f"{name}: {', '.join(some)}" for name, some in lists if some)]
    return clean_caption("; ".join(part for part in parts if part)) or None
