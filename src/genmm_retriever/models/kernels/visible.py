"""Which of the others each token of a pass sees, where these are few."""

from __future__ import annotations

import threading
import weakref
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from genmm_retriever.jit import as_i32, as_u16, vectorised

_DEARER, _BEGUN = 8, 3000
"""A pair of tokens that is looked up costs what so many of a dense product do; to begin one costs
what so many of its pairs do."""
_SEEN, _HIDDEN = 0, 0xFF7F
"""Bits of bfloat16: zero, and the least finite number."""
_LATEST = threading.local()


@dataclass(frozen=True)
class Visible:
    """Which keys each token of a pass sees, where they are few of all.

    Attributes:
        starts: Where the keys of each token begin among all of them, [T + 1], int32.
        keys: Numbers of keys, int32, of one token after the other.
        count: How many these are in all.
    """

    starts: Tensor
    keys: Tensor
    count: int

    @classmethod
    def of(cls, mask: Tensor) -> Visible | None:
        """What a mask of a single sequence shows; None where a dense product is faster.

        The layers of a pass share a mask: the latest one's answer is kept.

        Args:
            mask: [1, 1, T, L], bfloat16, added to scores: 0 or the least number.
        """
        if mask.dtype != torch.bfloat16 or mask.shape[:2] != (1, 1):
            return None
        # Tensors made in inference mode count no changes.
        version = -1 if mask.is_inference() else mask._version
        kept = getattr(_LATEST, "of", None)
        if kept is not None and kept() is mask and _LATEST.version == version:
            known: Visible | None = _LATEST.visible
            return known
        found = cls._looked_up(mask.contiguous())
        _LATEST.of, _LATEST.version, _LATEST.visible = weakref.ref(mask), version, found
        return found

    @classmethod
    def before(cls, width: int) -> Visible | None:
        """All tokens up to each of a sequence; None where a dense product is faster."""
        if width * (width + 1) // 2 > _most(width, width):
            return None
        return _triangle(width)

    @classmethod
    def _looked_up(cls, mask: Tensor) -> Visible | None:
        width, length = mask.shape[2:]
        most = _most(width, length)
        starts = torch.empty(width + 1, dtype=torch.int32, device=mask.device)
        keys = torch.empty(most, dtype=torch.int32, device=mask.device)
        if not _list(mask.data_ptr(), width, length, starts.data_ptr(), keys.data_ptr(), most):
            return None
        return cls(starts, keys, int(starts[-1]))


def _most(width: int, length: int) -> int:
    """How many pairs are looked up in less time than a dense product takes."""
    return (width * length + _BEGUN) // (_DEARER * torch.get_num_threads())


@lru_cache(maxsize=64)
def _triangle(width: int) -> Visible:
    below = torch.ones((width, width), dtype=torch.bool, device="cpu").tril()
    counts = torch.arange(width + 1, device="cpu")
    keys = torch.nonzero(below)[:, 1]
    return Visible((counts * (counts + 1) // 2).int(), keys.int().contiguous(), len(keys))


@vectorised
def _list(mask: int, width: int, length: int, starts: int, keys: int, most: int) -> bool:
    """List what each token sees; False if that is too much or if the mask says more."""
    source, bounds = as_u16(mask, (width, length)), as_i32(starts, width + 1)
    found = as_i32(keys, most)
    count = 0
    for row in range(width):
        bounds[row] = count
        given = source[row]
        for i in range(length):
            if given[i] == _SEEN:
                if count == most:
                    return False
                found[count] = i
                count += 1
            elif given[i] != _HIDDEN:
                return False
        if count == bounds[row]:
            return False
    bounds[width] = count
    return True
