"""Structured identifiers in words: "<cluster name>, <keyword>, <keyword>, ..." (SemCORE).

The global part is the name of the caption's cluster, the lexical part its keywords without
the words that the cluster's name says already.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from genmm_retriever.errors import InputError
from genmm_retriever.identifiers.base import (
    Arrays,
    EncoderHolder,
    State,
    checked_state,
    flatten,
    free_number,
)
from genmm_retriever.identifiers.clusters import (
    base_form,
    cluster_count,
    cluster_names,
    kmeans,
    nearest,
)
from genmm_retriever.identifiers.keywords import content_words, extract_keywords
from genmm_retriever.identifiers.synonyms import Synonyms
from genmm_retriever.models.sentences import SentenceEncoder, Vectors

_EXTRA_KEYWORDS = 2
_SPARE_KEYWORDS = 4
_BLOCK = 20_000
_SYNONYM_TEXTS = 20_000


class StructuredIdentifiers:
    """Identifiers of words that a language model can write from a query.

    Made by `fit` or `from_state`.

    Args:
        centres: Of the clusters, [k, d].
        names: Of the clusters, k distinct ones.
        encoder: Gives the vectors of descriptions.
        lexical_length: Keywords an identifier; collisions are told apart by up to two more
            and then by a number.
        seed: That the clusters were made with.
        synonyms: One form for keywords that mean the same; None for all as they are.

    References:
        "SemCORE", arXiv 2504.13172.

    Examples:
        >>> from genmm_retriever.identifiers import HashingEncoder, StructuredIdentifiers
        >>> captions = [["a brown dog in snow"], ["a black dog in snow"]]
        >>> scheme = StructuredIdentifiers.fit(captions, HashingEncoder())
        >>> scheme.assign(captions, taken=set())
        [['dog snow, brown'], ['dog snow, black']]
    """

    kind = "structured"

    def __init__(
        self,
        centres: Vectors,
        names: Sequence[str],
        encoder: EncoderHolder,
        *,
        lexical_length: int = 4,
        seed: int = 0,
        synonyms: Synonyms | None = None,
    ) -> None:
        self.synonyms = synonyms or Synonyms({})
        self.centres = centres
        self.names = list(names)
        self.lexical_length = lexical_length
        self.seed = seed
        self._encoder = encoder

    @classmethod
    def fit(
        cls,
        descriptions: Sequence[Sequence[str]],
        encoder: SentenceEncoder,
        *,
        lexical_length: int = 4,
        clusters: int | None = None,
        seed: int = 0,
    ) -> StructuredIdentifiers:
        """Find clusters of all descriptions and name them.

        Args:
            descriptions: The descriptions of each item.
            encoder: Gives their vectors.
            lexical_length: Keywords an identifier.
            clusters: How many; None for min(128, max(1, items / 8)).
            seed: Of K-Means.

        Raises:
            InputError: If there is no item, or a number is below 1.
        """
        if not descriptions:
            raise InputError("there is nothing to make identifiers for", "index at least one item")
        if lexical_length < 1 or (clusters is not None and clusters < 1):
            raise InputError(
                f"lexical_length={lexical_length} and clusters={clusters} must be at least 1"
            )
        texts, _ = flatten(descriptions)
        vectors = encoder.encode(texts)
        centres, labels = kmeans(vectors, clusters or cluster_count(len(descriptions)), seed=seed)
        holder = EncoderHolder(encoder.name, vectors.shape[1], encoder)
        return cls(
            centres,
            cluster_names(texts, labels),
            holder,
            lexical_length=lexical_length,
            seed=seed,
            synonyms=_synonyms(texts, encoder, vectors),
        )

    @property
    def needs_topics(self) -> bool:
        """Whether `assign` must be given topics: there are no clusters."""
        return not self.names

    @classmethod
    def over_topics(
        cls,
        encoder: SentenceEncoder,
        descriptions: Sequence[Sequence[str]] = (),
        *,
        lexical_length: int = 4,
    ) -> StructuredIdentifiers:
        """Identifiers whose global part is given with the items, by a model that knows topics.

        Args:
            encoder: Gives the vectors of descriptions.
            descriptions: Of the first items; synonyms are found among their keywords.
            lexical_length: Keywords an identifier.
        """
        nothing = np.zeros((0, encoder.encode([""]).shape[1]), np.float32)
        holder = EncoderHolder(encoder.name, nothing.shape[1], encoder)
        synonyms = _synonyms(flatten(descriptions)[0], encoder)
        return cls(nothing, (), holder, lexical_length=lexical_length, synonyms=synonyms)

    def assign(
        self,
        descriptions: Sequence[Sequence[str]],
        *,
        taken: set[str],
        topics: Sequence[Sequence[str]] | None = None,
    ) -> list[list[str]]:
        """Identifiers of items; see `Identifiers.assign`.

        Earlier items come first: an identifier once given never changes when others follow.

        Args:
            descriptions: The descriptions of each item.
            taken: Identifiers that are used already; new ones are added.
            topics: Names to begin each item's identifiers with, instead of the cluster of each
                description: the first description gets the first name, and so on in turn, until
                all descriptions and all names were used.
        """
        out: list[list[str]] = []
        for start in range(0, len(descriptions), _BLOCK):
            block = descriptions[start : start + _BLOCK]
            names = None
            if topics is not None:
                block, names = _in_turn(block, topics[start : start + _BLOCK])
            texts, counts = flatten(block)
            parts = self._parts(texts, names)
            at = 0
            for count in counts:
                out.append(_unique(parts[at : at + count], self.lexical_length, taken))
                at += count
        return out

    def _parts(
        self, texts: list[str], names: list[str] | None = None
    ) -> list[tuple[str, list[str]]]:
        """The topic's or cluster's name and the ranked keywords of each text."""
        encoder = self._encoder.get()
        vectors = encoder.encode(texts)
        wanted = self.lexical_length + _EXTRA_KEYWORDS
        # Some keywords will leave because the cluster's name says them.
        keywords = extract_keywords(texts, encoder, n=wanted + _SPARE_KEYWORDS, vectors=vectors)
        if names is None:
            names = [self.names[label] for label in nearest(vectors, self.centres).tolist()]
        return [
            (name, self._lexical(self.synonyms.apply(found or content_words(text)), name)[:wanted])
            for text, found, name in zip(texts, keywords, names, strict=True)
        ]

    def _lexical(self, keywords: Sequence[str], name: str) -> list[str]:
        """Keywords without words that the cluster's name or an earlier keyword says."""
        said = {base_form(word) for word in name.split()}
        kept: list[str] = []
        seen: set[str] = set()
        for keyword in keywords:
            left = [word for word in keyword.split() if base_form(word) not in said]
            forms = {base_form(word) for word in left}
            if forms - seen:
                kept.append(" ".join(left))
                seen |= forms
        return kept

    def to_state(self) -> tuple[Arrays, State]:
        """Arrays and JSON-ready values for `from_state`."""
        state: State = {
            "kind": self.kind,
            "version": 1,
            "names": self.names,
            "lexical_length": self.lexical_length,
            "seed": self.seed,
            "encoder": self._encoder.name,
            "synonyms": self.synonyms.to_state(),
        }
        return {"centres": self.centres}, state

    @classmethod
    def from_state(
        cls, arrays: Arrays, state: State, encoder: SentenceEncoder | None = None
    ) -> StructuredIdentifiers:
        """The scheme that `to_state` was called on.

        Args:
            arrays: As `to_state` gave them.
            state: As `to_state` gave it.
            encoder: The encoder it was fitted with; None loads the default one when needed.

        Raises:
            InputError: If the state is of another kind or encoder.
        """
        state = checked_state(state, cls.kind)
        centres = arrays["centres"]
        if len(centres) != len(state["names"]):
            raise InputError(
                f"{len(centres)} clusters have {len(state['names'])} names",
                "the index is damaged; build it anew",
            )
        holder = EncoderHolder(state["encoder"], centres.shape[1], encoder)
        return cls(
            centres,
            state["names"],
            holder,
            lexical_length=state["lexical_length"],
            seed=state["seed"],
            synonyms=Synonyms.from_state(state.get("synonyms")),
        )


