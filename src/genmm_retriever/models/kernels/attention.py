"""Attention of tokens that see few of the others, as the branches of a tree do."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from genmm_retriever.jit import as_i32, as_u16, vectorised, vectorised_helper
from genmm_retriever.models.kernels.heads import Form, normed, turned
from genmm_retriever.models.kernels.numbers import (
    F32,
    I32,
    USUAL,
    Number,
    copied,
    exponential,
    narrow,
    widen,
)
from genmm_retriever.models.kernels.visible import Visible


def attend(
    mixed: Tensor,
    turns: tuple[Tensor, Tensor],
    form: Form,
    past: tuple[Tensor, Tensor] | None,
    visible: Visible,
    scale: float,
    grown: Tensor,
    out: Tensor,
) -> Tensor:
    """What each token of a sequence sees, weighed by the softmax of its scores.

    Args:
        mixed: Queries, keys and values of T tokens without their positions,
            [T, (heads + 2 * shared) * S], bfloat16, contiguous.
        turns: Cosines and sines of the positions, each [1, T, S], bfloat16, contiguous.
        form: Of the heads.
        past: Keys and values of L tokens before these, each [1, shared, L, S], bfloat16,
            contiguous; None if there are none.
        visible: Which of the L + T keys each token sees.
        scale: Of the scores.
        grown: Where keys and values of all tokens are written, [2, 1, shared, L + T, S], bfloat16,
            contiguous.
        out: Where the answer is written, [T, heads * S], bfloat16, contiguous.
    """
    keys, values = (0, 0) if past is None else (past[0].data_ptr(), past[1].data_ptr())
    _attend(
        (mixed.data_ptr(), keys, values, grown.data_ptr(), out.data_ptr()),
        (turns[0].data_ptr(), turns[1].data_ptr()),
        form.norms_at,
        (visible.starts.data_ptr(), visible.keys.data_ptr(), visible.count),
        (form.heads, form.shared, len(mixed), grown.shape[3], form.size),
        form.epsilon,
        scale,
    )
    return out


@vectorised
def _attend(
    places: tuple[int, int, int, int, int],
    turns: tuple[int, int],
    norms: tuple[int, int],
    visible: tuple[int, int, int],
    shape: tuple[int, int, int, int, int],
    epsilon: Number,
    scale: Number,
) -> None:
    mixed, past_keys, past_values, grown, out = places
    heads, shared, width, length, size = shape
    before, group = length - width, heads // shared
    source = as_u16(mixed, (width, heads + 2 * shared, size))
    old_keys = as_u16(past_keys, (shared, before, size))
    old_values = as_u16(past_values, (shared, before, size))
    made, told = as_u16(grown, (2, shared, length, size)), as_u16(out, (width, heads, size))
    turning = np.empty((2, width, size), np.float32)
    for i in range(2):
        given = as_u16(turns[i], (width, size))
        for row in range(width):
            widen(given[row], turning[i, row])
    starts, chosen = as_i32(visible[0], width + 1), as_i32(visible[1], visible[2])
    near = np.empty((2, length, size), np.float32)
    scores, head = np.empty(length, np.float32), np.empty(size, np.float32)
    query, answer = np.empty(size, np.float32), np.empty(size, np.float32)
    for one in range(shared):
        keys, values = made[0, one], made[1, one]
        for row in range(before):
            copied(old_keys[one, row], keys[row])
            copied(old_values[one, row], values[row])
        for row in range(width):
            normed(source[row, heads + one], norms[1], epsilon, head)
            turned(head, turning[0, row], turning[1, row], answer)
            narrow(answer, keys[before + row])
            copied(source[row, heads + shared + one], values[before + row])
        former = chosen[:0]
        for row in range(width):
            rows = chosen[starts[row] : starts[row + 1]]
            # Neighbours in a tree see the same as far as their ways are the same.
            for i in range(_in_common(former, rows), len(rows)):
                widen(keys[rows[i]], near[0, i])
                widen(values[rows[i]], near[1, i])
            former = rows
            seen = scores[: len(rows)]
            for i in range(one * group, one * group + group):
                normed(source[row, i], norms[0], epsilon, head)
                turned(head, turning[0, row], turning[1, row], query)
                # A number that is known beforehand makes a loop without a count of its rounds.
                if size == USUAL:
                    _multiply(query, near[0], seen, scale, USUAL)
                    _softmax(seen)
                    _add_up(near[1], seen, answer, USUAL)
                else:
                    _multiply(query, near[0], seen, scale, size)
                    _softmax(seen)
                    _add_up(near[1], seen, answer, size)
                narrow(answer, told[row, i])


@vectorised_helper
def _in_common(one: I32, other: I32) -> int:
    """How many of the first are the same."""
    most = min(len(one), len(other))
    for i in range(most):
        if one[i] != other[i]:
            return i
    return most


@vectorised_helper
def _multiply(query: F32, keys: F32, scores: F32, scale: Number, size: int) -> None:
    """Write the products with the first keys, four at a time."""
    fours = len(scores) // 4 * 4
    for i in range(0, fours, 4):
        first, second, third, fourth = keys[i], keys[i + 1], keys[i + 2], keys[i + 3]
        one = two = three = four = np.float32(0)
        for j in range(size):
            asked = query[j]
            one += asked * first[j]
            two += asked * second[j]
            three += asked * third[j]
            four += asked * fourth[j]
        scores[i], scores[i + 1], scores[i + 2], scores[i + 3] = one, two, three, four
    for i in range(fours, len(scores)):
        key = keys[i]
        score = np.float32(0)
        for j in range(size):
            score += query[j] * key[j]
        scores[i] = score
    for i in range(len(scores)):
        scores[i] *= np.float32(scale)


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
def _add_up(values: F32, scores: F32, answer: F32, size: int) -> None:
    """Write the sum of the first values, each by its score, four at a time."""
    for j in range(size):
        answer[j] = 0
    fours = len(scores) // 4 * 4
    for i in range(0, fours, 4):
        one, two, three, four = scores[i], scores[i + 1], scores[i + 2], scores[i + 3]
        first, second, third, fourth = values[i], values[i + 1], values[i + 2], values[i + 3]
        for j in range(size):
            left = one * first[j] + two * second[j]
            answer[j] += left + (three * third[j] + four * fourth[j])
    for i in range(fours, len(scores)):
        score, value = scores[i], values[i]
        for j in range(size):
            answer[j] += score * value[j]
