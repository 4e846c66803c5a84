"""Facts worded as people ask for a change: "the same kind of dog, but in the snow"."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence

from benchmarks.corpora.facts import Fact
from benchmarks.corpora.lexicon import ANIMALS, KINDS, lexicon

_INSTEAD = ("{body} instead", "{body} this time", "now {body}", "but {body}")
_BUT = (
    "the same kind of {noun}, but {body}",
    "{such}, but {body}",
    "like this, but {body}",
    "similar to this photo, only {body}",
    "{such} {body}",
)
_NOT = (
    "{body} instead of {gone}",
    "{body}, not {gone}",
    "{such}, but {body} and not {gone}",
    "no longer {gone}, now {body}",
)
_COUNTED = (
    "now with {body}",
    "{body} instead",
    "like this, but with {body}",
    "similar to this photo, only with {body}",
    "the same, but {body}",
)
_COUNTED_NOT = ("{body} instead of {gone}", "{body}, not {gone}")
_NOT_JUST = (*_COUNTED_NOT, "now {body}, not just {gone}")


def modification(
    phrases: Mapping[Fact, str],
    noun: str,
    gone: tuple[Fact, str] | None,
    draw: random.Random,
) -> str:
    """The text of a change.

    Args:
        phrases: What is to hold, worded.
        noun: The subject, as the target's captions call it.
        gone: What is to hold no longer, worded, or None.
        draw: Chooses among phrasings.

    Examples:
        >>> snow, grass = Fact("scene", "snow"), Fact("scene", "grass")
        >>> modification({snow: "in the snow"}, "dog", (grass, "in the grass"), random.Random(1))
        'in the snow, not in the grass'
    """
    counted = any(fact.kind == "count" for fact in phrases)
    body = _body(phrases, noun, draw)
    fields = {"body": body, "noun": noun, "such": _such(noun)}
    if gone is not None:
        ways: tuple[str, ...] = _COUNTED_NOT if counted else _NOT
        if gone[1] == "one":
            ways = _NOT_JUST
        if any(fact.kind == "colour" for fact in phrases):
            ways = _NOT[:2]
        return draw.choice(ways).format(**fields, gone=gone[1])
    if counted:
        return draw.choice(_COUNTED).format(**fields)
    if len(phrases) == 1 and next(iter(phrases)).kind == "garment" and draw.random() < 0.5:
        return f"{_bare(body)} instead"
    but: tuple[str, ...] = _BUT[:2] if any(fact.kind == "colour" for fact in phrases) else _BUT
    if lexicon().subjects[noun] not in ANIMALS:
        but = but[1:]
    chosen: str = draw.choice((*_INSTEAD, *but, *but))
    return chosen.format(**fields)


def _body(phrases: Mapping[Fact, str], noun: str, draw: random.Random) -> str:
    """What is to hold, in the order in which people say it."""
    ordered = sorted(phrases, key=lambda fact: KINDS.index(fact.kind))
    said = [phrases[fact] for fact in ordered]
    if ordered[0].kind == "count":
        front = said[:2] if len(said) > 1 and ordered[1].kind == "colour" else said[:1]
        said = [" ".join((*front, noun)), *said[len(front) :]]
    elif ordered[0].kind == "colour" and len(said) > 1:
        said = [f"{said[0]} and", *said[1:]]
    elif ordered[0].kind == "garment" and said[0].startswith("in ") and draw.random() < 0.5:
        said[0] = f"wearing {said[0].removeprefix('in ')}"
    return _joined(said, counted=ordered[0].kind == "count")


def _joined(said: Sequence[str], *, counted: bool) -> str:
    """Phrases in a row; "and" stands where one does not go on from the other."""
    text = said[0]
    for place, (before, phrase) in enumerate(itertools.pairwise(said)):
        alike = phrase.split()[0] == before.split()[0]
        alike = alike or (phrase.endswith("ing") and not (counted and place == 0))
        text += f" and {phrase}" if alike and not text.endswith(" and") else f" {phrase}"
    return text


def _such(noun: str) -> str:
    """The subject, pointed at."""
    return f"{noun} like these" if noun in lexicon().plurals else f"a {noun} like this one"


def _bare(body: str) -> str:
    """A garment without the words around it."""
    for front in ("wearing ", "in ", "with ", "a ", "an "):
        body = body.removeprefix(front)
    return body
