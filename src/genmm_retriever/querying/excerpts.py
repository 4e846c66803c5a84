"""What of a long text is read for an answer: the place that was found."""

from __future__ import annotations

import re

from genmm_retriever.describing.cleaning import LETTERS
from genmm_retriever.querying.reasoner import titled, words_of
from genmm_retriever.schema import Hit

_CUT = "\u2026"
_SENTENCE_END = re.compile(r"[.!?][\"')\]\u201d]*\s|[\u3002\uff01\uff1f]|\n\s*\n")
_BEFORE = 0.25
"""Share of the words shown that may stand before the place."""


def excerpt(hit: Hit, max_words: int) -> str:
    """The words of a hit, or of a long text those around the clues that led to it.

    Args:
        hit: A hit.
        max_words: Words that will be read; more may come back.

    Examples:
        >>> from genmm_retriever.schema import Evidence, FoundClue, Item
        >>> text = "It rained. " * 9 + "The keeper was Ida. She stayed."
        >>> clue = FoundClue(text="keeper", logprob=-1, score=1, count=1, documents=1,
        ...                  spans=((103, 109),))
        >>> hit = Hit(item=Item(id="1", text=text), score=1, rank=1,
        ...           evidence=Evidence(clues=(clue,), caption=text))
        >>> excerpt(hit, 8)
        '\u2026 The keeper was Ida. She stayed.'
    """
    text = hit.evidence.caption or ""
    spans = [span for clue in hit.evidence.clues for span in clue.spans if span[1] <= len(text)]
    short = len(text.split()) <= max_words and len(text) <= LETTERS * max_words
    if not spans or short:
        return words_of(hit)
    start = _beginning(text, _densest(text, spans, max_words), int(_BEFORE * max_words))
    shown = f"{_CUT} {text[start:]}" if start else text
    return titled(hit, shown)


def _densest(text: str, spans: list[tuple[int, int]], max_words: int) -> int:
    """Where the stretch of so many words begins that holds the most of the clues' characters."""
    places = sorted(spans)
    whole = sum(len(word) + 1 for word in text.split()[:max_words])
    room = min(whole, LETTERS * max_words) * (1 - _BEFORE)

    def held(start: int) -> int:
        return sum(end - first for first, end in places if start <= first and end <= start + room)

    return max((first for first, _ in places), key=lambda start: (held(start), -start))


def _beginning(text: str, place: int, words: int) -> int:
    """Where the sentence of a place begins, or so many words before it if that is nearer."""
    before = [match.end() for match in _SENTENCE_END.finditer(text, 0, place)]
    starts = [match.start() for match in re.finditer(r"\S+", text[:place])]
    nearest = starts[-words] if 0 < words < len(starts) else 0
    nearest = max(nearest, place - LETTERS * words)
    return max(nearest, before[-1] if before else 0)