def _synonyms(
    texts: Sequence[str], encoder: SentenceEncoder, vectors: Vectors | None = None
) -> Synonyms:
    """Those among the keywords of a sample of the texts."""
    chosen = np.arange(len(texts))
    if len(texts) > _SYNONYM_TEXTS:
        chosen = np.random.default_rng(0).choice(len(texts), _SYNONYM_TEXTS, replace=False)
    keywords = extract_keywords(
        [texts[i] for i in chosen.tolist()],
        encoder,
        n=_EXTRA_KEYWORDS + _SPARE_KEYWORDS,
        vectors=None if vectors is None else vectors[chosen],
    )
    return Synonyms.fit(Counter(keyword for some in keywords for keyword in some), encoder)


def _in_turn(
    descriptions: Sequence[Sequence[str]], topics: Sequence[Sequence[str]]
) -> tuple[list[list[str]], list[str]]:
    """Each item's descriptions, repeated if it has more names, and a name for each of them."""
    texts, chosen = [], []
    for some, names in zip(descriptions, topics, strict=True):
        own = list(some) or [""]
        count = max(len(own), len(names))
        texts.append([own[place % len(own)] for place in range(count)])
        chosen += [names[place % len(names)] for place in range(count)]
    return texts, chosen


def _unique(parts: list[tuple[str, list[str]]], length: int, taken: set[str]) -> list[str]:
    """One item's identifiers, distinct among themselves and from all taken ones."""
    own: list[str] = []
    plain: set[str] = set()
    for name, keywords in parts:
        first = ", ".join((name, *keywords[:length]))
        if first in plain:
            continue
        plain.add(first)
        own.append(_free(name, keywords, length, taken))
        taken.add(own[-1])
    return own


def _free(name: str, keywords: list[str], length: int, taken: set[str]) -> str:
    """The shortest free form: `length` keywords, then more of them, then a number."""
    for count in range(min(length, len(keywords)), len(keywords) + 1):
        text = ", ".join((name, *keywords[:count]))
        if text not in taken:
            return text
    return free_number(lambda number: f"{text}, {number}", 2, taken)
