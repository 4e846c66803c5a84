"""Which part of a wordy request tells what is looked for, by a model that writes captions.

A clause that describes is likelier as a caption than as a line of a letter. Of a single clause the
parts that speak of whoever asks are held against the others in the same way. Nothing is written:
what is kept stands in the request word by word.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from genmm_retriever.describing.prompts.queries import as_caption_prompt, as_letter_prompt
from genmm_retriever.identifiers.keywords import is_content, words
from genmm_retriever.querying.guard import LEAST_KEPT, share_kept, telling_words

_ENDS = re.compile(r"(?<=[.!?:;])\s+|\n+")
_PARTS = re.compile(r",\s+|\s+(?=(?:that|which|where)\s+(?:I|we|you)\b)", re.IGNORECASE)
_PERSONAL = frozenset("i i'm i've i'd me my mine we us our you your".split())  # noqa: SIM905
_JOINING = re.compile(
    r"(?:(?:and|but|or|of|with|about|from|for|where|which|that|who|whose|in which|on which|"
    r"showing|there is|there are)\s+)+",
    re.IGNORECASE,
)
_WORD = re.compile(r"[\w'-]+")
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


def describing_clauses(model: Any, texts: Sequence[str]) -> list[Described]:
    """What of each text describes.

    Args:
        model: Gives log-probabilities and was trained to write captions.
        texts: Requests.
    """
    start = time.perf_counter()
    clauses = [clauses_of(text) for text in texts]
    parts = [some if len(some) > 1 else parts_of(some[0]) if some else [] for some in clauses]
    gains = iter(_gains(model, [part for some in parts if len(some) > 1 for part in some]))
    worth = [[next(gains) for _ in some] if len(some) > 1 else [0.0] * len(some) for some in parts]
    seconds = (time.perf_counter() - start) / max(1, len(texts))
    found: list[Described] = []
    for text, whole, some, own in zip(texts, clauses, parts, worth, strict=True):
        kept = _kept(some, own, least=_NEARLY, only_personal=len(whole) == 1)
        if len(whole) == 1 and share_kept(text, " ".join(kept)) < LEAST_KEPT:
            kept = some
        rest = [part for part in some if part not in kept]
        # Among clauses the choice is enough: trimmed, those of people who tell would lose words.
        cut = ", ".join(map(trimmed, kept) if len(whole) == 1 else kept)
        changed = words(cut) != words(text)
        found.append(Described(cut if cut and changed else text, rest, seconds))
    return found


def parts_of(clause: str) -> list[str]:
    """A clause cut at commas, and before what says how whoever asks knows the picture.

    Examples:
        >>> parts_of("find me what I saw, in which a dog runs, thanks")
        ['in which a dog runs']
    """
    return [part for part in _PARTS.split(clause) if telling_words(part)]


def trimmed(part: str) -> str:
    """A part without the words of asking before what it tells of.

    Examples:
        >>> trimmed("Could you please find me the picture of a cup of coffee")
        'a cup of coffee'
        >>> trimmed("in which a dog runs"), trimmed("A man looking at me")
        ('a dog runs', 'A man looking at me')
    """
    found = list(_WORD.finditer(part))
    first = next((n for n, word in enumerate(found) if telling_words(word.group())), 0)
    asked = [n for n in range(first) if asks(found[n].group())]
    left = part[found[asked[-1]].end() :].lstrip() if asked else part
    joining = _JOINING.match(left)
    return left[joining.end() :] if joining else left


def asks(word: str) -> bool:
    """Whether a word speaks of searching, or of whoever asks."""
    return word.lower() in _PERSONAL or (not telling_words(word) and is_content(word.lower()))


def _gains(model: Any, parts: Sequence[str]) -> list[float]:
    """How much likelier each part is as a caption than as a line of a letter, in nats a token."""
    if not parts:
        return []
    tails = [[*model.encode(part)[:_TOKENS], model.eos_token_id] for part in parts]
    prompts = [as_caption_prompt()] * len(parts) + [as_letter_prompt()] * len(parts)
    scored = [float(one.mean()) for one in model.score(prompts, tails * 2)]
    return [
        caption - _LETTER * letter
        for caption, letter in zip(scored[: len(parts)], scored[len(parts) :], strict=True)
    ]


def _kept(
    parts: Sequence[str], gains: Sequence[float], *, least: float, only_personal: bool
) -> list[str]:
    """Parts that describe nearly as well as the best; the others go, or the personal of them."""
    best = max(gains, default=0.0)
    return [
        part
        for part, gain in zip(parts, gains, strict=True)
        if gain >= best - least or (only_personal and not _PERSONAL & set(words(part)))
    ]
