"""What keeps invented and empty texts out: checks of words, and of the pictures."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch

from genmm_retriever.describing import query_given_item_prompt
from genmm_retriever.models.base import MLLM, DualEncoder, ImagePart
from genmm_retriever.training.triplets.words import Words, asked_part, content

LEAST_WORDS, MOST_WORDS = 2, 25
REASONS = (
    "unreadable",
    "empty",
    "length",
    "pictures",
    "caption",
    "nothing-new",
    "unfit",
    "duplicate",
)
"""Why a pair is dropped, in the order of the checks; of several texts the furthest counts.

unreadable: a picture cannot be opened; empty: nothing was written; length: fewer than 2 or more
than 25 words; pictures: it speaks of the pictures themselves; caption: it is a whole description
of the target; nothing-new: it shares no content word with the target's descriptions that the
reference's lack; unfit: it fits the reference as well as the target; duplicate: it was written
before, or for the other direction.
"""
_OF_PICTURES = re.compile(
    r"\b(?:(?:first|second|other|reference|target)\s+(?:picture|image|photo)"
    r"|(?:picture|image|photo)\s+[ab12])\b",
    re.IGNORECASE,
)
_WHOLE = 0.8
_LEAST_CONTENT = 4
_MAX_TEXT_TOKENS = 64


def text_key(text: str) -> str:
    """What is equal for texts that differ in case and punctuation alone.

    Examples:
        >>> text_key("With a Red car!")
        'with a red car'
    """
    return " ".join("".join(c if c.isalnum() else " " for c in text.casefold()).split())


def fault(text: str, reference: Words, target: Words) -> str | None:
    """Which check of words a text fails, or None if it passes all; see `REASONS`.

    Args:
        text: Leads from the reference to the target.
        reference: What is known of the one.
        target: What is known of the other.

    Examples:
        >>> here, there = Words(("A brown dog on grass.",)), Words(("A brown dog in snow.",))
        >>> fault("the same but in snow", here, there) is None
        True
        >>> [fault(t, here, there) for t in ("snow", "a brown dog in snow", "with a red car")]
        ['length', 'caption', 'nothing-new']
        >>> fault("not in snow but on grass", here, there)
        'nothing-new'
    """
    if not text_key(text):
        return "empty"
    if not LEAST_WORDS <= len(text.split()) <= MOST_WORDS:
        return "length"
    if _OF_PICTURES.search(text):
        return "pictures"
    if any(_is_whole(text, one) for one in target.texts):
        return "caption"
    asked = content(asked_part(text))
    if not any(target.has(word) and not reference.has(word) for word in asked):
        return "nothing-new"
    return None


def _is_whole(text: str, description: str) -> bool:
    """Whether a text says all, or nearly all, that a description says."""
    key = text_key(description)
    if key and f" {key} " in f" {text_key(text)} ":
        return True
    said = Words((text,))
    told = set(content(description))
    shared = sum(said.has(word) for word in told)
    return len(told) >= _LEAST_CONTENT and shared >= _WHOLE * len(told)


class Fit:
    """How much better texts fit the target's picture than the reference's.

    By cosines of the contrastive head, where the model has one and the pictures have features;
    else by log p(text | picture), in nats a token. Of a text only that part is compared which
    says what is to be there (`asked_part`).

    Args:
        model: The judge.
    """

    def __init__(self, model: MLLM) -> None:
        self.model = model

    @torch.no_grad()
    def gains(
        self, texts: Sequence[str], references: Sequence[ImagePart], targets: Sequence[ImagePart]
    ) -> list[float]:
        """Fit to the target less fit to the reference, of n texts with their two pictures."""
        if not texts:
            return []
        asked = [asked_part(text) for text in texts]
        parts = [*references, *targets]
        seen = [part.features for part in parts if part.features is not None]
        if isinstance(self.model, DualEncoder) and len(seen) == len(parts):
            looks = self.model.embed_images(torch.stack(seen)).float().cpu()
            words = self.model.embed_texts(asked).float().cpu()
            fits = (looks * torch.cat([words, words])).sum(dim=1)
        else:
            fits = self._likelihoods([*asked, *asked], parts)
        return (fits[len(texts) :] - fits[: len(texts)]).tolist()

    def _likelihoods(self, texts: Sequence[str], parts: Sequence[ImagePart]) -> torch.Tensor:
        model = self.model
        prompts = [query_given_item_prompt(model, image=part) for part in parts]
        tails = [[*model.encode(text)[:_MAX_TEXT_TOKENS], model.eos_token_id] for text in texts]
        return torch.stack([one.mean().cpu() for one in model.score(prompts, tails)])
