"""What one picture's descriptions say that another's do not."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property

from genmm_retriever.identifiers.inflection import all_bases
from genmm_retriever.identifiers.keywords import is_content, words

_LONGEST_SPAN = 7
_MOST_BEFORE = 2
_ARTICLES = frozenset("a an the some another two three four five six several many".split())  # noqa: SIM905
_BREAKS = frozenset("is are was were be being who that which while to as".split())  # noqa: SIM905
_NEVER_FIRST = _BREAKS | {"and", "or", "of", "it", "its"}
_CLAUSES = re.compile(r"[.,;:!?()\n\u2013\u2014]+")
_GONE = re.compile(
    r"\b(?:instead of|rather than|in place of|without|no longer|remove|but not|and not)\b"
    r"[^,;.]*",
    re.IGNORECASE,
)
_EXCHANGED = re.compile(
    r"\b(?:replace|swap|change|turn|exchange)\b[^,;.]*?\b(?:with|by|for|to|into)\b"
    r"|\bnot\b[^,;.]*?\bbut\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Words:
    """What is known of a picture in words.

    Attributes:
        texts: Its descriptions, the likeliest first.
        objects: Names of what a classifier saw, the likeliest first.
    """

    texts: tuple[str, ...] = ()
    objects: tuple[str, ...] = ()

    @cached_property
    def content(self) -> frozenset[str]:
        """All content words, in lower case."""
        return frozenset(word for text in (*self.texts, *self.objects) for word in content(text))

    @cached_property
    def bases(self) -> frozenset[str]:
        """What they may be forms of."""
        return frozenset(base for word in self.content for base in _bases(word))

    def has(self, word: str) -> bool:
        """Whether a content word, or a form of it, is among them."""
        return not self.bases.isdisjoint(_bases(word))


@dataclass(frozen=True)
class Span:
    """A phrase of a description, with words that another's lack.

    Attributes:
        text: In lower case.
        new: Those words.
        thing: Whether it begins with an article or a number, so that it names a thing.
    """

    text: str
    new: frozenset[str] = field(default_factory=frozenset)
    thing: bool = True

    @property
    def whole(self) -> bool:
        """Whether it reads like a phrase: a thing, a place or an action, not a bare word."""
        first = self.text.partition(" ")[0]
        return self.thing or not is_content(first) or first.endswith("ing")


def content(text: str) -> list[str]:
    """The content words of a text, none if there are none.

    Examples:
        >>> content("The same, but with a red car"), content("this one")
        (['red', 'car'], [])
    """
    return [word for word in words(text) if is_content(word)]


def _bases(word: str) -> frozenset[str]:
    return frozenset(base for base in all_bases(word) if len(base) > 2) or frozenset([word])


def new_words(of: Words, lacking: Words) -> frozenset[str]:
    """Content words of one picture of which no form is among the other's.

    Examples:
        >>> ours = Words(("A black dog runs in snow",), ("dogsled",))
        >>> sorted(new_words(ours, Words(("A dog running on grass",))))
        ['black', 'dogsled', 'snow']
    """
    return frozenset(word for word in of.content if not lacking.has(word))


def asked_part(text: str) -> str:
    """What a text about a change asks for, without what it wants to be gone.

    Examples:
        >>> asked_part("a red car instead of the bike"), asked_part("replace the cat with a dog")
        ('a red car', 'a dog')
        >>> asked_part("not the cat but a dog"), asked_part("on a beach, without people")
        ('a dog', 'on a beach')
        >>> asked_part("without people")
        'without people'
    """
    left = _GONE.sub(" ", _EXCHANGED.sub(" ", text))
    left = " ".join(left.split()).strip(" ,;.")
    return left or text


def spans(of: Words, lacking: Words) -> list[Span]:
    """Phrases of one picture's descriptions around the words that the other's lack.

    A phrase is cut out of a description: words that are new, what joins them, up to two words
    that lead up to them ("over a"), and the word that an adjective belongs to. Objects are
    phrases of their own.

    Returns:
        Distinct phrases of at most 7 words, in the order of the descriptions.

    Examples:
        >>> black = Words(("A black dog jumps over a red fence in the park.",), ("kelpie",))
        >>> brown = Words(("A brown dog jumps in a park.",))
        >>> [(one.text, one.thing) for one in spans(black, brown)]
        [('a black dog', True), ('over a red fence', False), ('a kelpie', True)]
    """
    new = new_words(of, lacking)
    found: dict[str, Span] = {}
    for text in of.texts:
        for clause in _CLAUSES.split(text):
            for one in _spans_of(words(clause), new):
                found.setdefault(one.text, one)
    for name in of.objects:
        if said := new.intersection(content(name)):
            article = "an" if name[:1].lower() in "aeiou" else "a"
            one = Span(f"{article} {name}", frozenset(said))
            found.setdefault(one.text, one)
    return list(found.values())


def _spans_of(run: list[str], new: frozenset[str]) -> list[Span]:
    found, at = [], 0
    while at < len(run):
        if run[at] not in new:
            at += 1
            continue
        start, stop = _start(run, at), _stop(run, at, new)
        phrase = run[start:stop]
        said = frozenset(new.intersection(phrase))
        found.append(Span(" ".join(phrase), said, phrase[0] in _ARTICLES))
        at = stop
    return found


def _start(run: list[str], at: int) -> int:
    """Where the phrase around a new word begins: with the little words right before it."""
    start = at
    while start and at - start < _MOST_BEFORE and not is_content(run[start - 1]):
        if run[start - 1] in _NEVER_FIRST:
            break
        start -= 1
    return start


def _stop(run: list[str], at: int, new: frozenset[str]) -> int:
    """Behind its last word: new words, what joins them, and the noun behind an adjective."""
    stop = at + 1
    while (ahead := _ahead(run, stop)) is not None and run[ahead] in new:
        if ahead - at >= _LONGEST_SPAN - _MOST_BEFORE:
            # The word right behind belongs to it, as a noun to its adjective.
            return stop + 1 if ahead == stop else stop
        stop = ahead + 1
    alone = stop == at + 1 or not is_content(run[stop - 2])
    return stop + 1 if alone and stop < len(run) and is_content(run[stop]) else stop


def _ahead(run: list[str], stop: int) -> int | None:
    """The next content word of the same clause, or None."""
    for ahead in range(stop, len(run)):
        if is_content(run[ahead]):
            return ahead
        if run[ahead] in _BREAKS:
            return None
    return None
