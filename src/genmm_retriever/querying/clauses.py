"""Which part of a wordy request tells what is looked for, by a model that writes captions.

Courtesy goes. Where a clause describes as captions do, those go too that only tell of whoever asks,
or that are much less like a caption; a request, a question, a point of a list and whatever has
names or numbers stays in any case. Of a single clause the parts are held against each other in the
same way. Nothing is written: what is kept stands in the request word by word.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from genmm_retriever.describing.prompts.queries import as_caption_prompt, as_letter_prompt
from genmm_retriever.identifiers.keywords import words
from genmm_retriever.querying.guard import LEAST_KEPT, share_kept
from genmm_retriever.querying.letters import Clause, clauses_of, is_letter, parts_of, trimmed

_TOKENS = 64
_LETTER = 0.8
"""Weight of a clause's likelihood as a line of a letter: so chosen on 100 wordy requests."""
_LIKE_A_CAPTION = -0.85
"""What 95 of 100 captions gain at least; the questions of letters to an archive mostly do not."""
_NEARLY = 0.1
"""Nats a token by which what is personal may describe less than the best and is kept with it."""
_MUCH = 0.35
"""Nats a token by which any other clause may; captions themselves differ by that."""
_FEW_WORDS = 5
"""A clause of fewer says too little for the model to judge it, or others by it."""


@dataclass(frozen=True)
class Described:
    """What of a text describes.

    Attributes:
        text: Its describing clauses, in their order.
        left_out: Others that were judged; courtesy is not among them.
        seconds: Spent.
    """

    text: str
    left_out: list[str]
    seconds: float


def describing_clauses(model: Any, texts: Sequence[str]) -> list[Described]:
    """What of each text describes.

    Args:
        model: Gives log-probabilities and was trained to write captions.
        texts: Requests.
    """
    start = time.perf_counter()
    # Of what only describes, all describes.
    clauses = [clauses_of(text) if is_letter(text) else [] for text in texts]
    parts = [some if len(some) > 1 else parts_of(some[0]) if some else [] for some in clauses]
    # One by one: in another company a sum may come out otherwise, and with it what is kept.
    worth = [
        _gains(model, [part.asked for part in some] if len(some) > 1 else []) for some in parts
    ]
    seconds = (time.perf_counter() - start) / max(1, len(texts))
    found: list[Described] = []
    for text, whole, some, own in zip(texts, clauses, parts, worth, strict=True):
        is_one = len(whole) == 1
        kept = _kept(some, own, one_clause=is_one) if own else some
        if is_one and share_kept(text, " ".join(part.text for part in kept)) < LEAST_KEPT:
            kept = some
        rest = [part.text for part in some if part not in kept]
        cut = ", ".join(trimmed(part.text) if is_one else part.asked for part in kept)
        changed = words(cut) != words(text)
        found.append(Described(cut if cut and changed else text, rest, seconds))
    return found


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


def _kept(parts: Sequence[Clause], gains: Sequence[float], *, one_clause: bool) -> list[Clause]:
    """The parts that stay; all of them where none describes as a caption does."""
    telling = [part.is_personal or part.leads for part in parts]
    able = [
        (gain, len(part.text.split()) >= _FEW_WORDS)
        for gain, part, tells in zip(gains, parts, telling, strict=True)
        if part.must_stay or not tells
    ]
    long = [gain for gain, is_long in able if is_long]
    best = max(long or [gain for gain, _ in able] or gains)
    if best < _LIKE_A_CAPTION:
        return list(parts)
    return [
        part
        for part, gain, tells in zip(parts, gains, telling, strict=True)
        if part.must_stay
        or gain >= best - (_NEARLY if tells else _MUCH)
        or (not tells and (one_clause or part.is_negated or len(part.text.split()) < _FEW_WORDS))
    ]
