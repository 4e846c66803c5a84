"""Which part of a wordy request tells what is looked for, by a model that writes captions.

A clause that describes is likelier as a caption than as a line of a letter. Nothing is written:
what is kept stands in the request word by word.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from genmm_retriever.describing.prompts.queries import as_caption_prompt, as_letter_prompt
from genmm_retriever.querying.guard import telling_words

_ENDS = re.compile(r"(?<=[.!?:;])\s+|\n+")
_TOKENS = 64
_LETTER = 0.8
"""Weight of a clause's likelihood as a line of a letter: so chosen on 100 wordy requests."""
_NEARLY = 0.1
"""Nats a token by which a clause may describe less than the best and is kept with it."""


@dataclass(frozen=True)
class Described:
    """What of a text describes.

    Attributes:
        text: Its describing clauses, in their order.
        left_out: The others.
        seconds: Spent.
    """

    text: str
    left_out: list[str]
    seconds: float


def clauses_of(text: str) -> list[str]:
    """Sentences, and what stands before and after a colon, as far as they tell anything.

    Examples:
        >>> clauses_of("Hello! Please find me this: A dog in the snow. Thanks.")
        ['A dog in the snow']
    """
    parts = (part.strip(" .,;:!?-") for part in _ENDS.split(text))
    return [part for part in parts if part and telling_words(part)]


def describing_clauses(model: Any, texts: Sequence[str]) -> list[Described | None]:
    """What of each text describes; None if it has no two clauses to choose from.

    Args:
        model: Gives log-probabilities and was trained to write captions.
        texts: Requests.
    """
    start = time.perf_counter()
    clauses = [clauses_of(text) for text in texts]
    asked = [clause for some in clauses if len(some) > 1 for clause in some]
    tails = [[*model.encode(clause)[:_TOKENS], model.eos_token_id] for clause in asked]
    prompts = [as_caption_prompt()] * len(asked) + [as_letter_prompt()] * len(asked)
    scored = [float(one.mean()) for one in model.score(prompts, tails * 2)] if asked else []
    gains = iter(
        caption - _LETTER * letter
        for caption, letter in zip(scored[: len(asked)], scored[len(asked) :], strict=True)
    )
    seconds = (time.perf_counter() - start) / max(1, len(texts))
    found: list[Described | None] = []
    for some in clauses:
        if len(some) < 2:
            found.append(None)
            continue
        own = [next(gains) for _ in some]
        kept = [gain >= max(own) - _NEARLY for gain in own]
        text = ", ".join(clause for clause, keep in zip(some, kept, strict=True) if keep)
        rest = [clause for clause, keep in zip(some, kept, strict=True) if not keep]
        found.append(Described(text, rest, seconds))
    return found
