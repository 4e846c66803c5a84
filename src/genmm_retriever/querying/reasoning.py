"""The loop of reasoning and searching (R4R, arXiv 2510.13095).

A compact, structured reasoning guides the decoding; the model sees what came back, mends its
reasoning, and decodes again. Nothing is trained for it. The published loop uses one model; here
a remote reasoning model may think for a local retriever.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from genmm_retriever.checks import MAX_ROUNDS, as_queries, checked_k
from genmm_retriever.errors import InputError
from genmm_retriever.models.base import Generator
from genmm_retriever.querying.adapters import searched_for, with_context
from genmm_retriever.querying.computing import Searched, Searcher, holding, look_up, off_loop
from genmm_retriever.querying.fusing import fuse, interleaved, summed, with_evidence
from genmm_retriever.querying.reasoner import Reasoner, Thought
from genmm_retriever.querying.wrapping import WrappedRetriever
from genmm_retriever.schema import Hit, Query, QueryStep

_NAME = "reason"
_NOTHING = "nothing was thought of that guides the search"


@dataclass
class _Search:
    """One query on its way through the rounds."""

    query: Query
    context: str = ""
    rankings: list[list[Hit]] = field(default_factory=list)
    candidates: list[list[str]] = field(default_factory=list)
    steps: list[QueryStep] = field(default_factory=list)
    pending: Thought | None = None
    done: bool = False


class ReasoningRetriever(WrappedRetriever):
    """Asks a retriever in rounds, each guided by what the model thought of the one before.

    A round's reasoning enters as `Query.context`: it guides what is written, while what is
    found is held against the query as it was asked. The rounds' rankings are fused by reciprocal
    ranks. It stops early when the model is content, when the first hit stays the same, or when
    the verifier puts the first hit far above the second. Has the methods of
    `GenerativeMMRetriever` that ask; every hit's `evidence.steps` has the rounds with tokens
    and seconds.

    Args:
        retriever: Whom to ask.
        model: Who reasons, such as a `RemoteGenerator`; None for the retriever's own model.
        rounds: Most searches a query, 1 to 8.
        margin: Probability by which the first hit must lead to stop, 0 to 1.
        shown: Hits that the model is shown.
        seed: Of samples and further attempts.

    Raises:
        InputError: If an option is out of range.

    Attributes:
        last_timings: Seconds of `think` and of the retriever's stages, of the last call that was
            no `aretrieve`.
        last_candidates: As the retriever's; of all rounds together, rank by rank.
    """

    def __init__(
        self,
        retriever: Searcher,
        model: Generator | None = None,
        *,
        rounds: int = 3,
        margin: float = 0.5,
        shown: int = 5,
        seed: int = 0,
    ) -> None:
        if not 1 <= rounds <= MAX_ROUNDS:
            raise InputError(f"rounds is {rounds!r}", f"give 1 to {MAX_ROUNDS}")
        if not 0 <= margin <= 1:
            raise InputError(f"margin is {margin!r}", "give a probability, 0 to 1")
        if shown < 1:
            raise InputError(f"shown is {shown!r}", "show at least one hit")
        super().__init__(retriever)
        self.rounds, self.margin, self.shown = rounds, margin, shown
        self._named, self._seed = model, seed

    def search_batch(
        self,
        queries: Sequence[str | Query],
        *,
        k: int | None = None,
        verify: str | bool | None = None,
    ) -> Searched:
        """As `retrieve_batch`, with the timings and candidates of this call.

        The rounds of several queries are run together.
        """
        most = self.k if k is None else checked_k(k)
        searches = [_Search(query) for query in as_queries(queries)]
        depth = max(most, self.shown, 2)
        timings: list[dict[str, float]] = []
        for number in range(self.rounds):
            going = [search for search in searches if not search.done]
            start = time.perf_counter()
            if going:
                _consider(going, self._thoughts(going, first=number == 0))
            timings.append({"think": time.perf_counter() - start})
            going = [search for search in going if not search.done]
            if not going:
                break
            timings.append(self._search(going, depth, verify))
        return Searched(
            [_answer(search, most) for search in searches],
            summed(timings),
            [interleaved(search.candidates) for search in searches],
        )

    async def _asearch(self, query: Query, k: int | None, verify: str | bool | None) -> list[Hit]:
        """The rounds' searches join those of others that wait.

        A remote model is waited for without holding the retriever.
        """
        most = self.k if k is None else checked_k(k)
        search = _Search(query)
        depth = max(most, self.shown, 2)
        for number in range(self.rounds):
            think = partial(self._thoughts, [search], first=number == 0)
            _consider([search], await off_loop(self.retriever, self._named, think))
            if search.done:
                break
            start = time.perf_counter()
            hits = await self.retriever.aretrieve(_guided(search), k=depth, verify=verify)
            self._take(search, hits, time.perf_counter() - start)
            if search.done:
                break
        return _answer(search, most)

    def _thoughts(self, searches: Sequence[_Search], *, first: bool) -> list[Thought]:
        """What the model thinks before each search."""
        reasoner = Reasoner(self._named or self.retriever.model, seed=self._seed)
        asked = [search.query for search in searches]
        with holding(self.retriever, reasoner.model):
            if first:
                return reasoner.think(asked)
            return reasoner.reflect(
                asked,
                [search.context for search in searches],
                [search.rankings[-1][: self.shown] for search in searches],
            )

    def _search(
        self, searches: Sequence[_Search], depth: int, verify: str | bool | None
    ) -> dict[str, float]:
        """Search once for each; seconds by stage come back."""
        start = time.perf_counter()
        guided = [_guided(search) for search in searches]
        found = look_up(self.retriever, guided, k=depth, verify=verify)
        each = (time.perf_counter() - start) / len(searches)
        for search, hits, first in zip(searches, found.hits, found.candidates, strict=True):
            search.candidates.append(first)
            self._take(search, hits, each)
        return found.timings

    def _take(self, search: _Search, hits: list[Hit], seconds: float) -> None:
        """What one search of a query found; it may be the last."""
        assert search.pending is not None
        spent = search.pending.seconds + seconds
        search.steps.append(_step(search, search.pending, spent, changed=bool(search.context)))
        settled = bool(search.rankings) and _first(search.rankings[-1]) == _first(hits)
        search.rankings.append(hits)
        search.done = settled or search.pending.failed or self._leads(hits)

    def _leads(self, hits: Sequence[Hit]) -> bool:
        """Whether the verifier is sure of the first."""
        sure = [hit.evidence.verification for hit in hits[:2]]
        if len(sure) < 2 or sure[0] is None or sure[1] is None:
            return len(hits) < 2
        return sure[0] - sure[1] >= self.margin


def _consider(searches: Sequence[_Search], thoughts: Sequence[Thought]) -> None:
    """Let each search be guided by what was thought, or end if it is content."""
    for search, thought in zip(searches, thoughts, strict=True):
        search.pending = thought
        if thought.ok:
            search.done = True
            search.steps.append(_step(search, thought, thought.seconds, changed=False))
        else:
            search.context = thought.context or search.context


def _guided(search: _Search) -> Query:
    context = with_context(search.query.context, search.context)
    return search.query.model_copy(update={"context": context})


def _first(hits: Sequence[Hit]) -> str | None:
    return hits[0].item.id if hits else None


def _step(search: _Search, thought: Thought, seconds: float, *, changed: bool) -> QueryStep:
    return QueryStep(
        adapter=_NAME,
        text=searched_for(_guided(search)),
        changed=changed,
        note=thought.note or (None if changed or thought.ok else _NOTHING),
        tokens=thought.tokens,
        seconds=seconds,
    )


def _answer(search: _Search, k: int) -> list[Hit]:
    hits = fuse(search.rankings, k)
    steps = (*search.query.steps, *search.steps)
    return [with_evidence(hit, steps=steps) for hit in hits]
