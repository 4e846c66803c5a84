"""One form for words that mean the same, so that identifiers do not part over them.

A beam that writes "bicycle" does not find what is filed under "bike" (the price that SemCORE,
arXiv 2504.13172, pays on R@5). So of the words of a collection's keywords those that mean the
same become one. It is better to miss a pair than to file women under men:

1. Forms of one word: number, tense and spelling by rules, unless their vectors disagree.
2. Words of one meaning: the nearest to each other by a sentence encoder, alone and inside
   short sentences, above a strict threshold. Opposites and siblings ("two" and "three", "dog"
   and "cat") have high cosines too, and are kept apart by lists and by spelling.

Groups are joined by complete linkage: all that come together must be alike, or forms of one word.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations, product

import numpy as np

from genmm_retriever.errors import InputError
from genmm_retriever.identifiers.base import State, checked_state
from genmm_retriever.identifiers.inflection import (
    all_bases,
    are_apart,
    are_forms,
    same_by_table,
    share_beginning,
)
from genmm_retriever.identifiers.keywords import words
from genmm_retriever.models.sentences import SentenceEncoder

Pairs = dict[tuple[str, str], float]
Agree = Callable[[Sequence[Sequence[str]], Sequence[Sequence[str]]], bool]

MOST_WORDS = 20_000
_SENTENCES = ("{}", "a photo of {}", "the {} in the picture")
_FORMS = 0.8
"""Least mean cosine of two forms of a word in these sentences: "glasses" are not several of
"glass"."""
_VERBS = 0.875
"""The same where one ends in -ing or -ed: "dressed" is more than what wears a "dress"."""
_MEANINGS = 0.9
"""The same of two words of one meaning, and that of the words alone at least `_ALIKE`."""
_ALIKE = 0.85
_ROWS = 2048
_COUNTED = frozenset(
    "two three four five six seven eight nine ten eleven twelve fifteen twenty forty fifty "  # noqa: SIM905
    "sixty hundred several many few".split()
)


class Synonyms:
    """From words to the one form that identifiers use. Made by `fit` or `from_state`.

    Args:
        forms: The canonical word of every word that has another one.

    Examples:
        >>> synonyms = Synonyms({"bicycle": "bike", "dogs": "dog"})
        >>> synonyms.apply(["red bicycle", "dogs", "dog", "two dogs"])
        ['red bike', 'dog', 'two dogs']
    """

    kind = "synonyms"

    def __init__(self, forms: Mapping[str, str]) -> None:
        self.forms = dict(forms)

    @classmethod
    def fit(cls, counts: Mapping[str, int], encoder: SentenceEncoder) -> Synonyms:
        """Find the words that mean the same.

        Args:
            counts: How often each keyword, of one or several words, was given.
            encoder: Gives the vectors of words.
        """
        totals: dict[str, int] = {}
        for keyword, count in counts.items():
            for word in words(keyword):
                totals[word] = totals.get(word, 0) + count
        ranked = sorted(totals, key=lambda word: (-totals[word], word))[:MOST_WORDS]
        if len(ranked) < 2:
            return cls({})
        groups = _linked([[word] for word in ranked], _forms(ranked, encoder), _of_one_word)
        alike = _meanings(ranked, encoder)
        groups = _linked(groups, alike, _all_alike(alike))
        forms: dict[str, str] = {}
        for group in groups:
            canonical = min(group, key=lambda word: (-totals[word], len(word), word))
            forms |= {word: canonical for word in group if word != canonical}
        return cls(dict(sorted(forms.items())))

    def canonical(self, word: str) -> str:
        """The form of a word that identifiers use; unknown words stay as they are."""
        return self.forms.get(word, word)

    def apply(self, keywords: Iterable[str]) -> list[str]:
        """Keywords in canonical words, without those that become equal to an earlier one.

        After a number a word keeps its own form: "two dogs" does not become "two dog".
        """
        return list(dict.fromkeys(self._phrase(keyword) for keyword in keywords))

    def _phrase(self, keyword: str) -> str:
        written: list[str] = []
        before = ""
        for word in keyword.split(" "):
            counted = before in _COUNTED or before.isdigit()
            written.append(word if counted else self.canonical(word))
            before = word
        return " ".join(written)

    def to_state(self) -> State:
        """JSON-ready values for `from_state`."""
        return {"kind": self.kind, "version": 1, "forms": self.forms}

    @classmethod
    def from_state(cls, state: State | None) -> Synonyms:
        """The forms that `to_state` was called on; None for an index made without them.

        Raises:
            InputError: If the state is of another kind.
        """
        if state is None:
            return cls({})
        forms = checked_state(state, cls.kind)["forms"]
        if not isinstance(forms, dict):
            raise InputError("the index's synonyms are damaged", "build the index anew")
        return cls(forms)


def _forms(ranked: Sequence[str], encoder: SentenceEncoder) -> Pairs:
    """Pairs of forms of one word, with how alike they are."""
    by_base: dict[str, list[str]] = {}
    for word in ranked:
        for form in all_bases(word):
            by_base.setdefault(form, []).append(word)
    near = {tuple(sorted(p)) for some in by_base.values() for p in combinations(some, 2)}
    pairs = sorted((a, b) for a, b in near if are_forms(a, b))
    found = {
        pair: float(values.mean())
        for pair, values in zip(pairs, _cosines(pairs, encoder), strict=True)
        if values.mean() >= _least(pair) and not are_apart(*pair)
    }
    return found | {(a, b): 1.0 for a, b in _tabled(ranked)}


def _least(pair: tuple[str, str]) -> float:
    return _VERBS if any(map(_is_verb, pair)) else _FORMS


def _is_verb(word: str) -> bool:
    """Whether it has the look of a verb; nouns that have it too merge less often for it."""
    return word.endswith(("ing", "ed"))


def _tabled(ranked: Sequence[str]) -> list[tuple[str, str]]:
    short = [word for word in sorted(ranked) if same_by_table(word, word)]
    return [(a, b) for a, b in combinations(short, 2) if same_by_table(a, b)]


def _meanings(ranked: Sequence[str], encoder: SentenceEncoder) -> Pairs:
    """Pairs of different words that mean the same, with how alike they are."""
    vectors = encoder.encode(list(ranked))
    near: set[tuple[str, str]] = set()
    for start in range(0, len(ranked), _ROWS):
        cosines = vectors[start : start + _ROWS] @ vectors.T
        rows, columns = np.nonzero(cosines >= _ALIKE)
        for row, column in zip((rows + start).tolist(), columns.tolist(), strict=True):
            a, b = sorted((ranked[row], ranked[column]))
            differ = a != b and not share_beginning(a, b) and _is_verb(a) == _is_verb(b)
            if differ and not are_apart(a, b):
                near.add((a, b))
    pairs = sorted(near)
    return {
        pair: float(values.mean())
        for pair, values in zip(pairs, _cosines(pairs, encoder), strict=True)
        if values.mean() >= _MEANINGS and values.min() >= _ALIKE
    }


def _cosines(pairs: Sequence[tuple[str, str]], encoder: SentenceEncoder) -> np.ndarray:
    """Of the pairs inside each of the sentences, [pairs, sentences]; noise decides nothing."""
    columns = []
    for sentence in _SENTENCES:
        ours = encoder.encode([sentence.format(a) for a, _ in pairs])
        theirs = encoder.encode([sentence.format(b) for _, b in pairs])
        columns.append(np.einsum("nd,nd->n", ours, theirs).round(4))
    return np.stack(columns, axis=1)


def _of_one_word(ours: Sequence[Sequence[str]], theirs: Sequence[Sequence[str]]) -> bool:
    return are_forms(*(word for group in (*ours, *theirs) for word in group))


def _all_alike(pairs: Pairs) -> Agree:
    """Every group has a word alike to one of every other, and no word is apart from another."""

    def agree(ours: Sequence[Sequence[str]], theirs: Sequence[Sequence[str]]) -> bool:
        for one, other in product(ours, theirs):
            words = [(min(a, b), max(a, b)) for a, b in product(one, other)]
            if not any(pair in pairs for pair in words) or any(are_apart(*p) for p in words):
                return False
        return True

    return agree


def _linked(
    groups: Sequence[Sequence[str]],
    pairs: Pairs,
    agree: Agree,
) -> list[list[str]]:
    """Groups joined by pairs of their words, the most alike first, where all of them agree.

    Args:
        groups: Of words that are one already.
        pairs: Words that are alike, and how much.
        agree: Whether groups joined so far may be joined with others.
    """
    home = {word: number for number, group in enumerate(groups) for word in group}
    joined: dict[int, list[int]] = {number: [number] for number in range(len(groups))}
    owner = list(joined)
    for (a, b), _ in sorted(pairs.items(), key=lambda item: (-item[1], item[0])):
        one, other = owner[home[a]], owner[home[b]]
        ours, theirs = ([groups[n] for n in joined[place]] for place in (one, other))
        if one != other and agree(ours, theirs):
            joined[one] += joined.pop(other)
            for number in joined[one]:
                owner[number] = one
    return [[word for number in some for word in groups[number]] for some in joined.values()]
