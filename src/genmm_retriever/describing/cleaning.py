"""What a model wrote, or a human, made fit to be indexed."""

from __future__ import annotations

import re
import unicodedata

MAX_WORDS = 60
_MAX_CHARS = 200_000
_LONGEST_LOOP = 12
LETTERS = 8
"""Characters that a word may take, on average: not every language has blanks between words."""
_FRESH = 0.4
"""Share of different words below which a long text is a loop."""
_THINKING = re.compile(r"<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)", re.DOTALL | re.IGNORECASE)
_LABEL = re.compile(r"^(?:caption|description|answer)\s*:\s*", re.IGNORECASE)
_QUOTES = "\"'`\u201c\u201d\u2018\u2019 "
_JOINERS = "\u200c\u200d"


def clean_caption(text: str, *, max_words: int = MAX_WORDS, loops: bool = True) -> str:
    r"""One caption without control characters, labels, loops and overlength.

    A phrase of up to 12 words that is repeated at once (a word three times, a longer phrase
    twice) ends the caption after its first appearance: a model that loops tells nothing new.

    Args:
        text: As generated.
        max_words: Words beyond are cut, at the end of a sentence if there is one.
        loops: Whether repetitions end it; False for what may well repeat itself, such as an
            answer that names New York, New York.

    Returns:
        The caption on one line; empty if nothing is left.

    Examples:
        >>> clean_caption('Caption: "A dog\truns, a dog runs, a dog runs, a dog')
        'A dog runs'
        >>> clean_caption("One dog. One cat. One very long story", max_words=6)
        'One dog. One cat.'
    """
    text = _THINKING.sub(" ", _plain(text)).strip(_QUOTES)
    words = _LABEL.sub("", text).strip(_QUOTES).split()
    words = _without_loop(words) if loops else words
    if len(words) > max_words:
        words = _whole_sentences(words[:max_words])
    return " ".join(words).rstrip(" ,;:-")


def quotation(text: str, *, max_words: int) -> str:
    r"""A human text word by word, on one line and without control characters, cut where long.

    Examples:
        >>> quotation("New York, New York is a film.\nIt is long.", max_words=8)
        'New York, New York is a film.'
    """
    words = _plain(text).split()
    whole = " ".join(_whole_sentences(words[:max_words]) if len(words) > max_words else words)
    if len(whole) <= LETTERS * max_words:
        return whole
    shown = whole[: LETTERS * max_words]
    end = max(shown.rfind(mark) for mark in "\u3002\uff01\uff1f")
    return shown[: end + 1] if end > len(shown) // 2 else shown


def text_descriptions(text: str, *, per_item: int = 3, max_words: int = MAX_WORDS) -> list[str]:
    """A passage as the descriptions that its identifiers are made from.

    A short text is its own description. Of a longer one the opening comes first and then
    windows spread evenly over the rest, so that late parts can be found too.

    Args:
        text: The item's own text.
        per_item: Most descriptions.
        max_words: Words a description.

    Returns:
        One to `per_item` distinct texts; empty only for a text without visible characters.

    Examples:
        >>> text_descriptions("one two three four", per_item=2, max_words=2)
        ['one two', 'three four']
    """
    words = _plain(text).split()
    if not words:
        return []
    windows = min(max(1, per_item), -(-len(words) // max_words))
    last = max(0, len(words) - max_words)
    starts = [round(i * last / (windows - 1)) for i in range(windows)] if windows > 1 else [0]
    texts = (" ".join(words[start : start + max_words]) for start in starts)
    return list(dict.fromkeys(texts))


def loops(text: str) -> bool:
    """Whether a text goes round in circles: a phrase repeated at once, or the same few words.

    Examples:
        >>> loops("A dog runs, a dog runs, a dog"), loops("A dog runs after a dog.")
        (True, False)
    """
    words = _plain(text).split()
    few = len({word.casefold() for word in words}) < _FRESH * len(words)
    return len(_without_loop(words)) < len(words) or (len(words) > 2 * _LONGEST_LOOP and few)


def _plain(text: str) -> str:
    """Text without control and format characters, surrogates replaced by blanks."""
    text = unicodedata.normalize("NFC", text[:_MAX_CHARS])
    return "".join(
        char if char in _JOINERS or unicodedata.category(char)[0] != "C" else " " for char in text
    )


def _without_loop(words: list[str]) -> list[str]:
    keys = [word.casefold().strip(".,;:!?\"'") for word in words]
    for end in range(len(words)):
        for period in range(1, min(_LONGEST_LOOP, (end + 1) // 2) + 1):
            times = 3 if period == 1 else 2
            start = end + 1 - period * times
            if start < 0:
                continue
            if all(keys[i] == keys[i + period] for i in range(start, end + 1 - period)):
                return words[: start + period]
    return words


def _whole_sentences(words: list[str]) -> list[str]:
    for end in range(len(words), len(words) // 2, -1):
        if words[end - 1].endswith((".", "!", "?", "\u3002")):
            return words[:end]
    return words
