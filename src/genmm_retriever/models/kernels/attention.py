"""Attention of tokens that see few of the others, as the branches of a tree do."""

from __future__ import annotations

import threading
import weakref
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from genmm_retriever.jit import as_i32, as_u16, vectorised, vectorised_helper
from genmm_retriever.models.kernels.numbers import F32, I32, U16, exponential, short, wide

_DEARER, _BEGUN = 8, 3000
"""A pair of tokens that is looked up costs what so many of a dense product do; to begin one costs
what so many of its pairs do."""
_SEEN, _HIDDEN = 0, 0xFF7F
"""Bits of bfloat16: zero, and the least finite number."""
_USUAL = 64
"""Size of a head in most models."""
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


def attend(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    visible: Visible,
    scale: float,
    out: Tensor | None = None,
) -> Tensor:
    """What each token of a sequence sees, weighed by the softmax of its scores.

    Args:
        queries: [1, heads, T, S], bfloat16, contiguous.
        keys: [1, shared, L, S], bfloat16, contiguous; each serves as many heads.
        values: As the keys.
        visible: Which of the keys each token sees.
        scale: Of the scores.
        out: Where it is written, [T, heads * S]; new if None.
    """
    _one, heads, width, size = queries.shape
    _one, shared, length, _size = keys.shape
    out = queries.new_empty((width, heads * size)) if out is None else out
    _attend(
        queries.data_ptr(),
        keys.data_ptr(),
        values.data_ptr(),
        out.data_ptr(),
        visible.starts.data_ptr(),
        visible.keys.data_ptr(),
        visible.count,
        (heads, shared, width, length, size),
        scale,
    )
    return out


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


@vectorised
def _attend(
    queries: int,
    keys: int,
    values: int,
    seen: int,
    starts: int,
    listed: int,
    most: int,
    shape: tuple[int, int, int, int, int],
    scale: float,
) -> None:
    heads, shared, width, length, size = shape
    asking, told = as_u16(queries, (heads, width, size)), as_u16(seen, (width, heads, size))
    key, value = as_u16(keys, (shared, length, size)), as_u16(values, (shared, length, size))
    bounds, chosen = as_i32(starts, width + 1), as_i32(listed, most)
    wide_keys = np.empty((length, size), np.float32)
    wide_values = np.empty((length, size), np.float32)
    query, answer = np.empty(size, np.float32), np.empty(size, np.float32)
    scores = np.empty(length, np.float32)
    group = heads // shared
    for one in range(shared):
        _widen(key[one], wide_keys)
        _widen(value[one], wide_values)
        for row in range(width):
            rows = chosen[bounds[row] : bounds[row + 1]]
            for head in range(one * group, one * group + group):
                for i in range(size):
                    query[i] = wide(asking[head, row, i]) * np.float32(scale)
                # A number that is known beforehand makes a loop without a count of its rounds.
                if size == _USUAL:
                    _multiply(query, wide_keys, rows, scores, _USUAL)
                else:
                    _multiply(query, wide_keys, rows, scores, size)
                _softmax(scores[: len(rows)])
                if size == _USUAL:
                    _add_up(wide_values, rows, scores, answer, _USUAL)
                else:
                    _add_up(wide_values, rows, scores, answer, size)
                for i in range(size):
                    told[row, head, i] = short(answer[i])


@vectorised_helper
def _widen(given: U16, made: F32) -> None:
    for row in range(given.shape[0]):
        for i in range(given.shape[1]):
            made[row, i] = wide(given[row, i])


@vectorised_helper
def _multiply(query: F32, keys: F32, rows: I32, scores: F32, size: int) -> None:
    """Write the products with some keys, four at a time."""
    fours = len(rows) // 4 * 4
    for i in range(0, fours, 4):
        first, second = keys[rows[i]], keys[rows[i + 1]]
        third, fourth = keys[rows[i + 2]], keys[rows[i + 3]]
        one = two = three = four = np.float32(0)
        for j in range(size):
            asked = query[j]
            one += asked * first[j]
            two += asked * second[j]
            three += asked * third[j]
            four += asked * fourth[j]
        scores[i], scores[i + 1], scores[i + 2], scores[i + 3] = one, two, three, four
    for i in range(fours, len(rows)):
        key = keys[rows[i]]
        score = np.float32(0)
        for j in range(size):
            score += query[j] * key[j]
        scores[i] = score


@vectorised_helper
def _softmax(scores: F32) -> None:
    most = scores[0]
    for i in range(1, len(scores)):
        most = scores[i] if scores[i] > most else most
    total = np.float32(0)
    for i in range(len(scores)):
        scores[i] = exponential(scores[i] - most)
        total += scores[i]
    for i in range(len(scores)):
        scores[i] /= total


@vectorised_helper
def _add_up(values: F32, rows: I32, scores: F32, answer: F32, size: int) -> None:
    """Write the sum of some values, each by its score, four at a time."""
    for j in range(size):
        answer[j] = 0
    fours = len(rows) // 4 * 4
    for i in range(0, fours, 4):
        one, two, three, four = scores[i], scores[i + 1], scores[i + 2], scores[i + 3]
        first, second = values[rows[i]], values[rows[i + 1]]
        third, fourth = values[rows[i + 2]], values[rows[i + 3]]
        for j in range(size):
            left = one * first[j] + two * second[j]
            answer[j] += left + (three * third[j] + four * fourth[j])
    for i in range(fours, len(rows)):
        score, value = scores[i], values[rows[i]]
        for j in range(size):
            answer[j] += score * value[j]
