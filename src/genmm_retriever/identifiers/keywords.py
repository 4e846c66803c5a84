"""Keywords of many texts at once, by the method of KeyBERT.

KeyBERT (Grootendorst, 2020) ranks the word n-grams of a text by the cosine of their
embedding with the text's own, and picks a varied few by maximal marginal relevance
(Carbonell and Goldstein, 1998). The `keybert` package walks text by text in Python; an
index needs keywords for tens of thousands of captions that share most of their phrases.
So this is our own vectorised form of the published formula: phrases are encoded once over
all texts, and relevance runs over [texts, candidates] arrays.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from genmm_retriever.models.sentences import SentenceEncoder, Vectors

# Marks are no word characters to `re`, yet many scripts write their vowels with them.
_CHAR = "(?:[^\\W_]|[\u0300-\u036f\u0591-\u05c7\u064b-\u065f\u0900-\u0dff\u0e00-\u0eff])"
_WORD = re.compile(rf"[^\W_]{_CHAR}*(?:['\u2019-]{_CHAR}+)*")
_GAP = re.compile(r"[ \t]+")
_MAX_CHARS = 40_000
_MAX_WORD_CHARS = 32
_MAX_PHRASES = 96
_BLOCK_PHRASES = 100_000
_CHUNK = 1024

# Told apart from the usual list: what can be seen or counted is worth a keyword.
_SEEN = frozenset("fire bill cry mill system thick thin empty full top".split())  # noqa: SIM905
_NUMBERS = frozenset(
    "two three four five six eight nine ten eleven twelve fifteen "  # noqa: SIM905
    "twenty forty fifty sixty hundred".split()
)
_CONTRACTIONS = ("n't", "'re", "'ll", "'ve", "'d", "'m")
# Missing in the usual list: they glue captions together and tell nothing.
_GLUE = frozenset(
    "near like just does did doing goes going gets getting having "  # noqa: SIM905
    "wearing wears".split()
)


@lru_cache(maxsize=1)
def stop_words() -> frozenset[str]:
    """English words that are never part of a keyword.

    scikit-learn's list with a few verbs that tell nothing, without the words that can be
    seen ("fire", "top"), and without numbers, which may begin a phrase ("two dogs") but not
    be one.
    """
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    return frozenset((ENGLISH_STOP_WORDS | _GLUE) - _SEEN - _NUMBERS)


def words(text: str) -> list[str]:
    """Lower-case words of a text in any script, in order; at most 32 characters each.

    Examples:
        >>> words("The man's red T-shirt, 2 dogs")
        ['the', 'man', 'red', 't-shirt', '2', 'dogs']
    """
    return [word for run in _runs(text) for word in run]


def content_words(text: str) -> list[str]:
    """`words` without stop words and single letters, or all words if nothing else is left."""
    found = words(text)
    return [word for word in found if is_content(word)] or found


def is_content(word: str) -> bool:
    """Whether a word may stand alone in an identifier."""
    telling = (len(word) > 1 or not word.isascii()) and not word.endswith(_CONTRACTIONS)
    return telling and word not in stop_words() and word not in _NUMBERS


def _runs(text: str) -> Iterator[list[str]]:
    """Words of a text, broken into runs wherever more than blanks stands between two."""
    text = unicodedata.normalize("NFKC", text[:_MAX_CHARS]).lower()
    run: list[str] = []
    end = 0
    for match in _WORD.finditer(text):
        if run and not _GAP.fullmatch(text, end, match.start()):
            yield run
            run = []
        word = match.group().replace("\u2019", "'")
        run.append(word.removesuffix("'s")[:_MAX_WORD_CHARS].rstrip("-'"))
        end = match.end()
    if run:
        yield run


def candidate_phrases(text: str, *, ngram: int = 2, limit: int = _MAX_PHRASES) -> list[str]:
    """Words and word pairs of a text that may become keywords.

    Unlike KeyBERT, a pair must stand together in the text: "runs grass", out of "runs
    through the grass", is no phrase that a language model would write.

    Args:
        text: Any text; stop words and single letters are left out.
        ngram: Longest phrase, in words.
        limit: Most phrases; the most frequent are kept, earlier ones first among equals.

    Returns:
        Distinct phrases in order of appearance.

    Examples:
        >>> candidate_phrases("Two dogs run through the wet grass.")
        ['two dogs', 'dogs', 'dogs run', 'run', 'wet', 'wet grass', 'grass']
    """
    counts: Counter[str] = Counter()
    for run in _runs(text):
        useful = [is_content(word) or word in _NUMBERS for word in run]
        for start in range(len(run)):
            for stop in range(start + 1, min(start + ngram, len(run)) + 1):
                if not useful[stop - 1]:
                    break
                if run[stop - 1] in _NUMBERS and (stop - 1 > start or start + 1 == len(run)):
                    break
                if stop == start + 1 and run[start] in _NUMBERS:
                    continue
                counts[" ".join(run[start:stop])] += 1
    if len(counts) <= limit:
        return list(counts)
    order = {phrase: place for place, phrase in enumerate(counts)}
    kept = sorted(counts, key=lambda phrase: (-counts[phrase], order[phrase]))[:limit]
    return sorted(kept, key=order.__getitem__)


def extract_keywords(
    texts: Sequence[str],
    encoder: SentenceEncoder,
    *,
    n: int = 4,
    candidates: int = 20,
    diversity: float = 0.5,
    ngram: int = 2,
    vectors: Vectors | None = None,
) -> list[list[str]]:
    """The keywords of each text, best first.

    Of a text's phrases the `candidates` nearest to it are kept; then phrases are taken one
    by one by `(1 - diversity) * cos(phrase, text) - diversity * max cos(phrase, taken)`.
    A phrase whose words were all taken before is passed over, since it would tell nothing.
    The first m keywords are the same for every n >= m.

    Args:
        texts: Texts of any length and language.
        encoder: Gives the embeddings.
        n: Most keywords a text; texts of few words have fewer, texts without any none.
        candidates: Phrases a text that take part in the choice.
        diversity: 0 looks at relevance alone, 1 at difference alone.
        ngram: Longest phrase, in words.
        vectors: The texts' own vectors, [len(texts), d], if they are known already.

    Returns:
        One list a text.

    Raises:
        ValueError: If `n` or `candidates` is below 1 or `diversity` outside [0, 1].

    References:
        Grootendorst, "KeyBERT", 2020, doi:10.5281/zenodo.4461265.

    Examples:
        >>> from genmm_retriever.models.sentences import HashingEncoder
        >>> extract_keywords(["a dog"], HashingEncoder())
        [['dog']]
    """
    if n < 1 or candidates < 1 or not 0 <= diversity <= 1:
        raise ValueError(f"bad n={n}, candidates={candidates} or diversity={diversity}")
    phrases = [candidate_phrases(text, ngram=ngram) for text in texts]
    chosen: list[list[str]] = []
    for start, stop in _blocks(phrases):
        own = encoder.encode(texts[start:stop]) if vectors is None else vectors[start:stop]
        chosen += _choose(phrases[start:stop], own, encoder, n, candidates, diversity)
    return chosen


def _blocks(phrases: list[list[str]]) -> Iterator[tuple[int, int]]:
    """Ranges of texts whose phrases together fit in memory."""
    start = total = 0
    for stop, some in enumerate(phrases):
        if total and total + len(some) > _BLOCK_PHRASES * 4:
            yield start, stop
            start, total = stop, 0
        total += len(some)
    if start < len(phrases):
        yield start, len(phrases)


def _choose(
    phrases: list[list[str]],
    own: Vectors,
    encoder: SentenceEncoder,
    n: int,
    candidates: int,
    diversity: float,
) -> list[list[str]]:
    vocabulary: dict[str, int] = {}
    ids = [[vocabulary.setdefault(phrase, len(vocabulary)) for phrase in row] for row in phrases]
    names = list(vocabulary)
    if not names:
        return [[] for _ in phrases]
    table = encoder.encode(names)
    parts = _word_ids(names)
    chosen: list[list[str]] = []
    for start in range(0, len(ids), _CHUNK):
        rows = ids[start : start + _CHUNK]
        picked = _relevance(
            rows, own[start : start + _CHUNK], table, parts, n, candidates, diversity
        )
        chosen += [[names[i] for i in row if i >= 0] for row in picked.tolist()]
    return chosen


def _word_ids(names: list[str]) -> NDArray[np.int64]:
    """Ids of the words of each phrase, [phrases, longest], -1 where there is none."""
    vocabulary: dict[str, int] = {}
    rows = [
        [vocabulary.setdefault(word, len(vocabulary)) for word in name.split(" ")] for name in names
    ]
    out = np.full((len(rows), max(map(len, rows))), -1, dtype=np.int64)
    for row, some in enumerate(rows):
        out[row, : len(some)] = some
    return out


def _relevance(
    rows: list[list[int]],
    own: Vectors,
    table: Vectors,
    parts: NDArray[np.int64],
    n: int,
    candidates: int,
    diversity: float,
) -> NDArray[np.int64]:
    """Maximal marginal relevance over ragged candidates -> phrase ids [texts, n], -1 padded."""
    longest = max(1, max(map(len, rows)))
    ids = np.full((len(rows), longest), -1, dtype=np.int64)
    for row, some in enumerate(rows):
        ids[row, : len(some)] = some
    # Rounded, so that noise in the last bits cannot change which of two equals comes first.
    likeness = np.einsum("tcd,td->tc", table[ids], own, optimize=True).round(4)
    likeness[ids < 0] = -2.0  # below every cosine, and finite
    if longest > candidates:
        best = np.argsort(-likeness, axis=1, kind="stable")[:, :candidates]
        ids = np.take_along_axis(ids, best, axis=1)
        likeness = np.take_along_axis(likeness, best, axis=1)
    open_ = ids >= 0
    fresh = (parts[ids] >= 0) & open_[..., None]
    nearest = np.full(ids.shape, -1.0, dtype=np.float32)
    vectors = table[ids]
    out = np.full((len(rows), n), -1, dtype=np.int64)
    line = np.arange(len(rows))
    for turn in range(n):
        score = likeness if turn == 0 else (1 - diversity) * likeness - diversity * nearest
        score = np.where(open_ & fresh.any(axis=2), score.round(4), -np.inf)
        best_at = score.argmax(axis=1)
        found = np.isfinite(score[line, best_at])
        if not found.any():
            break
        taken = ids[line, best_at]
        out[found, turn] = taken[found]
        open_[line, best_at] = False
        apart = np.einsum("tcd,td->tc", vectors, table[taken], optimize=True)
        nearest = np.maximum(nearest, apart)
        fresh &= (parts[ids][..., None] != parts[taken][:, None, None, :]).all(axis=3)
    return out
