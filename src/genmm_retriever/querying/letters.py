"""The clauses of a request that somebody writes to somebody: which of them ask, and which greet.

All of it goes by the words alone. What is not surely courtesy stays for others to judge.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from genmm_retriever.identifiers.keywords import words
from genmm_retriever.querying.guard import asks, telling_words

PERSONAL = frozenset("i i'm i've i'd i'll me my mine we we're we'd us our you your".split())  # noqa: SIM905
"""Words of whoever asks, and of whoever is asked."""
_POINT = re.compile(r"\s*(?:[-*\u2022]|\d+[.)])\s+")
_STOP = re.compile(r"(?<=[!?:;])\s+|(?<=\.)\s+(?![a-z])")
_ABBREVIATED = re.compile(
    # Initials, and what is shortened by points; then words that are shortened by their end.
    r"(?:\b[A-Za-z](?:\.[A-Za-z])*|"
    r"\b(?:mr|mrs|ms|dr|prof|st|jr|sr|vs|no|nos|vol|pp|fig|approx|ca|etc|inc|ltd|dept))\.$",
    re.IGNORECASE,
)
_SHORT = 12
"""Characters that an abbreviation with its points has at most."""
_BLANKS = re.compile(r"[^\S\r\n]+")
_EDGES = ' .,;:!?-"\u201c\u201d'
_GREETING = re.compile(
    r"\s*(?:(?:hi|hello|hey|dear|good (?:morning|afternoon|evening|day))\b"
    r"[^,!?:;\n]{0,40}[,!]\s*)+",
    re.IGNORECASE,
)
_COURTESY = re.compile(
    r"(?:many |warm |kind |best |with )*(?:thanks|thank you|thx|cheers|regards|wishes|greetings|"
    r"sincerely|yours (?:truly|sincerely|faithfully)|all the best|best$|best,|take care|"
    r"have an? (?:nice|good|great|lovely)|looking forward|please let (?:me|us) know|"
    r"sorry (?:for|to)|excuse me|(?:just )?(?:one|a )? ?quick question|"
    r"(?:is|was) (?:that|this|it) (?:right|possible|correct|true|ok|okay)$)",
    re.IGNORECASE,
)
_SHOWING = re.compile(
    r".*\b(?:photo|photograph|picture|pic|image|shot|snapshot)s?\s+"
    r"(?:of|with|showing|where|in which)\s+",
    re.IGNORECASE,
)
_GREETS = frozenset("please thanks thank thx hello hi hey dear sorry kindly regards".split())  # noqa: SIM905
_REQUESTS = frozenset(
    "please could would can find search searching look looking need want show help tell know"  # noqa: SIM905
    " give send".split()
)
_UNNAMED = frozenset("it this that them these those i we you i'm we're i've we've".split())  # noqa: SIM905
"""A request that goes on so names nothing, or tells."""
_OBJECTS = frozenset("me us mine".split())  # noqa: SIM905
_POINTING_ON = re.compile(r"\b(?:as follows|the following|like this)$", re.IGNORECASE)
_ENDING = re.compile(r"[,\s]+(?:please|thanks|thank you|thx)$", re.IGNORECASE)
_NEGATED = re.compile(r"\b(?:no|not|without|never|neither|nor|except|only|\w+n't)\b", re.IGNORECASE)
_REFUSED = re.compile(r"\b(?:do not|don't|not|no longer)\s+(?:want|need|look|like)", re.IGNORECASE)
_JOINING = re.compile(
    r"(?:(?:and|but|or|of|with|about|from|for|that|in which|on which|"
    r"showing|there is|there are)\s+)+",
    re.IGNORECASE,
)
_PARTS = re.compile(r",\s+|\s+(?=(?:that|which|where)\s+(?:I|we|you)\b)", re.IGNORECASE)
_WORD = re.compile(r"[\w'-]+")


@dataclass(frozen=True)
class Clause:
    """A sentence, a part of one, or a point of a list.

    Attributes:
        text: Without the signs around it.
        is_question: Whether it ends in a question mark.
        leads: Whether it ends in a colon.
        is_point: Whether it is a point of a list.
    """

    text: str
    is_question: bool = False
    leads: bool = False
    is_point: bool = False

    @property
    def is_personal(self) -> bool:
        """Whether it speaks of whoever asks, or to whoever is asked."""
        return bool(PERSONAL & _said(self.text))

    @property
    def is_negated(self) -> bool:
        """Whether it may rule something out."""
        return _NEGATED.search(self.text) is not None

    @property
    def has_names(self) -> bool:
        """Whether it has digits, or capitals within.

        Examples:
            >>> Clause("I think that Ottilie wrote it").has_names, Clause("I wrote it").has_names
            (True, False)
        """
        if any(sign.isdigit() for sign in self.text):
            return True
        if self.text.isupper():
            return False
        later = _WORD.findall(self.text)[1:]
        return any(word[0].isupper() and word.lower() not in PERSONAL for word in later)

    @property
    def is_request(self) -> bool:
        """Whether it begins with asking, and then names what is asked for.

        Examples:
            >>> Clause("Could you tell me who kept the lighthouse").is_request
            True
            >>> Clause("I need it for my homework").is_request
            False
        """
        found = [word.group().lower() for word in _WORD.finditer(self.text)]
        first = _first_telling(found)
        asking = found[:first]
        if first == len(found) or not (PERSONAL | {"please"}) & {*asking}:
            return False
        # What somebody has been looking for is told, in a clause of its own.
        if not _REQUESTS & {*asking} or "been" in asking:
            return False
        left = words(trimmed(self.text))
        return not (left and left[0] in _UNNAMED)

    @property
    def must_stay(self) -> bool:
        """Whether it says what is looked for by its form, or holds what is found by its words."""
        asks_much = self.is_question and len(telling_words(self.text)) > 1
        asks = not self.leads and (asks_much or self.is_request or self.refuses)
        return self.is_point or asks or self.has_names

    @property
    def refuses(self) -> bool:
        """Whether somebody says what is not wanted."""
        return self.is_personal and _REFUSED.search(self.text) is not None

    @property
    def asked(self) -> str:
        """What a request names; any other clause as it is."""
        return trimmed(self.text) if self.is_request and not self.refuses else self.text


def is_letter(text: str) -> bool:
    """Whether somebody speaks to somebody, and does not only describe."""
    return bool((PERSONAL | _GREETS) & _said(text))


def clauses_of(text: str) -> list[Clause]:
    r"""Sentences, what stands before and after a colon, and points of lists, but for courtesy.

    Examples:
        >>> [one.text for one in clauses_of("Hello! Please find this: A dog in the snow. Thanks.")]
        ['A dog in the snow']
        >>> [one.text for one in clauses_of("Find Mr. Smith\nin a park. I want a photo of a dog.")]
        ['Find Mr. Smith in a park', 'a dog']
        >>> [one.text for one in clauses_of("I want:\n- a dog\n- a cat\nThank you!\n\nAnna")]
        ['a dog', 'a cat']
    """
    found: list[Clause] = []
    signed = False
    text = _BLANKS.sub(" ", text)
    for block, is_point in _blocks(_GREETING.sub("", text, count=1)):
        for sentence in _sentences(block):
            bare = _ENDING.sub("", sentence.strip(_EDGES))
            signs = signed and len(bare.split()) <= 3 and bare.istitle()
            signed = _COURTESY.match(bare) is not None
            if signs or signed or not telling_words(_POINTING_ON.sub("", bare)):
                continue
            shown = _shown(bare)
            end = sentence.rstrip(' "\u201d')[-1:]
            found.append(Clause(shown, end == "?", end == ":", is_point))
    return found


def parts_of(clause: Clause) -> list[Clause]:
    """A clause cut at commas, and before what says how whoever asks knows the picture.

    Examples:
        >>> [one.text for one in parts_of(Clause("find what I saw, in which a dog runs, thanks"))]
        ['in which a dog runs']
    """
    return [Clause(part) for part in _PARTS.split(clause.text) if telling_words(part)]


def trimmed(part: str) -> str:
    """A part without the words of asking before what it tells of.

    Examples:
        >>> trimmed("Could you please find me the picture of a cup of coffee")
        'a cup of coffee'
        >>> trimmed("in which a dog runs"), trimmed("A man looking at me")
        ('a dog runs', 'A man looking at me')
    """
    found = list(_WORD.finditer(part))
    first = _first_telling([word.group() for word in found])
    asked = [n for n in range(first) if _asks(found[n].group().lower())]
    asked = asked if first < len(found) else []
    left = part[found[asked[-1]].end() :].lstrip(" ,") if asked else part
    joining = _JOINING.match(left)
    return left[joining.end() :] if joining else left


def _blocks(text: str) -> Iterator[tuple[str, bool]]:
    """Paragraphs and points of lists, their lines joined, and whether each is a point."""
    held: list[str] = []
    is_point = False
    for line in text.splitlines():
        begins = _POINT.match(line)
        # A point goes on where its next line is set in; what is not ends it.
        ends = not line.strip() or begins or (is_point and not line[:1].isspace())
        if ends and held:
            yield " ".join(held), is_point
        if ends:
            held, is_point = [], begins is not None
        if line.strip():
            held.append(line[begins.end() :].strip() if begins else line.strip())
    if held:
        yield " ".join(held), is_point


def _sentences(block: str) -> Iterator[str]:
    """A paragraph cut where sentences end; an abbreviation ends none."""
    start = 0
    for stop in _STOP.finditer(block):
        if not _ABBREVIATED.search(block, max(start, stop.start() - _SHORT), stop.start()):
            yield block[start : stop.start()]
            start = stop.end()
    yield block[start:]


def _shown(clause: str) -> str:
    """What a photo is asked for of; any other clause as it is."""
    asked = _SHOWING.match(clause)
    if asked is None or not telling_words(clause[asked.end() :]):
        return clause
    said = _said(asked.group())
    is_asked = PERSONAL & said and _REQUESTS & said and not _REFUSED.search(asked.group())
    return clause[asked.end() :] if is_asked and not telling_words(asked.group()) else clause


def _first_telling(found: list[str]) -> int:
    """Where the first word stands that tells anything; the length if there is none."""
    return next((n for n, word in enumerate(found) if telling_words(word)), len(found))


def _asks(word: str) -> bool:
    """Whether a word ends asking: one of searching, or for whom."""
    return word in _OBJECTS or asks(word)


def _said(text: str) -> set[str]:
    return {word.lower() for word in _WORD.findall(text)}
