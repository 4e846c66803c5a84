"""STATIC (arXiv 2602.22647) in PyTorch: a padded CSR trie on the accelerator.

Written from the paper. A row of (token, next state) pairs a state; a step reads as many pairs a
beam as the widest state of its level has, masks what is padding, gathers the log-probabilities
and keeps the best of all beams. The first two levels may be dense tables over the vocabulary;
beyond a few thousand tokens the second would not fit into memory, so only the first is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from benchmarks.corpora.identifiers import Identifiers


@dataclass(frozen=True, eq=False)
class StaticTrie:
    """An uncollapsed trie of sequences of one length.

    Attributes:
        pairs: (token, next state) of all edges by state, padded at the end, [edges + pad, 2].
        starts: State s owns `pairs[starts[s]:starts[s + 1]]`, [states + 1], int32.
        widest: Most edges of a state, by level.
        first: State of each level, [levels + 1].
    """

    pairs: Tensor
    starts: Tensor
    widest: tuple[int, ...]
    first: tuple[int, ...]

    @classmethod
    def build(cls, identifiers: Identifiers, device: str) -> StaticTrie:
        """From distinct or equal sequences of one length."""
        length = int(identifiers.offsets[1])
        rows = identifiers.tokens.reshape(-1, length)
        rows = rows[np.lexsort(rows.T[::-1])]
        state = np.zeros(len(rows), dtype=np.int64)
        first, widest, tokens, targets, counts = [0, 1], [], [], [], []
        for level in range(length):
            fresh = np.ones(len(rows), dtype=bool)
            fresh[1:] = (state[1:] != state[:-1]) | (rows[1:, level] != rows[:-1, level])
            child = first[-1] + np.cumsum(fresh) - 1
            width = np.bincount(state[fresh] - first[-2], minlength=first[-1] - first[-2])
            tokens.append(rows[fresh, level])
            targets.append(child[fresh])
            counts.append(width)
            widest.append(int(width.max()))
            first.append(int(child[-1]) + 1)
            state = child
        leaves = first[-1] - first[-2]
        starts = np.concatenate([[0], np.cumsum(np.concatenate([*counts, np.zeros(leaves, int)]))])
        pairs = np.stack([np.concatenate(tokens), np.concatenate(targets)], axis=1)
        pairs = np.concatenate([pairs, np.zeros((max(widest), 2), pairs.dtype)])
        return cls(
            torch.from_numpy(pairs.astype(np.int32)).to(device),
            torch.from_numpy(starts.astype(np.int32)).to(device),
            tuple(widest),
            tuple(first),
        )

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        return self.pairs.nbytes + self.starts.nbytes

    def step(
        self, logprobs: Tensor, scores: Tensor, states: Tensor, level: int, beams: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Mask and select, in shapes that do not depend on the data (fit for a CUDA graph).

        Args:
            logprobs: [n, V].
            scores: Of the beams so far, [n].
            states: [n], int64.
            level: Tokens written.
            beams: How many to keep.

        Returns:
            Parents, tokens, next states and scores of the best, [beams] each.
        """
        width = self.widest[level]
        start = self.starts[states].long()
        count = self.starts[states + 1].long() - start
        place = torch.arange(width, device=states.device)
        read = self.pairs[start[:, None] + place]
        token, target = read[..., 0].long(), read[..., 1].long()
        candidate = logprobs.gather(1, token) + scores[:, None]
        candidate = candidate.masked_fill(place >= count[:, None], -torch.inf)
        best, where = candidate.flatten().topk(min(beams, candidate.numel()))
        parents = where // width
        return parents, token.flatten()[where], target.flatten()[where], best
