"""Pairs of queries and identifiers, and what each step of the training shows the model."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from genmm_retriever.describing import identify_prompt, null_prompt, query_given_item_prompt
from genmm_retriever.describing.prompts import style_of
from genmm_retriever.models.base import MLLM, ImagePart, Prompt
from genmm_retriever.schema import ImageRef
from genmm_retriever.training.corpus import Corpus, open_part

ROWS_A_STEP = 16
_NULLS = 0.08
_LOOKS = 0.12
_REHEARSALS = 0.2
_MOST_ANSWERS = 3


@dataclass(frozen=True)
class Pair:
    """A query and the items whose identifiers answer it.

    Attributes:
        text: Its words, or None.
        image: Its picture, or None.
        rows: Rows of the items, at least one.
        looked: Row of the index whose picture is the query's, instead of `image`; or None.
    """

    text: str | None
    image: ImageRef | None
    rows: tuple[int, ...]
    looked: int | None = None

    def prompt(self, model: MLLM, corpus: Corpus) -> Prompt | None:
        """What retrieval asks for this query; None if its picture cannot be opened."""
        part = None
        if self.looked is not None:
            part = corpus.picture(self.looked)
            if part is None:
                return None
        elif self.image is not None:
            part = open_part(self.image)
            features = None
            if part is not None and part.image is not None:
                features = model.encode_images([part.image])
            if part is None:
                return None
            part = part if features is None else ImagePart(features=features[0])
        return identify_prompt(self.text, part, model)


@dataclass(frozen=True)
class Lesson:
    """A prompt and the answers that are to follow it, as token ids with the end token."""

    prompt: Prompt
    answers: list[list[int]]


@dataclass
class Pairs:
    """Pairs to learn from, and those that are held out.

    Attributes:
        new: Seen in every epoch.
        old: Of items that an earlier training knew; replayed by a share.
        held: Never learnt from.
        composed: Pictures with a change asked for, of triplets; an epoch has at most as many of
            them as of the others.
        held_composed: Such, never learnt from.
        said: What may follow when a row's item is described: queries written for it.
        held_human: Those of `held` that people wrote.
    """

    new: list[Pair] = field(default_factory=list)
    old: list[Pair] = field(default_factory=list)
    held: list[Pair] = field(default_factory=list)
    composed: list[Pair] = field(default_factory=list)
    held_composed: list[Pair] = field(default_factory=list)
    said: dict[int, list[str]] = field(default_factory=dict)
    held_human: int = 0


class Curriculum:
    """Makes the steps' lessons; a step is a pure function of the seed and its number.

    Most rows of a step are queries with the identifiers of their items. The others keep the
    model what it is: the empty query with any identifiers (its likelihood debiases the
    search), pictures with their own identifiers, and items with what was said of them (the
    verifier's prompt, whose likelihoods must not drift while identifiers are learnt).

    Args:
        corpus: The index.
        pairs: What there is to learn.
        model: Gives prompts and tokens.
        seed: Of all choices.
        replay: Old pairs for each new one in an epoch.
    """

    def __init__(
        self, corpus: Corpus, pairs: Pairs, model: MLLM, *, seed: int = 0, replay: float = 1.0
    ) -> None:
        self.corpus, self.pairs, self.model, self.seed = corpus, pairs, model, seed
        fresh = len(pairs.new) + len(pairs.composed)
        self.replayed = min(len(pairs.old), round(replay * fresh))
        others = len(pairs.new) + self.replayed
        self.mixed = min(len(pairs.composed), others or fresh)
        self.pictures = [row for row in corpus.rows if corpus.is_picture(row)]
        self.spoken = [row for row in corpus.rows if self._said(row)]
        self._kept: tuple[int, list[Pair]] = (-1, [])
        looks = _LOOKS if self.pictures else 0.0
        rehearsals = _REHEARSALS if self.spoken else 0.0
        self.counts = {
            "null": max(1, int(ROWS_A_STEP * _NULLS)),
            "look": round(ROWS_A_STEP * looks),
            "rehearse": round(ROWS_A_STEP * rehearsals),
        }
        self.asked = ROWS_A_STEP - sum(self.counts.values())

    @property
    def epoch_pairs(self) -> int:
        """Pairs of an epoch."""
        return len(self.pairs.new) + self.replayed + self.mixed

    @property
    def epoch_steps(self) -> int:
        """Steps of an epoch."""
        return max(1, -(-self.epoch_pairs // self.asked))

    def step(self, number: int) -> list[Lesson]:
        """The lessons of a step, from 0."""
        rng = random.Random(f"{self.seed}-step-{number}")
        epoch, place = divmod(number, self.epoch_steps)
        chosen = self._epoch(epoch)[place * self.asked : (place + 1) * self.asked]
        lessons = [self._find(pair, rng) for pair in chosen]
        lessons += [self._look(rng) for _ in range(self.counts["look"])]
        lessons += [self._rehearse(rng) for _ in range(self.counts["rehearse"])]
        # One row now and then two, so that the share holds in the mean.
        nulls = self.counts["null"] + (rng.random() < ROWS_A_STEP * _NULLS % 1)
        lessons += [self._null(rng) for _ in range(nulls)]
        return [one for one in lessons if one is not None and one.answers]

    def _epoch(self, epoch: int) -> list[Pair]:
        if self._kept[0] != epoch:
            rng = random.Random(f"{self.seed}-epoch-{epoch}")
            pairs = [*self.pairs.new, *rng.sample(self.pairs.old, self.replayed)]
            pairs += rng.sample(self.pairs.composed, self.mixed)
            rng.shuffle(pairs)
            self._kept = epoch, pairs
        return self._kept[1]

    def _said(self, row: int) -> list[str]:
        """What the model is to go on saying when it is shown an item as the verifier shows it.

        An instructed model is asked for a description, so its own descriptions follow; the
        builtin model writes descriptions and queries alike.
        """
        if self.corpus.is_picture(row) and style_of(self.model) == "instruct":
            return self.corpus.captions[row]
        return self.pairs.said.get(row, [])

    def _find(self, pair: Pair, rng: random.Random) -> Lesson | None:
        if pair.text is not None and rng.random() < 0.5:
            # Users write in any case, with or without a full stop.
            pair = replace(pair, text=pair.text.lower().rstrip(" .") or pair.text)
        prompt = pair.prompt(self.model, self.corpus)
        return None if prompt is None else Lesson(prompt, self._answers(pair.rows, rng))

    def _answers(self, rows: Sequence[int], rng: random.Random) -> list[list[int]]:
        found = [list(tokens) for row in rows for tokens in self.corpus.answers[row]]
        return rng.sample(found, min(_MOST_ANSWERS, len(found)))

    def _look(self, rng: random.Random) -> Lesson | None:
        row = rng.choice(self.pictures)
        image = self.corpus.picture(row)
        if image is None:
            return None
        return Lesson(identify_prompt(None, image, self.model), self._answers((row,), rng))

    def _rehearse(self, rng: random.Random) -> Lesson | None:
        row = rng.choice(self.spoken)
        said = self._said(row)
        texts = rng.sample(said, min(2, len(said)))
        answers = [[*self.model.encode(text), self.model.eos_token_id] for text in texts]
        if not self.corpus.is_picture(row):
            text = self.corpus.item(row).text
            return Lesson(query_given_item_prompt(self.model, text=text), answers)
        image = self.corpus.picture(row)
        if image is None:
            return None
        return Lesson(query_given_item_prompt(self.model, image=image), answers)

    def _null(self, rng: random.Random) -> Lesson:
        rows = rng.sample(self.corpus.rows, min(_MOST_ANSWERS, len(self.corpus.rows)))
        answers = [list(rng.choice(self.corpus.answers[row])) for row in rows]
        return Lesson(null_prompt(self.model), answers)
