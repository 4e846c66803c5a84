"""The first stage: the model writes what leads to items, and candidates come out.

What is written depends on the index: identifiers under a trie, or clues under an index of all
passages. Each way is one object with the same two verbs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from genmm_retriever.constraints.keeping import read_trie
from genmm_retriever.corpus.store import IndexReader
from genmm_retriever.decoding.aggregate import Candidate, aggregate
from genmm_retriever.decoding.config import BeamConfig
from genmm_retriever.decoding.guide import Guide
from genmm_retriever.decoding.hypotheses import Hypothesis
from genmm_retriever.decoding.search import constrained_beam_search
from genmm_retriever.describing import identify_prompt
from genmm_retriever.identifiers.centres import begins_with_topics, read_centres
from genmm_retriever.models.base import MLLM
from genmm_retriever.schema import GeneratedIdentifier, Item
from genmm_retriever.verification import QueryView

IDENTIFIER_BEAMS = 50
_SHOWN_IDENTIFIERS = 3
_OPEN_LEAVES = 200
"""Identifiers under a beam that begins with a topic at which it is written no further.

Among 5,000 captions of Flickr8k dev 48 find a picture's own less often, among its 1,000 pictures
both find the same.
"""
_LEAVES_AT_ONCE = 64
"""Identifiers left that are worth scoring exactly; on ten Flickr8k queries more found no more."""

Rows = NDArray[np.int64]


class Found(Protocol):
    """A candidate of the first stage."""

    @property
    def row(self) -> int:
        """The item."""
        ...

    @property
    def score(self) -> float:
        """Higher is better, in nats; comparable within one query."""
        ...


class FirstStage(Protocol):
    """From queries to candidates."""

    def find(
        self, queries: Sequence[QueryView], subsets: Sequence[Rows | None]
    ) -> Sequence[Sequence[Found]]:
        """Candidates of each query, best first.

        Args:
            queries: Q of them.
            subsets: For each the rows that may be found, ascending, or None for all.
        """
        ...

    def words(self, candidate: Found, item: Item) -> str | None:
        """The part of the item's words that led to it; None if that is not known, or all."""
        ...

    def evidence(self, candidate: Found, item: Item) -> dict[str, Any]:
        """What was written for a candidate, as fields of `Evidence`."""
        ...


def beam_config(reader: IndexReader, model: MLLM, num_beams: int, debias: float) -> BeamConfig:
    """How an index's identifiers are searched: of this width, debiased so much.

    Where they begin with topics that the model was trained to write, few items under a topic
    are left to the verifier: their keywords come from what the model says of the pictures, and
    on Flickr8k dev it is less often right about those.
    """
    if not begins_with_topics(reader):
        return BeamConfig(num_beams=num_beams, debias=debias, max_leaves_exact=_LEAVES_AT_ONCE)
    return BeamConfig(
        num_beams=num_beams,
        debias=debias,
        # Whole identifiers do not compare with those that are left open.
        max_leaves_exact=0,
        open_leaves=_OPEN_LEAVES,
        level_end=model.encode("a,")[-1],
    )


def _topic_tokens(model: MLLM) -> list[list[int]]:
    """How the topics that a model knows are written, each to the end of its name."""
    if not hasattr(model, "topic_logprobs"):
        return []
    config: Any = model
    return [model.encode(f"{name},") for name in config.topic_names]


class IdentifierStage:
    """Identifiers written by a constrained beam search.

    Args:
        reader: The open index.
        model: The model that the index was built with.
        num_beams: Width of the search.
        debias: Weight of the unconditional log-probability.
        guidance: Weight of the contrastive head in the choice of a topic; zero: it is not asked.
    """

    def __init__(
        self,
        reader: IndexReader,
        model: MLLM,
        *,
        num_beams: int,
        debias: float,
        guidance: float = 0.0,
    ) -> None:
        self.model = model
        self._guidance = guidance
        self.beam = beam_config(reader, model, num_beams, debias)
        self._topics = _topic_tokens(model) if self.beam.open_leaves and guidance else []
        self._centres = read_centres(reader) if self._topics else None
        self.trie = read_trie(reader)

    def find(
        self, queries: Sequence[QueryView], subsets: Sequence[Rows | None]
    ) -> list[list[Candidate]]:
        """Candidates of each query; see `FirstStage.find`."""
        prompts = [identify_prompt(query.sought, query.image, self.model) for query in queries]
        guides = [self.guide(query) for query in queries] if self._topics else None
        found = constrained_beam_search(self.model, prompts, self.trie, subsets, self.beam, guides)
        temperature = 1.0 + self._guidance if guides else 1.0
        return [aggregate(hypotheses, temperature=temperature) for hypotheses in found]

    def guide(self, query: QueryView) -> Guide | None:
        """What the model's contrastive head says of the topics that the query may mean.

        None where the identifiers do not begin with topics, or the head cannot see the query.
        """
        if not self._topics:
            return None
        see: Any = self.model
        image = query.image
        features = None if image is None else image.features
        if image is not None and features is None:
            return None
        logprobs = see.topic_logprobs(query.sought, features, self._centres)
        return Guide.over(
            (tokens, self._guidance * logprob)
            for tokens, logprob in zip(self._topics, logprobs, strict=True)
        )

    def words(self, candidate: Found, item: Item) -> str | None:
        """None: an identifier stands for the whole item."""
        return None

    def evidence(self, candidate: Found, item: Item) -> dict[str, Any]:
        """The best identifiers that led to a candidate."""
        assert isinstance(candidate, Candidate)
        return {"identifiers": tuple(map(self._shown, candidate.hypotheses[:_SHOWN_IDENTIFIERS]))}

    def _shown(self, hypothesis: Hypothesis) -> GeneratedIdentifier:
        whole = hypothesis.length == len(hypothesis.tokens)
        begun = self.model.decode(hypothesis.tokens[: hypothesis.length]).strip()
        return GeneratedIdentifier(
            text=self.model.decode(hypothesis.tokens).strip(),
            logprob=hypothesis.logprob,
            score=hypothesis.score,
            written=None if whole else begun,
        )
