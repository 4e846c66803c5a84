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

# An abbreviation ends nothing, and neither does a point before a small letter.
_ENDS = re.compile(
    r"(?<=[!?:;])\s+|\n+|"
    r"(?<!\bMr\.)(?<!\bMrs\.)(?<!\bMs\.)(?<!\bDr\.)(?<!\bSt\.)(?<!\be\.g\.)(?<!\bi\.e\.)"
    r"(?<!\bvs\.)(?<!\bNo\.)(?<=\.)\s+(?![a-z])"
)
_WRAPPED = re.compile(r"[ \t]*\r?\n(?![ \t]*(?:\r?\n|[-*\u2022]|\d+[.)])|$)[ \t]*")
"""A line's end that is no paragraph's and stands before no point of a list."""
_SHOWING = re.compile(
    r".*\b(?:photo|photograph|picture|pic|image|shot|snapshot)s?\s+"
    r"(?:of|with|showing|where|in which)\s+",
    re.IGNORECASE,
)
_GREETINGS = frozenset("please thanks thank hello hi hey dear sorry kindly regards".split())  # noqa: SIM905
_REQUESTS = frozenset(
    "please could would can find search searching look looking need want show help".split()  # noqa: SIM905
)
_POINTING_BACK = frozenset("it its he she they his her their there".split())  # noqa: SIM905
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
    r"""Sentences, and what stands before and after a colon, as far as they tell anything.

    Examples:
        >>> clauses_of("Hello! Please find me this: A dog in the snow. Thanks.")
        ['A dog in the snow']
        >>> clauses_of("Find Mr. Smith\nin a park. I want a photo of a dog.")
        ['Find Mr. Smith in a park', 'a dog']
    """
    ends = _ENDS.split(_WRAPPED.sub(" ", text))
    parts = (_shown(part.strip(' .,;:!?-"\u201c\u201d')) for part in ends)
    return [part for part in parts if part and telling_words(part)]


def _shown(clause: str) -> str:
    """What a photo is asked for of; any other clause as it is."""
    asked = _SHOWING.match(clause)
    if asked and _is_request(asked.group()) and telling_words(clause[asked.end() :]):
        return clause[asked.end() :]
    return clause


def _is_request(clause: str) -> bool:
    said = set(words(clause)) | {word.lower() for word in _WORD.findall(clause)}
    return bool(_PERSONAL & said) and bool(_REQUESTS & said)


def _is_letter(text: str) -> bool:
    """Whether somebody speaks to somebody, and does not only describe."""
    return any(word.lower() in _PERSONAL | _GREETINGS for word in _WORD.findall(text))


def describing_clauses(model: Any, texts: Sequence[str]) -> list[Described]:
    """What of each text describes.

    Args:
        model: Gives log-probabilities and was trained to write captions.
        texts: Requests.
    """
    start = time.perf_counter()
    # Of what only describes, all describes.
    clauses = [clauses_of(text) if _is_letter(text) else [] for text in texts]
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
    """Parts that describe nearly as well as the best; the others go, or the personal of them.

    Requests are not among them where anything else is; what a part points back at stays with it.
    """
    able = [only_personal or not _is_request(part) for part in parts]
    if not any(able):
        able = [True] * len(parts)
    best = max((gain for gain, may in zip(gains, able, strict=True) if may), default=0.0)
    kept = [
        may and (gain >= best - least or (only_personal and not _PERSONAL & set(words(part))))
        for part, gain, may in zip(parts, gains, able, strict=True)
    ]
    for place in range(len(parts) - 1, 0, -1):
        first = _WORD.match(parts[place])
        back = first is not None and first.group().lower() in _POINTING_BACK
        if kept[place] and back and not only_personal:
            kept[place - 1] |= able[place - 1] and not _PERSONAL & set(words(parts[place - 1]))
    return [part for part, keep in zip(parts, kept, strict=True) if keep]
