"""What the search knows of a constraint: legal tokens in, documents out.

Shapes use n live rows (hypotheses), m legal (row, token) pairs, Q queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Subsets = Sequence[NDArray[np.int64] | None]
"""For each query the rows of the items that may be found, or None for all of them."""


@dataclass(frozen=True, eq=False)
class LegalTokens:
    """The tokens that may follow each row, as compressed sparse rows (CSR).

    Attributes:
        offsets: Row i owns the pairs `offsets[i]:offsets[i + 1]`, [n + 1], int64.
        rows: Row of each pair, ascending, [m], int64.
        tokens: Token of each pair, ascending within a row, [m], int64.
        null_logprobs: Log-probability (nats) of the token without any query, [m], float32.
        finishes: Whether the token completes an identifier, [m], bool.
    """

    offsets: Tensor
    rows: Tensor
    tokens: Tensor
    null_logprobs: Tensor
    finishes: Tensor


@dataclass(frozen=True, eq=False)
class Completions:
    """Every way in which rows can still be completed.

    Attributes:
        rows: Row that each tail continues, ascending, [m], int64.
        tails: The missing tokens, end token included; empty where the row is complete.
        null_logprobs: Sum of the tail's log-probabilities without any query, [m], float32.
        items: Rows of the items that each completed identifier names.
    """

    rows: Tensor
    tails: list[list[int]]
    null_logprobs: Tensor
    items: list[tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class ConstraintState:
    """Rows of hypotheses; a constraint adds what it needs to know of them.

    Attributes:
        query: Which query each row belongs to, [n], int64.
    """

    query: Tensor


StateT = TypeVar("StateT", bound=ConstraintState)


@dataclass(frozen=True, eq=False)
class Forced(Generic[StateT]):
    """Rows after all tokens that have no legal alternative.

    Attributes:
        state: Each row at its next choice, or complete.
        tokens: What each row has written on the way; empty where it stood at a choice.
        null_logprobs: Sum of these tokens' log-probabilities without any query, [n], float32.
        complete: Whether the row has completed an identifier, [n], bool.
    """

    state: StateT
    tokens: list[list[int]]
    null_logprobs: Tensor
    complete: Tensor


class Constraint(Protocol[StateT]):
    """Decides which tokens may come next and what a finished row stands for."""

    def start(
        self, batch: int, subsets: Subsets | None = None, *, device: torch.device | str = "cpu"
    ) -> StateT:
        """One empty row for each query.

        Args:
            batch: Q, the number of queries.
            subsets: Q entries, or None if no query is restricted.
            device: Where the search runs.
        """
        ...

    def legal(self, state: StateT) -> LegalTokens:
        """The tokens that may follow; a row without any (an empty subset) owns no pair."""
        ...

    def advance(self, state: StateT, parents: Tensor, tokens: Tensor) -> StateT:
        """New rows that append legal tokens.

        Args:
            state: Left as it was.
            parents: Row that each new row continues, [m], int64.
            tokens: The token that each new row appends, [m], int64.

        Raises:
            InputError: If a token is not legal after its row.
        """
        ...

    def choose(self, state: StateT, rows: Tensor) -> StateT:
        """The chosen rows, in that order.

        Args:
            state: Left as it was.
            rows: [m], int64.
        """
        ...

    def forced(self, state: StateT, most: Tensor | None = None) -> Forced[StateT]:
        """Follow each row for as long as a single token is legal.

        A search that goes from choice to choice sees the same choices however the identifiers
        are laid out: a subset is searched like an index of the subset alone.

        Args:
            state: Left as it was.
            most: Tokens that each row may write, [n], int64; None for no limit.
        """
        ...

    def remaining(self, state: StateT) -> Tensor:
        """How many identifiers each row can still become, [n], int64."""
        ...

    def least_null_logprob(self, state: StateT) -> Tensor:
        """A lower bound of a tail's `null_logprobs` over each row's completions, [n], float32."""
        ...

    def completions(self, state: StateT) -> Completions:
        """Every completion of every row; ask only where few `remaining`."""
        ...

    def documents(self, state: StateT) -> list[tuple[int, ...]]:
        """Rows of the items that each finished row names; empty for unfinished rows."""
        ...
