"""What the search for clues is told, asks and gives: settings, the text's interface, clues."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from genmm_retriever.errors import InputError

Ints = NDArray[np.int64]

PRIOR = 5.0
"""Added to both sides of a phrase's frequency, as SEAL does: rare phrases are not overrated."""
_LARGEST_PRIOR_SHARE = 1 / 1000
MOST_DOCUMENTS = 1000
"""Passages of a phrase that are counted: in a large text a common word stands in millions."""


def smoothing(prior: float | None, tokens: float) -> float:
    """What is added to both sides of a frequency in a text of so many tokens.

    None stands for SEAL's 5, but at most a thousandth of the text: in a text of a hundred tokens
    five would make every phrase a common one.

    Examples:
        >>> smoothing(None, 10**9), smoothing(None, 100), smoothing(2.0, 100)
        (5.0, 0.1, 2.0)
    """
    return min(PRIOR, tokens * _LARGEST_PRIOR_SHARE) if prior is None else prior


class ClueTexts(Protocol):
    """What the search asks of the text that a query may look into.

    n phrases are held as `ranges`, a dataclass of arrays whose first dimension is n.
    """

    def start(self, n: int) -> Any:
        """Empty phrases, n of them, which stand everywhere."""
        ...

    def extend(self, ranges: Any, rows: Ints, tokens: Ints) -> Any:
        """Phrases that append a token [m] to those at `rows` [m]."""
        ...

    def counts(self, ranges: Any) -> Ints:
        """How often each phrase occurs, [n]; the empty one as often as there are tokens."""
        ...

    def document_frequency(self, ranges: Any, limit: int | None = None) -> Ints:
        """In how many passages each phrase occurs, [n]; no more than `limit` are counted."""
        ...

    def next_tokens(
        self, ranges: Any, logits: NDArray[np.float32] | None, wanted: int
    ) -> tuple[Ints, Ints, Ints]:
        """Tokens that follow each phrase: offsets [n + 1], tokens [m], occurrences [m].

        At least the `wanted` likeliest ones by `logits` [n, V], or all if it is None.
        """
        ...

    def passages_of(self, ranges: Any, row: int, limit: int | None) -> tuple[Ints, Ints]:
        """Distinct passages that one phrase occurs in, and the items they belong to."""
        ...


@dataclass(frozen=True)
class ClueConfig:
    """How clues are looked for.

    Attributes:
        num_beams: Phrases that are kept for each query, over all groups.
        max_tokens: Length of the longest clue, in tokens.
        groups: Groups of beams that avoid each other's tokens (diverse beam search,
            arXiv 1610.02424); GeMKR has as many groups as beams.
        diversity: What a token costs, in nats, for each earlier group that writes it at the
            same step. It steers what is kept and is not part of a clue's log-probability.
        debias: Weight of a phrase's log-frequency in the text, subtracted from its
            log-probability when beams are chosen; 0 as in SEAL. Phrases that stand everywhere
            then do not crowd out those that tell passages apart. The tokens it chooses from
            are each phrase's 2 * num_beams likeliest.
        prior: Smooths that frequency; None as for `smoothing`.
        stop_unique: Whether a phrase that stands in one passage is written no further. Its
            weight could only fall: it names no less by being longer.
        max_given: Tokens of the query, from its beginning, whose phrases join as clues.
        copying: Share of the answers that are taken to repeat the query, c. A phrase of the
            query is then expected with `(1 - c) * p(n | q) + c * p(n | copied)`, where a copy
            begins at any token of the query alike (at any word, where words are kept whole);
            0 as in SEAL. A model that was not trained on the domain hardly expects the
            query's rare words; this lets them count.
        naming: The same for what is seen in the query's picture: the share of answers that are
            taken to name it. Both shares are less than 1 together.

    Raises:
        InputError: If a value is out of range.
    """

    num_beams: int = 15
    max_tokens: int = 10
    groups: int = 1
    diversity: float = 0.5
    debias: float = 0.0
    prior: float | None = PRIOR
    stop_unique: bool = True
    max_given: int = 64
    copying: float = 0.0
    naming: float = 0.0

    def __post_init__(self) -> None:
        for name, least in (("num_beams", 1), ("max_tokens", 1), ("groups", 1), ("max_given", 0)):
            if getattr(self, name) < least:
                raise InputError(
                    f"{name} is {getattr(self, name)}", f"give an integer of at least {least}"
                )
        if self.num_beams % self.groups:
            raise InputError(
                f"{self.num_beams} beams cannot be shared by {self.groups} groups",
                "make num_beams a multiple of groups",
            )
        for name in ("copying", "naming"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(
                    f"{name} is {getattr(self, name)}", "give a number from 0, less than 1"
                )
        if self.copying + self.naming >= 1:
            raise InputError("copying and naming make 1 or more", "leave the model a share")
        for name in ("diversity", "debias", "prior"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise InputError(f"{name} is {value}", "give a finite number of at least 0")


@dataclass(frozen=True)
class Clue:
    """A phrase that stands in the text.

    Attributes:
        tokens: Its tokens.
        logprob: log p(tokens | query), nats, copying and naming included.
        count: How often it occurs in the text that the query may look into.
        documents: In how many passages; `MOST_DOCUMENTS` if in so many or more.
        given: Whether it is a phrase of the query itself that the beams did not write.
        seen: Whether it names what is seen in the query's picture.
        unasked: log p(tokens | no query), nats; minus infinity if that was not looked at.
    """

    tokens: tuple[int, ...]
    logprob: float
    count: int
    documents: int
    given: bool = False
    seen: bool = False
    unasked: float = -math.inf
