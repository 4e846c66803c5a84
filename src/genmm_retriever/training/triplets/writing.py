"""Who writes what leads from one picture to another: a model that sees both, or a rule."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from genmm_retriever.describing import clean_caption
from genmm_retriever.describing.prompts import style_of
from genmm_retriever.describing.prompts.triplets import (
    TRIPLETS_VERSION,
    change_prompt,
    phrased_change,
)
from genmm_retriever.errors import CapabilityError
from genmm_retriever.models.base import MLLM, ImagePart
from genmm_retriever.training.triplets.words import Span, Words, spans

ATTEMPTS = 3
"""Texts that are written for each direction of a pair; the best of those that pass is kept."""
_TEMPERATURE = 0.7
_SEED = 6007
"""Added to the seed, so that samples differ from those that made descriptions and queries."""
_MOST_JOINED = 10


@dataclass(frozen=True)
class Look:
    """One picture of a pair: how it is shown to a model, and what is known of it in words."""

    part: ImagePart
    words: Words


class Writer(Protocol):
    """Writes texts for pairs of pictures."""

    @property
    def version(self) -> str:
        """What is kept with each triplet as its prompt's version."""
        ...

    def write(self, pairs: Sequence[tuple[Look, Look]], names: Sequence[str]) -> list[list[str]]:
        """Some texts that lead from the first picture of each pair to the second.

        Args:
            pairs: n pairs.
            names: What tells the pairs apart, n texts; random choices depend on them.
        """
        ...


def writer_for(model: MLLM, seed: int) -> Writer:
    """The rule for models of the builtin style, else the model itself.

    Raises:
        CapabilityError: If the model takes no pictures.
    """
    if style_of(model) == "builtin":
        return RuleWriter(seed)
    if not model.supports_images:
        raise CapabilityError(
            f"{model.name!r} takes no pictures, so it cannot say how two of them differ",
            "name a model that does: --model",
        )
    return ModelWriter(model, seed)


class ModelWriter:
    """An instructed model is shown both pictures, with what was noted of each.

    Args:
        model: Takes two pictures in one prompt.
        seed: Of the sampling.
    """

    def __init__(self, model: MLLM, seed: int) -> None:
        self.model, self.seed = model, seed

    @property
    def version(self) -> str:
        """That of the prompts."""
        return TRIPLETS_VERSION

    def write(self, pairs: Sequence[tuple[Look, Look]], names: Sequence[str]) -> list[list[str]]:
        """See `Writer`; samples depend on the seed and the prompt, not on `names`."""
        prompts = [
            change_prompt(
                reference.part,
                target.part,
                self.model,
                reference_note=_note(reference.words),
                target_note=_note(target.words),
            )
            for reference, target in pairs
        ]
        written = self.model.generate(
            prompts,
            max_new_tokens=64,
            num_return_sequences=ATTEMPTS,
            temperature=_TEMPERATURE,
            seed=self.seed + _SEED,
        )
        return [list(dict.fromkeys(map(clean_caption, texts))) for texts in written]


def _note(known: Words) -> str:
    return known.texts[0] if known.texts else ""


class RuleWriter:
    """Phrases of the second picture's descriptions that the first's lack, put as people put it.

    For models that cannot compare two pictures in words. It says no more than the descriptions
    do: what they have wrong or leave out is wrong or missing in the texts too.

    Args:
        seed: Of the choice of phrases and phrasings.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    @property
    def version(self) -> str:
        """That of the phrasings."""
        return f"rule-{TRIPLETS_VERSION}"

    def write(self, pairs: Sequence[tuple[Look, Look]], names: Sequence[str]) -> list[list[str]]:
        """See `Writer`."""
        return [
            rule_texts(reference.words, target.words, random.Random(f"{self.seed}-{name}"))
            for (reference, target), name in zip(pairs, names, strict=True)
        ]


def rule_texts(
    reference: Words, target: Words, rng: random.Random, *, most: int = 2 * ATTEMPTS
) -> list[str]:
    """Texts by rule that lead from one picture to another, none if nothing is new.

    Args:
        reference: What is known of the picture that somebody has.
        target: What is known of the one that is looked for.
        rng: Chooses phrases and phrasings.
        most: Texts at most.

    Examples:
        >>> here, there = Words(("A brown dog on grass.",)), Words(("A brown dog in snow.",))
        >>> rule_texts(here, there, random.Random(0))
        ['the same but in snow']
    """
    every = spans(target, reference)
    new = [one for one in every if one.whole] or every
    gone = [one for one in spans(reference, target) if one.thing]
    texts = []
    for span in _ranked(new):
        old = rng.choice(gone).text if span.thing and gone and rng.random() < 0.5 else None
        texts.append(phrased_change(span.text, old, rng.randrange(100), thing=span.thing))
    both = _joined(new)
    if both is not None:
        texts.insert(0, phrased_change(both, None, rng.randrange(100), thing=True))
    return list(dict.fromkeys(texts))[:most]


def _ranked(found: Sequence[Span]) -> list[Span]:
    """Those with more new words first, up to two; the likeliest description's among equals."""
    return sorted(found, key=lambda one: -min(2, len(one.new)))


def _joined(found: Sequence[Span]) -> str | None:
    """Two things in one phrase, if there are two short ones that share no new word."""
    things = [one for one in found if one.thing]
    for other in things[1:]:
        text = f"{things[0].text} and {other.text}"
        if not things[0].new & other.new and len(text.split()) <= _MOST_JOINED:
            return text
    return None
