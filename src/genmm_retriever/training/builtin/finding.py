"""Examples of the last stage: all forms of queries to identifiers that begin with topics."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from genmm_retriever.models.builtin.configuration import GenmmBuiltinConfig
from genmm_retriever.models.builtin.text import answer_ids
from genmm_retriever.training.builtin.data import CaptionedImages
from genmm_retriever.training.builtin.forms import Forms
from genmm_retriever.training.builtin.packing import pack
from genmm_retriever.training.builtin.trainer import Learner, StepLoss

Metrics = dict[str, float]
_LIKELIEST, _SAMPLED = 3, 1
Row = tuple[list[int], list[list[int]]]
"""Token ids of a prompt and of its answers."""


@dataclass(frozen=True)
class FindingData:
    """Targets of the last stage.

    Attributes:
        of_pictures: For each picture, and each of its topics from the nearest, the identifiers
            made of its descriptions: one a caption in their order, then those of the objects
            seen in it.
        of_captions: For each picture, the identifiers of each of its captions as a text item.
        of_labels: Name of a thing, and the identifiers of what is called so.
        topics: Names of the topics.
        of_queries: Probability of each topic given each caption as a query, all captions of all
            pictures in a row, [captions, topics]; what the language model learns from the
            contrastive head.
        asked: A row of `questioned`, a question about that picture, and what answers it.
        questioned: Pictures beside the captioned ones; only their features are used.
    """

    of_pictures: Sequence[Sequence[Sequence[str]]]
    of_captions: Sequence[Sequence[Sequence[str]]]
    of_labels: Sequence[tuple[str, Sequence[str]]]
    topics: Sequence[str]
    of_queries: np.ndarray
    asked: Sequence[tuple[int, str, Sequence[str]]] = ()
    questioned: CaptionedImages | None = None


class FindingExamples(Forms):
    """Mixed examples of the forms that retrieval uses; a loss to add to another one's.

    A query is one human caption, the answers are identifiers of its picture under the nearest
    topic and mostly under another, made of other captions, so that words are not simply copied.
    The empty query gets random identifiers: its likelihood is what debiases the search.

    Args:
        data: Pictures and captions.
        targets: What leads to them.
        tokenizer: Of the language model.
        config: Of the model.
        finds: Rows of text queries with whole identifiers.
        begins: Rows of text queries with topics alone, which is what most depends on. Which
            topics a query may mean is told by the contrastive head, as a distribution: one
            picture a query would be a noisy teacher of it.
        looks: Rows of picture queries.
        labels: Rows of names.
        asks: Rows of questions about a picture.
        paraphrases: Rows of caption -> another caption.
        nulls: Rows of each kind of empty prompt.
    """

    def __init__(
        self,
        data: CaptionedImages,
        targets: FindingData,
        tokenizer: PreTrainedTokenizerBase,
        config: GenmmBuiltinConfig,
        *,
        finds: int = 8,
        begins: int = 60,
        looks: int = 2,
        labels: int = 2,
        asks: int = 1,
        paraphrases: int = 1,
        nulls: int = 1,
    ) -> None:
        super().__init__(data, tokenizer, config)
        self.targets = targets
        self.finds, self.begins, self.looks = finds, begins, looks
        self.labels, self.asks = labels, asks
        self.paraphrases, self.nulls = paraphrases, nulls
        counts = [len(own) for own in data.captions]
        self.first = np.concatenate([[0], np.cumsum(counts)]).tolist()

    def __call__(self, learner: Learner, rng: random.Random) -> tuple[Tensor, Metrics]:
        """Mean NLL a token over one mixed batch."""
        rows, features = self._rows(rng)
        pictured = 0 if features is None else len(features)
        # Rows of like length together: a batch is as long as its longest row.
        worded = sorted(rows[pictured:], key=_length)
        half = len(worded) // 2
        total, tokens = torch.zeros(()), 0
        for some, seen in (
            (rows[:pictured], features),
            (worded[:half], None),
            (worded[half:], None),
        ):
            if some:
                batch = pack([p for p, _ in some], [a for _, a in some], eos=self.eos)
                _, nll = learner.logprobs(batch, seen)
                total = total.to(nll.device) + nll * len(batch.target)
                tokens += len(batch.target)
        found = total / max(tokens, 1)
        begun = self._beginnings(learner, rng)
        metrics = {"find": float(found.detach()), "topic": float(begun.detach())}
        # A topic has some four tokens; what follows it matters less.
        return found / 2 + begun / 3, metrics

    def _rows(self, rng: random.Random) -> tuple[list[Row], Tensor | None]:
        """Prompts with answers, and features; rows with a picture come first, as features do."""
        rows: list[tuple[list[int], list[str]]] = []
        pictures = [rng.randrange(len(self.data)) for _ in range(self.looks)]
        parts = [self.data.batch(pictures, grid=self.config.grid)] if pictures else []
        for picture in pictures:
            rows.append((self._prompt(None, "Find."), self._seen_or_said(picture, rng)))
        if self.targets.asked and self.targets.questioned is not None:
            asked = rng.choices(self.targets.asked, k=self.asks)
            places = [place for place, _, _ in asked]
            parts.append(self.targets.questioned.batch(places, grid=self.config.grid))
            rows += [
                (self._prompt(None, f"Find: {question}"), rng.sample([*said], min(2, len(said))))
                for _, question, said in asked
            ]
        for _ in range(self.finds):
            picture = rng.randrange(len(self.data))
            place, query = self._caption(picture, rng)
            found = self._of_picture(picture, place, rng)
            rows.append((self._prompt(f"Find: {query}"), found))
        for _ in range(self.labels if self.targets.of_labels else 0):
            name, leads = rng.choice(self.targets.of_labels)
            asked_as = rng.choice(("{}", "a {}", "a photo of a {}", "a picture of a {}"))
            rows.append((self._prompt(f"Find: {asked_as.format(name)}"), list(leads)))
        rows += self._others(rng)
        encoded = [(p, [answer_ids(self.tokenizer, text) for text in texts]) for p, texts in rows]
        return encoded, torch.cat(parts) if parts else None

    def _beginnings(self, learner: Learner, rng: random.Random) -> Tensor:
        """Cross-entropy of topics given text queries, nats a query."""
        rows = sorted((self._begun(rng) for _ in range(self.begins)), key=lambda r: _length(r[0]))
        total, cut = torch.zeros(()), 2 * len(rows) // 3
        for some in (rows[:cut], rows[cut:]):
            if some:
                batch = pack([row[0] for row, _ in some], [row[1] for row, _ in some], eos=None)
                logprobs, _ = learner.logprobs(batch, None)
                weights = torch.tensor([w for _, own in some for w in own], device=logprobs.device)
                total = total.to(logprobs.device) - (weights * logprobs).sum()
        return total / max(1, len(rows))

    def _begun(self, rng: random.Random) -> tuple[Row, list[float]]:
        """A text query, topics that it may mean, and their weights.

        The likeliest topics count by their probability; the others are stood for by a sample,
        so that the expectation is the whole distribution's.
        """
        picture = rng.randrange(len(self.data))
        place, query = self._caption(picture, rng)
        chances = self.targets.of_queries[self.first[picture] + place].astype(np.float64)
        best = np.argsort(-chances)[:_LIKELIEST]
        weights = chances[best].tolist()
        rest = chances.copy()
        rest[best] = 0
        others = rng.choices(range(len(rest)), rest.tolist(), k=_SAMPLED) if rest.sum() else []
        weights += [float(rest.sum()) / _SAMPLED] * len(others)
        chosen = [self.targets.topics[i] + "," for i in (*best.tolist(), *others)]
        answers = [answer_ids(self.tokenizer, topic) for topic in chosen]
        return (self._prompt(f"Find: {query}"), answers), weights

    def _others(self, rng: random.Random) -> list[tuple[list[int], list[str]]]:
        rows = []
        for _ in range(self.paraphrases):
            one, other = rng.choices(rng.choice(self.data.captions), k=2)
            rows.append((self._prompt(f"Describe: {one}"), [other]))
        for _ in range(self.nulls):
            picture = rng.randrange(len(self.data))
            rows.append((self._prompt("Find: "), self._seen_or_said(picture, rng)))
            rows.append((self._prompt("Describe."), [rng.choice(rng.choice(self.data.captions))]))
        return rows

    def _of_picture(self, picture: int, not_of: int | None, rng: random.Random) -> list[str]:
        """One identifier under the nearest topic, and one under any."""
        by_topic = self.targets.of_pictures[picture]
        return list(
            dict.fromkeys(
                [
                    self._other(by_topic[0], not_of, rng),
                    self._other(rng.choice(by_topic), not_of, rng),
                ]
            )
        )

    def _seen_or_said(self, picture: int, rng: random.Random) -> list[str]:
        """Identifiers of the picture, or of one of its captions."""
        if rng.random() < 0.5:
            return self._of_picture(picture, None, rng)
        return list(rng.choice(self.targets.of_captions[picture]))

    @staticmethod
    def _other(own: Sequence[str], not_of: int | None, rng: random.Random) -> str:
        others = [text for place, text in enumerate(own) if place != not_of]
        return rng.choice(others or own)


def finding_steps(
    examples: FindingExamples, telling: Iterator[StepLoss], *, every: int = 3, seed: int = 0
) -> Iterator[StepLoss]:
    """Finding at each step, and at every third telling apart beside it.

    Args:
        examples: Finding.
        telling: Telling apart.
        every: Steps between two of the latter.
        seed: Of the examples.
    """
    step = 0
    while True:
        beside = next(telling) if step % every == 0 else None
        yield _step(examples, beside, random.Random(f"{seed}-f-{step}"))
        step += 1


def _step(examples: FindingExamples, beside: StepLoss | None, rng: random.Random) -> StepLoss:
    def loss(learner: Learner) -> tuple[Tensor, Metrics]:
        out, metrics = examples(learner, rng)
        if beside is not None:
            extra, more = beside(learner)
            out, metrics = out + extra, metrics | more
        return out, metrics

    return loss


def _length(row: Row) -> int:
    prompt, answers = row
    return len(prompt) + sum(map(len, answers))
