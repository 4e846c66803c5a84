"""Diverse captions of pictures, in batches that the caller chooses."""

from __future__ import annotations

import re
from collections.abc import Sequence

from genmm_retriever.describing.cleaning import MAX_WORDS, clean_caption
from genmm_retriever.describing.prompts import describe_prompt
from genmm_retriever.errors import InputError
from genmm_retriever.models.base import Generator, ImagePart, Prompt

_NOT_WORDS = re.compile(r"[\W_]+")


class Describer:
    """Asks a model for several different captions of each picture.

    The first caption is the model's likeliest; the others are sampled, so that an item gets
    several doors to be found through. Nothing is remembered between calls: whoever builds an
    index calls this batch by batch, stores what comes back and can go on after any crash.
    Captions do not depend on the batch around a picture, as long as the model's sampling does
    not (`TransformersMLLM` draws by seed and prompt).

    Args:
        model: Anything that generates; log-probabilities are not needed.
        per_item: Most captions a picture.
        max_new_tokens: Length limit of a caption, in tokens.
        temperature: Of the sampling.
        beams: Beams of the first caption; 1 is greedy.
        max_words: Words beyond are cut from a caption.
        seed: Of the sampling.

    Raises:
        InputError: If a number is out of range.
    """

    def __init__(
        self,
        model: Generator,
        *,
        per_item: int = 3,
        max_new_tokens: int = 80,
        temperature: float = 0.8,
        beams: int = 1,
        max_words: int = MAX_WORDS,
        seed: int = 0,
    ) -> None:
        if min(per_item, max_new_tokens, beams, max_words) < 1 or temperature <= 0:
            raise InputError(
                "a Describer needs per_item, max_new_tokens, beams, max_words >= 1 and "
                "temperature > 0",
                f"got {per_item}, {max_new_tokens}, {beams}, {max_words} and {temperature}",
            )
        self.model = model
        self.per_item = per_item
        self.max_new_tokens = max_new_tokens
        self.temperature = temperature
        self.beams = beams
        self.max_words = max_words
        self.seed = seed

    def describe(self, images: Sequence[ImagePart]) -> list[list[str]]:
        """Captions of pictures, given as pixels or as cached features.

        Args:
            images: Any number of pictures; the model batches them.

        Returns:
            For each picture up to `per_item` different captions, the likeliest first. Empty
            if the model wrote nothing usable.
        """
        if not images:
            return []
        prompts = [describe_prompt(image, self.model) for image in images]
        best = self._ask(prompts, number=self.beams, temperature=0.0, seed=self.seed)
        captions: list[dict[str, str]] = [{} for _ in images]
        for found, texts in zip(captions, best, strict=True):
            self._keep(found, texts[:1])
        # A second round, for pictures whose samples came out the same as one another.
        for turn in range(2):
            short = [i for i, found in enumerate(captions) if len(found) < self.per_item]
            if not short or self.per_item == 1:
                break
            sampled = self._ask(
                [prompts[i] for i in short],
                number=self.per_item - 1,
                temperature=self.temperature * (1.0 + 0.25 * turn),
                seed=self.seed + turn,
            )
            for i, texts in zip(short, sampled, strict=True):
                self._keep(captions[i], texts)
        return [list(found.values()) for found in captions]

    def _ask(
        self, prompts: list[Prompt], *, number: int, temperature: float, seed: int
    ) -> list[list[str]]:
        return self.model.generate(
            prompts,
            max_new_tokens=self.max_new_tokens,
            num_return_sequences=number,
            temperature=temperature,
            seed=seed,
        )

    def _keep(self, found: dict[str, str], texts: Sequence[str]) -> None:
        """Add captions that differ in more than case and punctuation, up to the limit."""
        for text in texts:
            caption = clean_caption(text, max_words=self.max_words)
            key = _NOT_WORDS.sub(" ", caption).casefold().strip() or caption
            if caption and key not in found and len(found) < self.per_item:
                found[key] = caption
