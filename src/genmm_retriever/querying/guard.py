"""Whether a rewriting still says what the query said."""

from __future__ import annotations

from collections.abc import Iterable

from genmm_retriever.identifiers.inflection import all_bases
from genmm_retriever.identifiers.keywords import is_content, words

LEAST_KEPT = 0.6
"""Share of a query's content words that a rewriting keeps, at least."""

# What people say of searching, not of what they look for.
_ASKING = frozenset(
    "image images picture pictures photo photos photograph photographs pic pics shot snapshot "  # noqa: SIM905
    "look looking looks find finding found search searching searched show showing seek "
    "seeking like see want wanted wants need needed wish hope hoping please thank thanks "
    "kindly appreciate appreciated grateful help helpful hi hello hey dear sorry excuse could "
    "would possible possibly maybe perhaps probably actually really basically simply think "
    "thought believe guess suppose remember recall forget know sure wonder wondering trouble "
    "bother lot kind sort ago yesterday earlier recently honestly quickly saw see seen came "
    "somewhere someone something anything collection database archive album gallery item "
    "request question asked ask tell say said mention let able case matter favour favor "
    "describe depict depicts depicting contains containing include includes".split()
)
_REFERRING = frozenset("it its this that these those he she him her his they them their".split())  # noqa: SIM905


def telling_words(text: str) -> list[str]:
    """The words of a query that say what is looked for; numbers are among them.

    Examples:
        >>> telling_words("Hi, could you please find me a photo of two dogs that run?")
        ['two', 'dogs', 'run']
    """
    return [
        word for word in words(text) if (is_content(word) or _is_number(word)) and not asks(word)
    ]


def asks(word: str) -> bool:
    """Whether a word speaks of searching and not of what is looked for.

    Examples:
        >>> asks("looking"), asks("mentioned"), asks("dog")
        (True, True, False)
    """
    return bool(_ASKING & {word, *all_bases(word)})


def share_kept(original: str, rewritten: str) -> float:
    """Share of the original's telling words that a rewriting has, in any inflection, 0 to 1.

    1 if the original has none.

    Examples:
        >>> share_kept("I am looking for two dogs running", "two dogs run")
        1.0
        >>> share_kept("a red car", "a blue car")
        0.5
    """
    wanted = [all_bases(word) for word in dict.fromkeys(telling_words(original))]
    if not wanted:
        return 1.0
    there = _bases(words(rewritten))
    return sum(bool(bases & there) for bases in wanted) / len(wanted)


def new_words(original: str, rewritten: str) -> list[str]:
    """Telling words of a rewriting that the original does not have in any inflection.

    Examples:
        >>> new_words("When was it discovered?", "When was the giant panda discovered?")
        ['giant', 'panda']
    """
    there = _bases(words(original))
    return [word for word in telling_words(rewritten) if not all_bases(word) & there]


def dropped_words(original: str, rewritten: str) -> list[str]:
    """Telling words of the original that a rewriting lacks."""
    return new_words(rewritten, original)


def refers(text: str) -> bool:
    """Whether a question points at something that it does not name.

    Examples:
        >>> refers("When was it discovered?"), refers("When was the panda discovered?")
        (True, False)
    """
    return bool(_REFERRING & set(words(text)))


def _bases(some: Iterable[str]) -> frozenset[str]:
    return frozenset(base for word in some for base in all_bases(word))


def _is_number(word: str) -> bool:
    return word.isdigit() or word in _NUMBERS


_NUMBERS = frozenset("one two three four five six seven eight nine ten no not without".split())  # noqa: SIM905
