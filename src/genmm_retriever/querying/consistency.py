"""Does the way lead back? Reverse texts check what composed queries found.

MTST (arXiv 2504.05316) trains on modification texts in both directions. Here the reverse text
checks the search: from the right picture, the reverse request leads back to the picture of the
query. Each hit is scored by how likely it makes that picture's description.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from genmm_retriever.checks import as_queries, checked_k
from genmm_retriever.describing import clean_caption
from genmm_retriever.describing.prompts import describe_prompt
from genmm_retriever.describing.prompts.queries import back_prompt, imagine_prompt, reverse_prompt
from genmm_retriever.errors import CapabilityError, InputError
from genmm_retriever.models.base import MLLM, ImagePart
from genmm_retriever.querying.computing import Searched, Searcher, holding, look_up, off_loop
from genmm_retriever.querying.forms import WayBack
from genmm_retriever.querying.fusing import fuse, summed, with_evidence
from genmm_retriever.querying.guard import new_words
from genmm_retriever.querying.reasoner import words_of
from genmm_retriever.querying.wrapping import WrappedRetriever
from genmm_retriever.querying.writing import (
    Said,
    ask_for,
    is_builtin,
    looked_at,
    picture_of,
    write_freely,
)
from genmm_retriever.schema import Hit, Query, QueryStep

_NAME = "consistency"
_MAX_WORDS = 30


class ConsistentRetriever(WrappedRetriever):
    """Orders the hits of composed queries by whether the reverse request leads back, too.

    The retriever's ranking and that by the likelihood of the query's picture, described, given a
    hit and the reverse request are fused by reciprocal ranks; the likelihood is in
    `evidence.parts` as `consistency`, in nats a token. Other queries are passed on. The builtin
    model takes the words that it would lose on the way as the reverse request, and reads hits'
    words instead of pictures.

    Args:
        retriever: Whom to ask.
        model: Writes and scores, so it gives log-probabilities; None for the retriever's own.
        depth: Hits that are looked at, at least k.
        seed: Of further attempts where a form could not be filled.

    Raises:
        InputError: If `depth` is below 2.
        CapabilityError: If the model gives no log-probabilities.
    """

    def __init__(
        self, retriever: Searcher, model: MLLM | None = None, *, depth: int = 10, seed: int = 0
    ) -> None:
        if depth < 2:
            raise InputError(f"depth is {depth!r}", "look at two hits at least")
        if model is not None and not isinstance(model, MLLM):
            hint = "name a local model, or leave it to the index's own"
            raise CapabilityError(f"{type(model).__name__} gives no log-probabilities", hint)
        super().__init__(retriever)
        self.depth, self.seed, self._named = depth, seed, model

    def search_batch(
        self,
        queries: Sequence[str | Query],
        *,
        k: int | None = None,
        verify: str | bool | None = None,
    ) -> Searched:
        """As `retrieve_batch`, with the timings and candidates of this call."""
        most = self.k if k is None else checked_k(k)
        asked = as_queries(queries)
        found = look_up(self.retriever, asked, k=self._deep(asked, most), verify=verify)
        start = time.perf_counter()
        hits = [self._checked(*pair, most) for pair in zip(asked, found.hits, strict=True)]
        spent = {"check": time.perf_counter() - start}
        return Searched(hits, summed([found.timings, spent]), found.candidates)

    async def _asearch(self, query: Query, k: int | None, verify: str | bool | None) -> list[Hit]:
        most = self.k if k is None else checked_k(k)
        deep = self._deep([query], most)
        hits = await self.retriever.aretrieve(query, k=deep, verify=verify)
        return await off_loop(
            self.retriever, self._named, partial(self._checked, query, hits, most)
        )

    def _deep(self, queries: Sequence[Query], k: int) -> int:
        return max(k, self.depth) if any(query.is_composed for query in queries) else k

    def _checked(self, query: Query, hits: list[Hit], k: int) -> list[Hit]:
        if not query.is_composed or len(hits) < 2:
            return hits[:k]
        start = time.perf_counter()
        model: Any = self._named or self.retriever.model
        with holding(self.retriever, model):
            way = self._way(query, model)
            back = way.value
            scores: list[float] = []
            if back is not None and back.reference:
                looked = hits[: self.depth]
                prompts = [back_prompt(_shown(hit, model), back.reverse, model) for hit in looked]
                tokens = [*model.encode(back.reference), model.eos_token_id]
                scored = model.score(prompts, [tokens] * len(prompts))
                scores = [float(one.mean()) for one in scored]
        step = QueryStep(
            adapter=_NAME,
            text=back.reverse if back else query.text or "",
            changed=bool(scores),
            note=way.problem if back is None else f"back to: {back.reference}",
            tokens=way.tokens,
            seconds=time.perf_counter() - start,
        )
        return [
            with_evidence(hit, steps=(*hit.evidence.steps, step))
            for hit in _ordered(hits, scores, k)
        ]

    def _way(self, query: Query, model: Any) -> Said[WayBack]:
        """The query's picture in words, and the reverse request."""
        image = looked_at(model, query)
        assert image is not None
        if not is_builtin(model):
            [said] = ask_for(
                model, [reverse_prompt(query.text or "", image)], WayBack, seed=self.seed
            )
            return said
        [shown] = write_freely(
            model, [describe_prompt(image, model)], number=1, max_words=_MAX_WORDS
        )
        caption = shown.texts[0] if shown.texts else ""
        [there] = write_freely(
            model, [imagine_prompt(query.text or "")], number=1, max_words=_MAX_WORDS
        )
        target = f"{query.text} {there.texts[0] if there.texts else ''}"
        reverse = " ".join(new_words(target, caption))
        tokens = (shown.tokens or 0) + (there.tokens or 0)
        return Said(
            WayBack(reference=caption[:300], reverse=reverse[:300]),
            None,
            tokens,
            shown.seconds + there.seconds,
        )


def _shown(hit: Hit, model: Any) -> ImagePart | str:
    """A hit's picture where the model goes on from one, else its words."""
    picture = None if is_builtin(model) else picture_of(model, hit)
    return picture or clean_caption(words_of(hit), max_words=_MAX_WORDS)


def _ordered(hits: list[Hit], scores: Sequence[float], k: int) -> list[Hit]:
    """The hits by both rankings; as they were if there are no scores."""
    if not scores:
        return hits[:k]
    known = [
        with_evidence(hit, parts={**hit.evidence.parts, _NAME: score})
        for hit, score in zip(hits, scores, strict=False)
    ]
    order = sorted(range(len(known)), key=lambda place: -scores[place])
    back = [known[place].model_copy(update={"rank": n}) for n, place in enumerate(order, start=1)]
    return fuse([[*known, *hits[len(known) :]], back], k)
