"""How good a model is at an index: loss and recall of the real search on held-out queries."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from genmm_retriever.building import null_scorer
from genmm_retriever.constraints.trie import TokenTrie
from genmm_retriever.decoding.aggregate import aggregate
from genmm_retriever.decoding.config import BeamConfig
from genmm_retriever.decoding.search import constrained_beam_search
from genmm_retriever.finding import IDENTIFIER_BEAMS, beam_config
from genmm_retriever.models.base import MLLM, Prompt
from genmm_retriever.models.transformers_mllm import TransformersMLLM
from genmm_retriever.training.corpus import Corpus
from genmm_retriever.training.learner import Learner
from genmm_retriever.training.lessons import Lesson, Pair
from genmm_retriever.verification.calibration import Calibration

CUTOFFS = (1, 5, 10)
POOL = 1000
_QUERIES_AT_ONCE = 8
_IDENTIFIERS_AT_ONCE = 256


@dataclass(frozen=True)
class Figures:
    """What an examination found.

    Attributes:
        loss: Mean negative log-likelihood of an identifier's token given its query, in nats.
        recall: Share of queries that find an item of theirs among the first k, in percent, by
            k (1, 5, 10) as text; empty if nothing was searched.
        composed: The same of composed queries, a picture with a change asked for, which the
            others are without; None if none were held out.
    """

    loss: float
    recall: dict[str, float]
    composed: Figures | None = None

    @property
    def mean_recall(self) -> float:
        """The mean over the cut-offs, in percent: what trainings are compared by.

        Where composed queries were held out, the mean of theirs and the others'.
        """
        own = sum(self.recall.values()) / max(1, len(self.recall))
        return own if self.composed is None else (own + self.composed.mean_recall) / 2

    @property
    def mean_loss(self) -> float:
        """The loss, or the mean of the two kinds of queries'."""
        return self.loss if self.composed is None else (self.loss + self.composed.loss) / 2

    def is_above(self, before: Figures) -> bool:
        """Whether the mean recall is higher than before."""
        return self.mean_recall > before.mean_recall

    @classmethod
    def from_json(cls, kept: dict[str, Any]) -> Figures:
        """What `to_json` gave."""
        composed = kept.get("composed")
        return cls(kept["loss"], kept["recall"], composed and cls.from_json(composed))

    def to_json(self) -> dict[str, Any]:
        """As a JSON object; without `composed` if there is none."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def __str__(self) -> str:
        recalls = [f"R@{k} {value:.1f}" for k, value in self.recall.items()]
        own = ", ".join([f"loss {self.loss:.3f}", *recalls])
        return own if self.composed is None else f"{own}; composed: {self.composed}"


class Exam:
    """Held-out queries over a pool of items, searched as retrieval searches.

    A corpus of more than 1,000 items is examined over a sample of so many, the held-out
    queries' own items among them: the unconditional log-probabilities change with the model
    and are computed anew each time.

    Args:
        corpus: The index.
        held: The queries.
        seed: Of the sample.
        composed: Composed queries, examined on their own.
    """

    def __init__(
        self,
        corpus: Corpus,
        held: Sequence[Pair],
        *,
        seed: int = 0,
        composed: Sequence[Pair] = (),
    ) -> None:
        self.corpus, self.held, self.composed = corpus, list(held), list(composed)
        own = sorted({row for pair in (*held, *composed) for row in pair.rows})
        others = sorted(set(corpus.rows) - set(own))
        more = min(len(others), max(0, POOL - len(own)))
        self.pool = sorted([*own, *random.Random(f"{seed}-pool").sample(others, more)])

    def sit(self, model: TransformersMLLM, *, search: bool = True) -> Figures:
        """Examine a model, as it is now.

        Args:
            model: The model, with or without LoRA layers.
            search: Whether to search too; the loss alone costs a tenth of it.
        """
        kinds = [self._asked(model, pairs) for pairs in (self.held, self.composed)]
        losses = [self._loss(model, asked) for asked in kinds]
        recalls = self._recalls(model, kinds) if search else [{}, {}]
        composed = Figures(losses[1], recalls[1]) if kinds[1] else None
        return Figures(losses[0], recalls[0], composed)

    def _asked(self, model: TransformersMLLM, pairs: Sequence[Pair]) -> list[tuple[Pair, Prompt]]:
        prompts = ((pair, pair.prompt(model, self.corpus)) for pair in pairs)
        return [(pair, prompt) for pair, prompt in prompts if prompt]

    def _loss(self, model: TransformersMLLM, asked: Sequence[tuple[Pair, Prompt]]) -> float:
        lessons = [
            Lesson(prompt, [list(a) for row in pair.rows for a in self.corpus.answers[row]])
            for pair, prompt in asked
        ]
        return Learner(model).loss(lessons)

    def _recalls(
        self, model: TransformersMLLM, kinds: Sequence[Sequence[tuple[Pair, Prompt]]]
    ) -> list[dict[str, float]]:
        """The recall of each kind of queries, over one trie."""
        sequences = [list(tokens) for row in self.pool for tokens in self.corpus.answers[row]]
        rows = [row for row in self.pool for _ in self.corpus.answers[row]]
        null = [scores.tolist() for scores in null_logprobs(model, sequences)]
        trie = TokenTrie.build(sequences, rows, null)
        debias = Calibration.of(model).debias
        beam = beam_config(self.corpus.reader, model, IDENTIFIER_BEAMS, debias)
        return [self._recall(model, asked, trie, beam) for asked in kinds]

    def _recall(
        self,
        model: TransformersMLLM,
        asked: Sequence[tuple[Pair, Prompt]],
        trie: TokenTrie,
        beam: BeamConfig,
    ) -> dict[str, float]:
        best: list[int] = []
        for start in range(0, len(asked), _QUERIES_AT_ONCE):
            batch = asked[start : start + _QUERIES_AT_ONCE]
            found = constrained_beam_search(model, [p for _, p in batch], trie, None, beam)
            for (pair, _), hypotheses in zip(batch, found, strict=True):
                ranked = [candidate.row for candidate in aggregate(hypotheses)]
                places = [ranked.index(row) for row in pair.rows if row in ranked]
                best.append(min(places, default=len(self.pool) + max(CUTOFFS)))
        return {
            str(k): 100.0 * sum(place < k for place in best) / max(1, len(best)) for k in CUTOFFS
        }


def null_logprobs(model: MLLM, sequences: Sequence[Sequence[int]]) -> Iterator[Tensor]:
    """Log-probability of each token of identifiers without a query, one tensor an identifier."""
    if not sequences:
        return
    score = null_scorer(model)
    for start in range(0, len(sequences), _IDENTIFIERS_AT_ONCE):
        yield from score(sequences[start : start + _IDENTIFIERS_AT_ONCE])
