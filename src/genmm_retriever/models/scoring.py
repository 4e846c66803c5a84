"""Log-probabilities at chosen tokens, in blocks, so that no large logits are ever held."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from genmm_retriever.models.base import log_normaliser

_LOGITS_AT_ONCE = {"cpu": 30_000_000, "cuda": 2**27}
"""Bytes of a logits block; scoring never holds more.

On a CPU below 32 MiB: the allocator then reuses the block instead of mapping fresh pages.
"""


def score_pairs(
    head: Callable[[Tensor], Tensor],
    states: Tensor,
    rows: Tensor,
    tokens: Tensor,
    keep: Tensor,
    vocab_size: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Score (state, token) pairs, and keep the whole logits of a few states.

    Args:
        head: From states [k, H] to logits [k, V] of any float dtype.
        states: [n, H].
        rows: State of each pair, [m], int64, in any order.
        tokens: Token of each pair, [m], int64.
        keep: States whose logits are wanted, [k], int64.
        vocab_size: V.

    Returns:
        Log-probabilities of the pairs [m], logits of the kept states [k, V] and their log
        normalisers [k], all float32.
    """
    most = _LOGITS_AT_ONCE.get(states.device.type, 2**26)
    size = max(1, most // (vocab_size * states.element_size()))
    if len(states) <= size:
        logits = head(states)
        normaliser = log_normaliser(logits)
        scores = logits[rows, tokens].float() - normaliser[rows]
        return scores, logits[keep].float(), normaliser[keep]
    like = torch.empty(0, dtype=torch.float32, device=states.device)
    scores, kept_normaliser = like.new_empty(len(rows)), like.new_empty(len(keep))
    kept = like.new_empty((len(keep), vocab_size))
    for start in range(0, len(states), size):
        here = [
            torch.nonzero((wanted >= start) & (wanted < start + size)).flatten()
            for wanted in (rows, keep)
        ]
        scores[here[0]], kept[here[1]], kept_normaliser[here[1]] = score_pairs(
            head,
            states[start : start + size],
            rows[here[0]] - start,
            tokens[here[0]],
            keep[here[1]] - start,
            vocab_size,
        )
    return scores, kept, kept_normaliser
