"""Whether a note may stand: it says something, adds something, and loses no fact."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from genmm_retriever.corpus.store import NoteKind
from genmm_retriever.describing.cleaning import clean_caption, loops
from genmm_retriever.describing.prompts.notes import (
    DENSE_WORDS,
    KNOWLEDGE_WORDS,
    NOTHING_KNOWN,
    refined_words,
)

NOTHING = "nothing is known of it"
REPEATS = "it only repeats what is there"
ANSWERS = (NOTHING, REPEATS)
"""Reasons that are answers: whoever asks on would be told inventions."""
NAMES_KEPT = 0.8
WORDS_KEPT = 0.5

# Scripts without blanks are compared by their characters.
_TOKEN = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff]|\d+(?:[.,:/-]\d+)*|(?:(?![\u3040-\u30ff\u3400-\u9fff\d])\w)+"
)
_ENDS = frozenset(".!?:\u3002")
_PREFACE = re.compile(
    r"^(?:(?:sure|certainly|of course)[,.!]?\s*)?(?:here(?:'s| is| are)\b[^:]{0,60}:|"
    r"(?:dense caption|refined text|text|background|knowledge)\s*:)\s*",
    re.IGNORECASE,
)
_REFUSAL = re.compile(
    r"^(?:i'?m sorry|i am sorry|sorry,|i can(?:no|')t\b|i am unable|i'm unable|as an ai\b)",
    re.IGNORECASE,
)
_FUNCTION_WORDS = frozenset(
    """
    a about above after again all also an and any are as at back be been before behind being
    below between both but by can could did do does down during each for from further had has
    have he her here him his how i if in into is it its itself just me more most my near next no
    nor not of off on once one only onto or other our out over own same she should so some such
    than that the their them then there these they this those through to too under until up very
    was we were what when where which while who whom why will with would you your
    """.split()  # noqa: SIM905 - a list would be a page long
)


@dataclass
class Facts:
    """What of a text another text must keep.

    Attributes:
        numbers: Each number in figures, without the commas of thousands.
        names: Words with a capital where no sentence begins.
        words: The other words that say something.
    """

    numbers: set[str] = field(default_factory=set)
    names: set[str] = field(default_factory=set)
    words: set[str] = field(default_factory=set)

    @property
    def all(self) -> set[str]:
        """All of them."""
        return self.numbers | self.names | self.words


def facts_of(text: str) -> Facts:
    """The numbers, names and other words of a text, in the form they are compared in.

    Examples:
        >>> facts = facts_of("The dogs met Ansel Adams in 1,932.")
        >>> sorted(facts.names), facts.numbers, sorted(facts.words)
        (['adam', 'ansel'], {'1932'}, ['dog', 'met'])
    """
    facts = Facts()
    tokens = list(_TOKEN.finditer(text))
    for place, found in enumerate(tokens):
        token = found.group()
        if token[0].isdigit():
            facts.numbers.add(re.sub(r"(?<=\d),(?=\d{3})", "", token))
            continue
        key = _key(token)
        if token.casefold() in _FUNCTION_WORDS or not key:
            continue
        follows = tokens[place + 1].group() if place + 1 < len(tokens) else ""
        begins = not place or text[: found.start()].rstrip()[-1:] in _ENDS
        capital = token[:1].isupper() and (not begins or follows[:1].isupper())
        (facts.names if capital else facts.words).add(key)
    facts.words -= facts.names
    return facts


def keeps_facts(original: str, refined: str) -> bool:
    """Whether a refined text has all numbers, most names and half the other words of the text.

    Examples:
        >>> keeps_facts("The tower of 1889", "The iron Eiffel Tower, built in 1889, at dusk")
        True
        >>> keeps_facts("The tower of 1889", "An iron tower at dusk")
        False
    """
    wanted, has = facts_of(original), facts_of(refined).all
    return (
        wanted.numbers <= has
        and len(wanted.names & has) >= NAMES_KEPT * len(wanted.names)
        and len(wanted.words & has) >= WORDS_KEPT * len(wanted.words)
    )


def adds_nothing(note: str, known: Iterable[str]) -> bool:
    """Whether every word of a note that says something stands in one known text already.

    Examples:
        >>> adds_nothing("Dogs, red.", ["A red dog runs."]), adds_nothing("A cat", ["A dog"])
        (True, False)
    """
    own = facts_of(note).all
    return any(own <= facts_of(text).all for text in ("", *known))


def checked_note(
    kind: NoteKind, written: str, *, original: str = "", known: Iterable[str] = ()
) -> tuple[str, str]:
    """A note made fit to be kept, or why it is not.

    Args:
        kind: Of the note.
        written: As the model wrote it.
        original: The item's own text.
        known: Other words that the item is known by.

    Returns:
        The note and an empty reason, or an empty note and the reason.

    Examples:
        >>> checked_note("dense", "Caption: A red bus at a stop.")
        ('A red bus at a stop.', '')
        >>> checked_note("refined", "A red bus.", original="Bus 42 to York")
        ('', 'it loses names or numbers of the text')
    """
    most = {"dense": DENSE_WORDS, "knowledge": KNOWLEDGE_WORDS}.get(kind, refined_words(original))
    note = clean_caption(_PREFACE.sub("", written.strip()), max_words=most)
    if not note or not facts_of(note).all:
        return "", "it is empty"
    if _REFUSAL.match(note):
        return "", "the model refused"
    if kind == "knowledge" and note.casefold().strip(" .\"'") == NOTHING_KNOWN:
        return "", NOTHING
    if loops(written):
        return "", "it loops"
    if adds_nothing(note, (original, *known)):
        return "", REPEATS
    if kind == "refined" and not keeps_facts(original, note):
        return "", "it loses names or numbers of the text"
    return note, ""


def _key(token: str) -> str:
    """A word without case and the plural's or genitive's s."""
    key = token.casefold()
    return key[:-1] if len(key) > 3 and key.endswith("s") and not key.endswith("ss") else key
