"""Memory for what the next step reads and nobody else."""

from __future__ import annotations

import threading

import torch
from torch import Tensor

_MOST = 2**20
"""Elements that are kept for the next time; to map that much costs little beside filling it."""


class Scratch(threading.local):
    """Tensors that a thread writes again and again: the layers of a pass need them in turns.

    Beside a product of a few rows, to ask for memory takes as long as to fill it.
    """

    def __init__(self) -> None:
        self._kept: dict[str, Tensor] = {}

    def take(self, name: str, *shape: int) -> Tensor:
        """A bfloat16 tensor; what was taken by that name before is overwritten."""
        kept = self._kept.get(name)
        if kept is None or kept.shape != shape:
            kept = torch.empty(shape, dtype=torch.bfloat16, device="cpu")
            if kept.numel() <= _MOST:
                self._kept[name] = kept
        return kept
