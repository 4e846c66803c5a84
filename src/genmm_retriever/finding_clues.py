"""The first stage of an index of clues: phrases of the items' own texts lead to them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np

from genmm_retriever.building_clues import (
    CLUE_PREFIX,
    Cut,
    clue_texts,
    heading_of,
    heading_tokens,
    passages_of,
)
from genmm_retriever.constraints.clues import ClueIndex, ClueView
from genmm_retriever.corpus.store import IndexReader
from genmm_retriever.decoding.clue_types import ClueConfig
from genmm_retriever.decoding.clues import clue_search
from genmm_retriever.decoding.covering import ClueCandidate, CoverConfig, cover_passages
from genmm_retriever.decoding.own_phrases import Phrase
from genmm_retriever.decoding.phrase_scores import Unasked
from genmm_retriever.describing.prompts import clue_prompt, data_text, null_prompt
from genmm_retriever.finding import Found, Rows
from genmm_retriever.identifiers.passages import heading, places_in_text, text_tokens
from genmm_retriever.identifiers.words import WordEdges
from genmm_retriever.models.base import MLLM, ObjectNamer
from genmm_retriever.schema import FoundClue, Item
from genmm_retriever.verification import QueryView

# Tried with the builtin model, which was not trained to write clues. On 40 captions of Flickr8k
# dev, each looking for another caption of its photo among 1,000, 50 beams or 5 groups found no
# more than 15 beams. Copying brought recall at 10 there from 60% to 65%, and on 30 glosses of
# WordNet among 82,115, asked for by their first eight words in another order, from 33% to 100%.
# So few queries show directions, no figures to report.
CLUE_BEAMS = 15
CLUE_DEBIAS = 1.0
CLUE_COPYING = 0.1
CLUE_NAMING = 0.5
NAMES_LEAST = 0.01
"""Probability of a thing in the query's picture that joins as a clue, at least."""
_SHOWN_CLUES = 5
_FILTERS_KEPT = 8


