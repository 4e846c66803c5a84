"""Texts as clues see them: tokens in passages of bounded length, and back to characters."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Protocol

PASSAGE_TOKENS = 192
OVERLAP_TOKENS = 32
HEADING_TOKENS = 64
MARK = "|"
"""Stands before, between and behind the names in a heading: a name with its marks is a phrase
that only the passages of that name have, as SEAL marks titles."""
_LOOK_AHEAD = 32
_AGREEING = 4
_CUT = "\ufffd"


class Tokenizer(Protocol):
    """The part of a model that turns text into tokens and back."""

    def encode(self, text: str) -> list[int]:
        """Token ids of a text."""
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of token ids."""
        ...


def text_tokens(model: Tokenizer, text: str) -> list[int]:
    """Tokens of a text in which its first word is spelled as inside a sentence.

    Byte-level tokenizers spell "dog" at the beginning otherwise than " dog" inside; a phrase
    could then be found in only one of the two places. Tokenizers that add that space
    themselves are left alone.
    """
    inner = model.encode("a dog")[len(model.encode("a")) :]
    if model.encode("dog") != inner and model.encode(" dog") == inner:
        text = " " + text.lstrip()
    return model.encode(text)


def heading(title: str | None, names: Sequence[object]) -> str:
    """What a passage is about, as its first words; empty if that is not known.

    Args:
        title: Comes first.
        names: What else it is called; what is no text is passed over.

    Examples:
        >>> heading("tench", ["tench", "Tinca tinca"])
        '| tench | Tinca tinca |'
    """
    said = [title or "", *(name for name in names if isinstance(name, str))]
    clean = [" ".join(name.replace(MARK, " ").split()) for name in said]
    distinct: dict[str, str] = {}
    for name in filter(None, clean):
        distinct.setdefault(name.casefold(), name)
    if not distinct:
        return ""
    return f"{MARK} {f' {MARK} '.join(distinct.values())} {MARK}"


def split(
    length: int, *, longest: int = PASSAGE_TOKENS, overlap: int = OVERLAP_TOKENS
) -> list[tuple[int, int]]:
    """Passages that cover a text, as (start, end) in tokens.

    They are as few as possible and about equally long. Neighbours share at least `overlap`
    tokens: every phrase of at most `overlap + 1` tokens stands whole in some passage.

    Args:
        length: Tokens of the text.
        longest: Tokens of a passage.
        overlap: Tokens that neighbours share, less than `longest`.

    Returns:
        At least one passage; the one of an empty text is empty.

    Examples:
        >>> split(10, longest=10, overlap=2)
        [(0, 10)]
        >>> split(20, longest=10, overlap=2)
        [(0, 10), (5, 15), (10, 20)]
    """
    if length <= longest:
        return [(0, length)]
    pieces = -(-(length - overlap) // (longest - overlap))
    last = length - longest
    starts = [round(i * last / (pieces - 1)) for i in range(pieces)]
    return [(start, start + longest) for start in starts]


def places_in_text(
    model: Tokenizer, text: str, tokens: Sequence[int], places: Sequence[tuple[int, int]]
) -> list[tuple[int, int] | None]:
    """Where runs of tokens stand in the text that they were made from.

    Models may spell a text otherwise (lower case, joined blanks, normal forms), so the decoded
    tokens are laid beside the text: blanks and case do not matter, and characters that only
    one of the two has are passed over.

    Args:
        model: Whose `text_tokens(model, text)` the tokens are.
        text: The text.
        tokens: Its tokens.
        places: Runs as (start, end) in tokens.

    Returns:
        For each run the (start, end) of its characters in the text, without blanks at the ends;
        None if it has none there.
    """
    written = model.decode(tokens)
    where = _alignment(written, text)
    found: list[tuple[int, int] | None] = []
    for start, end in places:
        before, until = (_characters(model, tokens[:n], written) for n in (start, end))
        own = [place for place in where[before:until] if place >= 0]
        found.append((own[0], own[-1] + 1) if own else None)
    return found


def _characters(model: Tokenizer, tokens: Sequence[int], written: str) -> int:
    """How many characters of `written` its first tokens make, one cut in two not counted."""
    text = model.decode(tokens)
    if not written.startswith(text):
        text = text.rstrip(_CUT)
    return min(len(text), len(written))


def _alignment(written: str, text: str) -> list[int]:
    """For each character of `written` its place in `text`, or -1."""
    ours, origin = _plain(written)
    theirs, place = _plain(text)
    where = [-1] * len(written)
    i = j = 0
    while i < len(ours) and j < len(theirs):
        if ours[i] == theirs[j]:
            where[origin[i]] = place[j]
            i, j = i + 1, j + 1
        else:
            skip, leap = _resume(ours[i : i + 2 * _LOOK_AHEAD], theirs[j : j + 2 * _LOOK_AHEAD])
            i, j = i + skip, j + leap
    return where


def _plain(text: str) -> tuple[str, list[int]]:
    """The text without blanks, case and compositions, and where each character comes from."""
    plain, origin = [], []
    for place, char in enumerate(text):
        for part in unicodedata.normalize("NFKD", char).casefold():
            if not part.isspace():
                plain.append(part)
                origin.append(place)
    return "".join(plain), origin


def _resume(ours: str, theirs: str) -> tuple[int, int]:
    """How many characters to pass over on both sides until they agree again."""
    for distance in range(1, _LOOK_AHEAD):
        for skip in range(distance + 1):
            leap = distance - skip
            mine = ours[skip : skip + _AGREEING]
            if mine and mine == theirs[leap : leap + _AGREEING]:
                return skip, leap
    return 1, 1
