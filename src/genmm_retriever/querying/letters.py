"""The clauses of a request that somebody writes to somebody: which of them ask, and which greet.

All of it goes by the words alone. What is not surely courtesy stays for others to judge.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from genmm_retriever.identifiers.keywords import words
from genmm_retriever.querying import letter_words as known
from genmm_retriever.querying.guard import asks, telling_words

_POINT = re.compile(r" ?(?:[-*\u2022]|\d+[.)]) ")
_STOP = re.compile(r"(?<=[!?:;])\s|(?<=\.)\s(?![a-z])")
_ABBREVIATED = re.compile(
    # Initials, and what is shortened by points; then words that are shortened by their end.
    r"(?:\b[A-Za-z](?:\.[A-Za-z])*|"
    r"\b(?:mr|mrs|ms|dr|prof|st|jr|sr|vs|no|nos|vol|pp|fig|approx|ca|etc|inc|ltd|dept|tel))\.$",
    re.IGNORECASE,
)
_SHORT = 12
"""Characters that an abbreviation with its points has at most."""
_NAME, _SIGNED = 3, 6
"""Words that a name below a letter has at most, and what stands below it: a title, a number."""
_BLANKS = re.compile(r"[^\S\r\n]+")
_EDGES = ' .,;:!?-"\u201c\u201d'
_WORD = re.compile(r"[\w'\u2019-]+")


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
        return bool(known.PERSONAL & _said(self.text))

    @property
    def is_negated(self) -> bool:
        """Whether it may rule something out."""
        return known.NEGATED.search(self.text) is not None

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
        return any(word[0].isupper() and _plain(word) not in known.PERSONAL for word in later)

    @property
    def is_request(self) -> bool:
        """Whether it begins with asking, and then names what is asked for.

        Examples:
            >>> Clause("Could you tell me who kept the lighthouse").is_request
            True
            >>> Clause("I need it for my homework").is_request
            False
        """
        found = _spoken(self.text)
        first = _first_telling(found)
        asking = {*found[:first]}
        # What somebody has been looking for is told, in a clause of its own.
        if first == len(found) or not known.REQUESTS & asking or "been" in asking:
            return False
        if not (known.PERSONAL | {"please", "pls"}) & asking:
            return False
        left = words(trimmed(self.text))
        return not (left and left[0] in known.UNNAMED)

    @property
    def refuses(self) -> bool:
        """Whether somebody says what is not wanted."""
        return self.is_personal and known.REFUSED.search(self.text) is not None

    @property
    def must_stay(self) -> bool:
        """Whether it says what is looked for by its form, or holds what is found by its words."""
        if self.is_point or self.refuses or self.has_names:
            return True
        if self.leads:
            return False
        asks_much = self.is_question and len(telling_words(self.text)) > 1
        return asks_much or self.is_request or known.CONDITION.match(self.text) is not None

    @property
    def asked(self) -> str:
        """What a request names; any other clause as it is."""
        return trimmed(self.text) if self.is_request and not self.refuses else self.text


def is_letter(text: str) -> bool:
    """Whether somebody speaks to somebody, and does not only describe."""
    return bool((known.PERSONAL | known.GREETS) & _said(text))


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
    text = _BLANKS.sub(" ", text)
    greeting = known.GREETING.match(text)
    found: list[Clause] = []
    closed: int | None = None
    greeted = False
    blocks = enumerate(_blocks(text[greeting.end() :] if greeting else text))
    sentences = [(n, point, one) for n, (block, point) in blocks for one in _sentences(block)]
    for place, (block, is_point, sentence) in enumerate(sentences, 1):
        bare = known.PREFACE.sub("", known.ENDING.sub("", sentence.strip(_EDGES)), count=1)
        is_name = bare.istitle() and len(bare.split()) <= _NAME
        if closed is not None and (is_name or (block == closed and len(bare.split()) <= _SIGNED)):
            continue
        if greeted and is_name and place == len(sentences):
            continue
        end = sentence.rstrip(' "\u201d')[-1:]
        greeted = known.COURTESY.match(bare) is not None
        closed = block if known.CLOSING.match(bare) else None
        if not greeted and (_tells(bare) or (end == ":" and known.REFUSED.search(bare))):
            found.append(Clause(_shown(bare), end == "?", end == ":", is_point))
    return found


def parts_of(clause: Clause) -> list[Clause]:
    """A clause cut at commas, and before what says how whoever asks knows the picture.

    Examples:
        >>> [one.text for one in parts_of(Clause("find what I saw, in which a dog runs, thanks"))]
        ['in which a dog runs']
    """
    parts = known.PARTS.split(clause.text)
    return [Clause(part) for part in parts if _tells(part) and not known.COURTESY.match(part)]


def trimmed(part: str) -> str:
    """A part without the words of asking before what it tells of.

    Examples:
        >>> trimmed("Could you please find me the picture of a cup of coffee")
        'a cup of coffee'
        >>> trimmed("in which a dog runs"), trimmed("A man looking at me")
        ('a dog runs', 'A man looking at me')
        >>> trimmed("I don't need the whole cathedral")
        "I don't need the whole cathedral"
    """
    places = list(_WORD.finditer(part))
    found = [_plain(word.group()) for word in places]
    first = _first_telling(found)
    if first == len(found):
        return _unjoined(part)
    asked = [
        n
        for n in range(first)
        if (found[n] in known.OBJECTS or asks(found[n]))
        and not known.WONDERING.search(part, 0, places[n].start())
    ]
    # "Hello Kitty" is a name.
    if first and found[first - 1] in known.HAILING and places[first].group()[0].isupper():
        asked = [n for n in asked if n < first - 1]
    # A picture frame is no frame.
    if asked and asked[-1] == first - 1 and found[first - 1] in known.SHOTS:
        asked = asked if found[first] in ("no", "not", "without") else asked[:-1]
    if not asked:
        return _unjoined(part)
    end = places[asked[-1]].end()
    return part if known.REVERSING.search(part, 0, end) else _unjoined(part[end:].lstrip(" ,"))


def _unjoined(part: str) -> str:
    """A part without what joins it to what stood before."""
    joining = known.JOINING.match(part)
    return part[joining.end() :] if joining else part


def _blocks(text: str) -> Iterator[tuple[str, bool]]:
    """Paragraphs and points of lists, their lines joined, and whether each is a point."""
    held: list[str] = []
    is_point = False
    for whole in text.splitlines():
        line = known.QUOTED.sub("", whole, count=1) if whole[:1] == ">" else whole
        if known.SIGNATURE.match(line):
            break
        begins = _POINT.match(line)
        is_blank = not line.strip() or known.MAIL_LINE.match(line) is not None
        # A point goes on where its next line is set in; what is not ends it.
        ends = is_blank or begins or (is_point and not line[:1].isspace())
        if ends and held:
            yield " ".join(held), is_point
        if ends:
            held, is_point = [], begins is not None
        if not is_blank:
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


def _tells(clause: str) -> bool:
    """Whether anything is left of a clause but searching, and pointing at what follows."""
    left = known.POINTING_ON.sub("", clause)
    return bool(telling_words(left)) or known.PLACED.search(left) is not None


def _shown(clause: str) -> str:
    """What a photo is asked for of; any other clause as it is."""
    asked = known.SHOWING.match(clause)
    if asked is None or not _tells(clause[asked.end() :]):
        return clause
    before = _spoken(asked.group())
    if not known.PERSONAL & {*before} or known.REFUSED.search(asked.group()):
        return clause
    others = [word for word in before if word not in known.TIMES]
    return clause[asked.end() :] if _first_telling(others) == len(others) else clause


def _first_telling(found: Sequence[str]) -> int:
    """Where the first word stands that tells anything; the length if there is none."""
    for place, word in enumerate(found):
        before, after = found[max(place - 1, 0)], found[place + 1 : place + 2]
        asked_for = word in known.FETCHING and known.OBJECTS & {*after}
        longed_for = word == "love" and before in known.LONGING
        if not asked_for and not longed_for and telling_words(word):
            return place
    return len(found)


def _spoken(text: str) -> list[str]:
    return [_plain(word) for word in _WORD.findall(text)]


def _said(text: str) -> set[str]:
    return {*_spoken(text)}


def _plain(word: str) -> str:
    return word.lower().replace("\u2019", "'")
