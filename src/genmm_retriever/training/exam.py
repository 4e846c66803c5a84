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
    """

    loss: float
    recall: dict[str, float]

    @property
    def mean_recall(self) -> float:
        """The mean over the cut-offs, in percent: what trainings are compared by."""
        return sum(self.recall.values()) / max(1, len(self.recall))

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)

    def __str__(self) -> str:
        recalls = [f"R@{k} {value:.1f}" for k, value in self.recall.items()]
        return ", ".join([f"loss {self.loss:.3f}", *recalls])


class Exam:
    """Held-out queries over a pool of items, searched as retrieval searches.

    A corpus of more than 1,000 items is examined over a sample of so many, the held-out
    queries' own items among them: the unconditional log-probabilities change with the model
    and are computed anew each time.

    Args:
        corpus: The index.
        held: The queries.
        seed: Of the sample.
    """

    def __init__(self, corpus: Corpus, held: Sequence[Pair], *, seed: int = 0) -> None:
        self.corpus, self.held = corpus, list(held)
        own = sorted({row for pair in held for row in pair.rows})
        others = sorted(set(corpus.rows) - set(own))
        more = min(len(others), max(0, POOL - len(own)))
        self.pool = sorted([*own, *random.Random(f"{seed}-pool").sample(others, more)])

    def sit(self, model: TransformersMLLM, *, search: bool = True) -> Figures:
        """Examine a model, as it is now.

        Args:
            model: The model, with or without LoRA layers.
            search: Whether to search too; the loss alone costs a tenth of it.
        """
        asked = [(pair, prompt) for pair in self.held if (prompt := pair.prompt(model))]
        lessons = [
            Lesson(prompt, [list(a) for row in pair.rows for a in self.corpus.answers[row]])
            for pair, prompt in asked
        ]
        loss = Learner(model).loss(lessons)
        return Figures(loss, self._recall(model, asked) if search else {})

    def _recall(
        self, model: TransformersMLLM, asked: Sequence[tuple[Pair, Prompt]]
    ) -> dict[str, float]:
        sequences = [list(tokens) for row in self.pool for tokens in self.corpus.answers[row]]
        rows = [row for row in self.pool for _ in self.corpus.answers[row]]
        null = [scores.tolist() for scores in null_logprobs(model, sequences)]
        trie = TokenTrie.build(sequences, rows, null)
        debias = Calibration.of(model).debias
        beam = beam_config(self.corpus.reader, model, IDENTIFIER_BEAMS, debias)
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
