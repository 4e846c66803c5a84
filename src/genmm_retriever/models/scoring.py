"""Log-probabilities at chosen tokens, in blocks, so that no large logits are ever held."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from genmm_retriever.models.base import log_normaliser

_LOGITS_AT_ONCE = {"cpu": 30_000_000, "cuda": 2**27}
"""Bytes of a logits block; scoring never holds more.

On a CPU below 32 MiB: the allocator then reuses the block instead of mapping fresh pages.
"""


@dataclass(frozen=True)
class Stretch:
    """A part of the vocabulary whose logits are computed together.

    Attributes:
        first: Its first token.
        end: The token after its last one.
        head: From states [k, H] to its logits [k, end - first], of any float dtype.
    """

    first: int
    end: int
    head: Callable[[Tensor], Tensor]


def score_pairs(
    vocabulary: Sequence[Stretch], states: Tensor, rows: Tensor, tokens: Tensor, keep: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Score (state, token) pairs, and keep the whole logits of a few states.

    Args:
        vocabulary: All of it, in order.
        states: [n, H].
        rows: State of each pair, [m], int64, in any order.
        tokens: Token of each pair, [m], int64.
        keep: States whose logits are wanted, [k], int64.

    Returns:
        Log-probabilities of the pairs [m], logits of the kept states [k, V] and their log
        normalisers [k], all float32.
    """
    device = states.device
    like: Any = {"dtype": torch.float32, "device": device}
    widest = max(one.end - one.first for one in vocabulary)
    most = _LOGITS_AT_ONCE.get(device.type, 2**26)
    size = max(1, most // (widest * states.element_size()))
    pairs = _Pairs(rows, tokens, size, vocabulary)
    normalisers = torch.empty((len(vocabulary), len(states)), **like)
    kept = torch.empty((len(keep), vocabulary[-1].end), **like)
    found: list[Tensor] = []
    for part in range(0, len(states), size):
        some = states[part : part + size]
        wanted = torch.nonzero((keep >= part) & (keep < part + size)).flatten()
        chosen = keep[wanted] - part
        for number, stretch in enumerate(vocabulary):
            logits = stretch.head(some)
            normalisers[number, part : part + size] = log_normaliser(logits)
            found.append(pairs.of(len(found), logits))
            _copy(logits, chosen, kept[:, stretch.first : stretch.end], wanted)
    normaliser = normalisers[0] if len(vocabulary) == 1 else normalisers.logsumexp(dim=0)
    return pairs.joined(found) - normaliser[rows], kept, normaliser[keep]


def _copy(logits: Tensor, chosen: Tensor, kept: Tensor, wanted: Tensor) -> None:
    """Write some rows of logits to those rows that want them."""
    if len(wanted) == len(kept):
        kept.copy_(logits[chosen])
    elif len(wanted):
        kept[wanted] = logits[chosen].float()


class _Pairs:
    """Pairs of states and tokens by the block of logits that they stand in.

    Args:
        rows: [m].
        tokens: [m].
        size: States of a block.
        vocabulary: Tokens of the blocks of the same states, one after the other.
    """

    def __init__(
        self, rows: Tensor, tokens: Tensor, size: int, vocabulary: Sequence[Stretch]
    ) -> None:
        firsts = torch.tensor([one.first for one in vocabulary], device=tokens.device)
        stretch = torch.searchsorted(firsts, tokens, right=True) - 1
        block = rows // size * len(vocabulary) + stretch
        self._order = torch.argsort(block)
        self._rows = (rows % size)[self._order]
        self._tokens = (tokens - firsts[stretch])[self._order]
        self._ends = torch.bincount(block).cumsum(0).tolist()

    def of(self, number: int, logits: Tensor) -> Tensor:
        """The logits of the pairs of a block."""
        if number >= len(self._ends):
            return logits.new_empty(0)
        here = slice(self._ends[number - 1] if number else 0, self._ends[number])
        return logits[self._rows[here], self._tokens[here]]

    def joined(self, found: Sequence[Tensor]) -> Tensor:
        """What `of` found in all blocks, in the order of the pairs, [m], float32."""
        scores = torch.empty(len(self._order), dtype=torch.float32, device=self._order.device)
        if found:
            scores[self._order] = torch.cat(list(found)).float()
        return scores
