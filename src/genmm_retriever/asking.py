"""From a query to hits: decode identifiers, gather candidates, verify, fill up to k."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, Literal

import numpy as np
import torch

from genmm_retriever.corpus.images import open_image
from genmm_retriever.corpus.store import Description, IndexReader
from genmm_retriever.finding import IDENTIFIER_BEAMS, FirstStage, Found, IdentifierStage
from genmm_retriever.models.base import MLLM, ImagePart
from genmm_retriever.models.contrastive import ContrastiveEncoder
from genmm_retriever.schema import Evidence, Hit, ImageRef, Item, Query
from genmm_retriever.vectors import ItemVectors
from genmm_retriever.verification import (
    Calibration,
    CandidateView,
    Parts,
    QueryVectors,
    QueryView,
    Texts,
    Verifier,
    make_verifier,
    texts_sought,
    verify_all,
)


@dataclass(frozen=True, eq=False)
class Candidates:
    """Candidates of one query: rows, first-stage candidates (None: filled), descriptions."""

    rows: list[int]
    candidates: list[Found | None]
    items: list[Item]
    descriptions: list[list[Description]]

    @property
    def texts_alone(self) -> bool:
        """Whether there is no picture among them."""
        return bool(self.items) and all(item.kind == "text" for item in self.items)


@dataclass(frozen=True, eq=False)
class Answer:
    """What led to the hits of one query.

    Attributes:
        view: The query as the model saw it.
        subset: Rows that could be found, ascending, or None for all.
        found: The candidates, n of them.
        parts: What the verifier made of them; None if none ran.
    """

    view: QueryView
    subset: np.ndarray | None
    found: Candidates
    parts: Parts | None


@dataclass
class Trace:
    """What happened on the way, for evaluation and explanation.

    Attributes:
        timings: Seconds of `encode`, `decode` and `verify`.
        candidates: Ids of the first stage's candidates, best first, by query.
        answers: What led to the hits, by query.
    """

    timings: dict[str, float] = field(default_factory=dict)
    candidates: list[list[str]] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Contrast:
    """A contrastive encoder, and the vectors that it gave the items."""

    encoder: ContrastiveEncoder
    vectors: ItemVectors


class Asker:
    """Answers queries over one generation of an index.

    Args:
        reader: The open index.
        model: The model that the index was built with.
        num_beams: Width of the search; None for what the kind of index does best with.
        candidates: First-stage candidates that verification looks at.
        budget: Candidates that a verifier looks at; None for all, `"auto"` for what is usual.
        budget_ms: Milliseconds that verifying a query may take; None for no limit.
        cascade: Whether the likelihood goes by stages; see `LikelihoodVerifier`.
        encoder: Gives the contrastive encoder whose vectors the index has, in place of a head of
            the model's own, or None; asked for when the likelihood is first verified.
    """

    def __init__(
        self,
        reader: IndexReader,
        model: MLLM,
        *,
        num_beams: int | None,
        candidates: int,
        budget: int | Literal["auto"] | None,
        budget_ms: float | None = None,
        cascade: bool | None = None,
        encoder: Callable[[], ContrastiveEncoder | None] = lambda: None,
    ) -> None:
        self.reader = reader
        self.model = model
        self.candidates = candidates
        self._encoder = encoder
        self._limits: dict[str, Any] = {
            "budget": budget,
            "budget_ms": budget_ms,
            "cascade": cascade,
        }
        self._verifiers: dict[tuple[str, Texts | None], Verifier] = {}
        self.first = _first_stage(reader, model, num_beams, Calibration.of(model))

    def ask(
        self, queries: Sequence[Query], k: int, *, verify: str, trace: Trace
    ) -> list[list[Hit]]:
        """The k best items of each query, exactly k where so many match its filters.

        Args:
            queries: Asked in one decode.
            k: Hits a query.
            verify: A verifier's name, or `"off"`.
            trace: Filled with what happened on the way.
        """
        start = time.perf_counter()
        contrast = self._contrast_for(verify)
        views = [self._view(query, contrast) for query in queries]
        subsets = self._subsets(queries)
        encoded = time.perf_counter()
        found = [
            self._gather(some, subset, k)
            for some, subset in zip(self.first.find(views, subsets), subsets, strict=True)
        ]
        decoded = time.perf_counter()
        judged: list[tuple[np.ndarray, Parts | None]]
        if verify == "off":
            judged = [(_generated(one), None) for one in found]
        else:
            judged = self._judged(verify, views, found, k, contrast)
        hits = [
            self._hits(query, one, scores, parts, k)
            for query, one, (scores, parts) in zip(queries, found, judged, strict=True)
        ]
        trace.answers = [
            Answer(view, subset, one, parts)
            for view, subset, one, (_, parts) in zip(views, subsets, found, judged, strict=True)
        ]
        trace.candidates = [
            [item.id for item, c in zip(one.items, one.candidates, strict=True) if c is not None]
            for one in found
        ]
        trace.timings = {
            "encode": encoded - start,
            "decode": decoded - encoded,
            "verify": time.perf_counter() - decoded,
        }
        return hits

    @cached_property
    def _contrast(self) -> Contrast | None:
        """The encoder with the vectors of the items, loaded when it is first needed."""
        encoder = self._encoder()
        return None if encoder is None else Contrast(encoder, ItemVectors(self.reader))

    def _contrast_for(self, verify: str) -> Contrast | None:
        """What the likelihood compares; the other verifiers compare no vectors."""
        return self._contrast if verify == "likelihood" else None

    def _view(self, query: Query, contrast: Contrast | None) -> QueryView:
        view = QueryView.of(query, self.model)
        if contrast is None:
            return view
        return replace(view, vectors=QueryVectors.of(query, view, contrast.encoder))

    def _subsets(self, queries: Sequence[Query]) -> list[np.ndarray | None]:
        """What each query may find; queries of equal filters share one array, and its masks."""
        known: dict[str, np.ndarray | None] = {}
        found = []
        for query in queries:
            # Names may hold half of a surrogate pair, which ASCII alone can write.
            key = json.dumps(query.model_dump(include={"filters", "kind", "ids"}))
            if key not in known:
                known[key] = self.reader.select(query.filters, query.kind, query.ids)
            found.append(known[key])
        return found

    def _gather(self, candidates: Sequence[Found], subset: np.ndarray | None, k: int) -> Candidates:
        """The best candidates, filled from the rest of the subset where they are fewer than k."""
        best: list[Found | None] = [*candidates[: max(self.candidates, k)]]
        rows = [candidate.row for candidate in best if candidate is not None]
        if len(rows) < k:
            allowed = self.reader.live_rows() if subset is None else subset
            rest = np.setdiff1d(allowed, np.array(rows, dtype=np.int64), assume_unique=True)
            rows += rest[: k - len(rows)].tolist()
            best += [None] * (len(rows) - len(best))
        return Candidates(rows, best, self.reader.items(rows), self.reader.descriptions(rows))

    def verifier_for(self, name: str, query: QueryView, found: Candidates) -> Verifier:
        """The verifier of a name that suits a query and its candidates, made on first use."""
        texts = None
        if found.texts_alone:
            texts = texts_sought(
                self.reader.settings.identifiers,
                words=bool(query.text),
                picture=query.image is not None,
            )
        key = name, texts
        if key not in self._verifiers:
            contrast = self._contrast_for(name)
            self._verifiers[key] = make_verifier(
                name,
                self.model,
                texts=texts,
                encoder_scale=None if contrast is None else contrast.encoder.scale,
                **self._limits,
            )
        return self._verifiers[key]

    def _judged(
        self,
        name: str,
        queries: Sequence[QueryView],
        found: Sequence[Candidates],
        k: int,
        contrast: Contrast | None,
    ) -> list[tuple[np.ndarray, Parts | None]]:
        """What the verifiers make of each query's candidates; those of one kind ask together."""
        verifiers = [
            self.verifier_for(name, query, one) for query, one in zip(queries, found, strict=True)
        ]
        looks = [self._candidate_views(one, contrast) for one in found]
        judged: dict[int, tuple[np.ndarray, Parts | None]] = {}
        for verifier in dict.fromkeys(verifiers):
            places = [i for i, one in enumerate(verifiers) if one is verifier]
            asked = [queries[i] for i in places], [looks[i] for i in places]
            judged |= zip(places, verify_all(verifier, *asked, at_least=k), strict=True)
        return [judged[i] for i in range(len(queries))]

    def _candidate_views(self, found: Candidates, contrast: Contrast | None) -> list[CandidateView]:
        pictured = [i for i, item in enumerate(found.items) if item.kind == "image"]
        features = self.reader.features([found.rows[i] for i in pictured]) if pictured else None
        images: dict[int, ImagePart | Callable[[], ImagePart]] = {}
        for place, i in enumerate(pictured):
            if features is not None:
                images[i] = ImagePart(features=torch.from_numpy(np.array(features[place])))
            else:
                reference = found.items[i].image
                assert reference is not None
                images[i] = partial(_opened, reference)
        vectors = None if contrast is None else contrast.vectors.of(found.rows)
        return [
            CandidateView(
                vector=None if vectors is None else vectors[i],
                words=(candidate and self.first.words(candidate, item)) or _words(item, described),
                image=images.get(i),
                generation=None if candidate is None else candidate.score,
            )
            for i, (item, described, candidate) in enumerate(
                zip(found.items, found.descriptions, found.candidates, strict=True)
            )
        ]

    def _hits(
        self, query: Query, found: Candidates, scores: np.ndarray, parts: Parts | None, k: int
    ) -> list[Hit]:
        order = np.argsort(-scores, kind="stable")[:k]
        return [
            Hit(
                item=found.items[i],
                score=float(scores[i]),
                rank=rank,
                evidence=self._evidence(query, found, int(i), scores, parts),
            )
            for rank, i in enumerate(order, start=1)
        ]

    def _evidence(
        self, query: Query, found: Candidates, i: int, scores: np.ndarray, parts: Parts | None
    ) -> Evidence:
        candidate = found.candidates[i]
        written = {} if candidate is None else self.first.evidence(candidate, found.items[i])
        written.setdefault("caption", _words(found.items[i], found.descriptions[i]) or None)
        return Evidence(
            **written,
            generation=None if candidate is None else candidate.score,
            verification=None if parts is None else float(scores[i]),
            parts={} if parts is None else parts.of(i),
            filled=candidate is None,
            rewritings=query.rewritings,
            steps=query.steps,
        )


def _generated(found: Candidates) -> np.ndarray:
    """Scores by the first stage alone: a softmax over the candidates, [n]."""
    scores = np.array([-math.inf if c is None else c.score for c in found.candidates])
    if not np.isfinite(scores).any():
        return np.zeros(len(scores))
    weights = np.exp(scores - scores.max())
    shares: np.ndarray = weights / weights.sum()
    return shares


def _first_stage(
    reader: IndexReader, model: MLLM, num_beams: int | None, weights: Calibration
) -> FirstStage:
    """What leads to items in this index."""
    if reader.settings.identifiers == "clue":
        from genmm_retriever.finding_clues import ClueStage

        return ClueStage(reader, model, num_beams=num_beams)
    return IdentifierStage(
        reader,
        model,
        num_beams=num_beams or IDENTIFIER_BEAMS,
        debias=weights.debias,
        guidance=weights.guidance,
    )


def _opened(reference: ImageRef) -> ImagePart:
    return ImagePart(image=open_image(reference))


def _words(item: Item, described: Sequence[Description]) -> str:
    """The words an item is known by: its own text, or its first caption."""
    if item.kind == "text" and item.text:
        return item.text
    return next((d.text for d in described), item.text or "")
