"""The JSON that query adapters ask models for; every string and list is bounded."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

MAX_CONTEXT_WORDS = 24

_Short = Annotated[str, Field(max_length=120)]
_Sentence = Annotated[str, Field(max_length=300)]
_Few = Annotated[list[_Short], Field(max_length=6)]


class _Form(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Constraints(_Form):
    """What must be true of what is looked for."""

    constraints: Annotated[str, Field(max_length=800)]


class Resolved(_Form):
    """A question that needs no picture to be understood."""

    question: _Sentence


class Expansions(_Form):
    """Other ways to ask for the same."""

    queries: Annotated[list[_Sentence], Field(max_length=8)]


class KeepAndChange(_Form):
    """What of a picture stays, and what changes."""

    keep: _Few
    change: _Few


class Target(_Form):
    """The picture that a composed query looks for."""

    target: _Sentence


class WayBack(_Form):
    """What the picture of a composed query shows, and the request that leads back to it."""

    reference: _Sentence
    reverse: _Sentence


class Reasoning(_Form):
    """What is looked for (R4R, arXiv 2510.13095); the context has at most 24 words."""

    intent: _Short
    entities: _Few
    must_have: _Few
    avoid: _Few
    context: _Sentence


class Reflection(_Form):
    """What a search brought, judged."""

    ok: bool
    wrong_because: _Sentence
    context: _Sentence


_MOST = 999
_DIGITS = re.compile(r"[0-9]{1,3}")


def _numbers(value: Any) -> Any:
    """Numbers of sources; a list's elements that cannot be any are passed over."""
    if not isinstance(value, list):
        return value
    read = [int(one) if isinstance(one, str) and _DIGITS.fullmatch(one) else one for one in value]
    return [one for one in read if type(one) is int and 0 <= one <= _MOST]


class GroundedAnswer(_Form):
    """An answer and the numbers of the sources that it rests on; numbers of none do not count."""

    found: bool
    answer: Annotated[str, Field(max_length=800)]
    sources: Annotated[
        list[Annotated[int, Field(ge=0, le=_MOST)]],
        Field(max_length=20),
        BeforeValidator(_numbers),
    ]