class ClueStage:
    """Clues written by a search under the index of all passages.

    Args:
        reader: The open index.
        model: The model that the index was built with.
        num_beams: Width of the search, or None for SEAL's 15.
        naming: Whether what the model sees in a query's picture joins as clues.
    """

    def __init__(
        self,
        reader: IndexReader,
        model: MLLM,
        *,
        num_beams: int | None = None,
        naming: bool = True,
    ) -> None:
        self.reader = reader
        self.model = model
        self.config = ClueConfig(
            num_beams=num_beams or CLUE_BEAMS,
            debias=CLUE_DEBIAS,
            prior=None,
            copying=CLUE_COPYING,
            naming=CLUE_NAMING if naming else 0.0,
        )
        self.cover = CoverConfig(prior=None)
        self.index = open_clues(reader)
        self._cut = Cut.of(reader.json("clues"))
        self._words = WordEdges(model, model.vocab_size)
        self._unasked = Unasked(model, null_prompt(model))
        self._views: OrderedDict[bytes | None, ClueView] = OrderedDict()
        self._lock = threading.Lock()

    def find(
        self, queries: Sequence[QueryView], subsets: Sequence[Rows | None]
    ) -> list[list[ClueCandidate]]:
        """Candidates of each query; see `FirstStage.find`."""
        prompts = [clue_prompt(query.sought, query.image, self.model) for query in queries]
        words = [data_text(query.text or "") for query in queries]
        # A question about a picture is seldom repeated where it is answered.
        own = [
            text_tokens(self.model, text) if text and query.image is None else []
            for query, text in zip(queries, words, strict=True)
        ]
        views = [self._view(subset) for subset in subsets]
        found = clue_search(
            self.model,
            prompts,
            views,
            self.config,
            given=own,
            seen=[self._seen(query, view) for query, view in zip(queries, views, strict=True)],
            words=self._words,
            unasked=self._unasked,
        )
        return [
            cover_passages(view, self.index.passage_tokens, clues, self.cover, words=self._words)
            for view, clues in zip(views, found, strict=True)
        ]

    def _seen(self, query: QueryView, view: ClueView) -> dict[Phrase, float]:
        """The names of what the model sees in a query's picture: a picture's own words.

        A name that heads a passage leads to the passages of that heading; others lead to those
        that mention it. On the training half of the knowledge task, passages that mention one
        of the things seen beside being about another came before the right one.
        """
        model, picture = self.model, query.image
        if not self.config.naming or picture is None or picture.features is None:
            return {}
        if not isinstance(model, ObjectNamer):
            return {}
        [names] = model.object_words(picture.features[None], least=NAMES_LEAST)
        seen: dict[Phrase, float] = {}
        for name, probability in names:
            forms = (data_text(form) for form in (heading(name, ()), name))
            marked, bare = (tuple(text_tokens(model, form)) for form in forms)
            phrase = marked if view.counts(view.find(marked))[0] else bare
            seen[phrase] = seen.get(phrase, 0.0) + probability
        return seen

    def _view(self, subset: Rows | None) -> ClueView:
        """What a query may find; those of the last filters are kept."""
        key = None if subset is None else subset.tobytes()
        with self._lock:
            if key not in self._views:
                self._views[key] = self.index.view(subset)
                if len(self._views) > _FILTERS_KEPT:
                    self._views.popitem(last=False)
            self._views.move_to_end(key)
            return self._views[key]

    def words(self, candidate: Found, item: Item) -> str | None:
        """The passage that a candidate was found by, if its text is longer than that."""
        assert isinstance(candidate, ClueCandidate)
        tokens = self.index.passage_tokens(candidate.passage)
        if item.kind != "text" or len(tokens) < self._cut.longest:
            return None
        return self.model.decode(tokens.tolist()).strip() or None

    def evidence(self, candidate: Found, item: Item) -> dict[str, Any]:
        """The clues of a candidate's best passage, and the text that they stand in."""
        assert isinstance(candidate, ClueCandidate)
        [described] = self.reader.descriptions([candidate.row])
        texts = clue_texts(item, described)
        wanted = self.index.passage_tokens(candidate.passage).tolist()
        head = heading_of(item, self._cut)
        for number, first, tokens in passages_of(self.model, texts, self._cut, head):
            if tokens == wanted:
                return {
                    "clues": self._placed(candidate, texts[number], first, head),
                    "caption": f"{head} {texts[number]}" if head else texts[number],
                }
        return {"clues": self._placed(candidate, "", 0)}

    def _placed(
        self, candidate: ClueCandidate, text: str, first: int, head: str = ""
    ) -> tuple[FoundClue, ...]:
        """Clues with their places in the heading and the text.

        Args:
            candidate: Found by a passage.
            text: That the passage is a piece of.
            first: The token of the text that it begins with.
            head: What stands before each piece.
        """
        before = heading_tokens(self.model, head, self._cut)
        tokens = [*before, *(text_tokens(self.model, text) if text else [])]
        text = f"{head} {text}" if head else text
        shown = candidate.clues[:_SHOWN_CLUES]

        def run(place: int, size: int) -> tuple[int, int]:
            if place >= len(before):
                return first + place, first + place + size
            # What reaches out of the heading into a later piece is shown in the heading.
            return place, min(place + size, len(before)) if first else place + size

        runs = [run(place, len(c.clue.tokens)) for c in shown for place in c.places]
        spans = iter(places_in_text(self.model, text, tokens, runs if text else []))
        return tuple(
            FoundClue(
                text=self.model.decode(found.clue.tokens).strip(),
                logprob=found.clue.logprob,
                score=found.score,
                count=found.clue.count,
                documents=found.clue.documents,
                given=found.clue.given,
                seen=found.clue.seen,
                spans=tuple(span for span in islice(spans, len(found.places)) if span),
            )
            for found in shown
        )


def open_clues(reader: IndexReader) -> ClueIndex:
    """The clue index of an open index; deleted items are not found in it."""
    index = ClueIndex.from_arrays(reader.arrays_under(CLUE_PREFIX))
    # Those deleted since the last build are still there.
    gone = np.setdiff1d(index.item_rows, reader.live_rows())
    return index.delete(gone) if len(gone) else index
