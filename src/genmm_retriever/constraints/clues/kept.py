"""A shard as an index keeps it, with its tombstones; and what may go into one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genmm_retriever.constraints.clues.shard import Shard
from genmm_retriever.errors import InputError

I64 = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Kept:
    """A shard with its tombstones; `number` names it for as long as it lives."""

    number: int
    shard: Shard
    dead: NDArray[np.bool_] | None = None

    @cached_property
    def dead_tokens(self) -> int:
        """Tokens of deleted passages."""
        return 0 if self.dead is None else int(self.shard.lengths(self.dead).sum())

    @property
    def mostly_alive(self) -> bool:
        """Whether at most a quarter of the rows are of deleted passages."""
        dead = self.dead_tokens + self.shard.passages - self.alive_passages
        return 4 * dead <= self.shard.rows

    @property
    def alive_tokens(self) -> int:
        """Tokens of the other passages."""
        return self.shard.tokens - self.dead_tokens

    @property
    def alive_passages(self) -> int:
        """Passages that are not deleted."""
        return self.shard.passages - (0 if self.dead is None else int(self.dead.sum()))

    def alive_text(self) -> tuple[NDArray[np.uint32], I64, I64]:
        """Tokens, lengths and items of the passages that are not deleted."""
        alive = np.arange(self.shard.passages)
        if self.dead is not None:
            alive = alive[~self.dead]
        tokens, offsets = self.shard.gather(alive)
        return tokens, np.diff(offsets), self.shard.items[alive]


def check_input(tokens: NDArray[Any], offsets: I64, items: I64, vocab_size: int) -> None:
    """Refuse what is no list of passages, see `ClueIndex.build`.

    Raises:
        InputError: If tokens, offsets and items do not fit together.
    """
    if tokens.ndim != 1 or (len(tokens) and tokens.dtype.kind not in "iu"):
        raise InputError("tokens are not a list of integers", "give token ids end to end")
    if offsets.ndim != 1 or items.ndim != 1 or len(offsets) != len(items) + 1:
        raise InputError(
            f"{len(items)} items but offsets of {len(offsets) - 1} passages",
            "give one item a passage, and one offset more",
        )
    if offsets[0] != 0 or offsets[-1] != len(tokens) or (np.diff(offsets) < 0).any():
        raise InputError("the offsets do not ascend from 0 to the end", "check the offsets")
    if len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) < vocab_size:
        raise InputError(
            f"tokens from {tokens.min()} to {tokens.max()}", f"they lie in [0, {vocab_size})"
        )
