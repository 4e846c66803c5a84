"""How far rows are forced, and what they can still become: the parts of it on the host."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from genmm_retriever.constraints.alive import View
from genmm_retriever.constraints.parts import ABSENT, TriePart
from genmm_retriever.constraints.ragged import Ints, ragged_ranges


@dataclass(frozen=True, eq=False)
class Moved:
    """Rows after all forced tokens; see `Forced`.

    Attributes:
        targets: Where the rows stand in each part, [parts, n].
        depth: Tokens written, [n].
        tokens: Those written on the way.
        null: Sum of their unconditional log-probabilities, [n], float32.
        complete: Whether the row is complete, [n].
    """

    targets: Ints
    depth: Ints
    tokens: list[list[int]]
    null: NDArray[np.float32]
    complete: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class _Reach:
    """Alive leaves under the rows in one part: where there are any, the first and the last."""

    here: NDArray[np.bool_]
    first: Ints
    last: Ints


def follow(
    parts: tuple[TriePart, ...],
    targets: Ints,
    depth: Ints,
    slot: Ints,
    view: View,
    most: Ints | None = None,
) -> Moved:
    """Write what all alive leaves under a row have in common.

    Args:
        parts: The parts of the trie.
        targets: Where the rows stand in each part, [parts, n].
        depth: Tokens written, [n].
        slot: The distinct subset of each row, [n].
        view: What may be found.
        most: Tokens that each row may write, [n]; None for no limit.
    """
    if len(parts) == 1 and view.parts[0] is None:
        return _follow_all(parts[0], targets[0], depth, most)
    reach = [_reach(part, targets[p], slot, view, p) for p, part in enumerate(parts)]
    end = depth.copy()
    tokens: list[list[int]] = [[] for _ in depth]
    null = np.zeros(len(depth), dtype=np.float32)
    complete = np.zeros(len(depth), dtype=np.bool_)
    open_ = np.ones(len(depth), dtype=np.bool_)
    for p, part in enumerate(parts):
        # The first part that has the row leads.
        rows = np.flatnonzero(open_ & reach[p].here)
        open_[rows] = False
        leaf, begin = reach[p].first[rows], depth[rows]
        length = part.lengths(leaf)
        stop = _shared(part, leaf, part, reach[p].last[rows], begin, length)
        for other, found in zip(parts[p + 1 :], reach[p + 1 :], strict=True):
            too = np.flatnonzero(found.here[rows])
            for side in (found.first, found.last):
                stop[too] = _shared(part, leaf[too], other, side[rows[too]], begin[too], stop[too])
        if most is not None:
            stop = np.minimum(stop, begin + most[rows])
        end[rows] = stop
        complete[rows] = stop == length
        null[rows] = part.null_sums(leaf, begin, stop)
        for row, span in zip(rows.tolist(), part.spans(leaf, begin, stop), strict=True):
            tokens[row] = span
    moved = [
        _arrive(part, target, one, end)
        for part, target, one in zip(parts, targets, reach, strict=True)
    ]
    return Moved(np.stack(moved), end, tokens, null, complete)


def _follow_all(part: TriePart, target: Ints, depth: Ints, most: Ints | None) -> Moved:
    """As `follow` where every leaf may be found: every target but the root is a choice."""
    if part.arrays.node_edges[1] == 1:
        target = np.where(target == 0, part.arrays.edge_target[0], target).astype(np.int64)
    end = np.maximum(part.target_depth(target), depth)
    whole = end
    if most is not None:
        end = np.minimum(end, depth + most)
    leaf = part.first_leaf(target)
    return Moved(
        targets=target[None],
        depth=end,
        tokens=part.spans(leaf, depth, end),
        null=part.null_sums(leaf, depth, end).astype(np.float32),
        complete=(target < 0) & (target > ABSENT) & (end == whole),
    )


def leaves_under(part: TriePart, p: int, target: Ints, slot: Ints, view: View) -> tuple[Ints, Ints]:
    """Every alive leaf under every row: the rows, ascending, and the leaves."""
    low, high = part.bounds(target)
    rows = np.repeat(np.arange(len(target)), high - low)
    leaf = ragged_ranges(low, high - low)
    alive = view.parts[p]
    if alive is not None:
        lives = alive.lives(slot[rows], leaf)
        rows, leaf = rows[lives], leaf[lives]
    return rows, leaf


def _reach(part: TriePart, target: Ints, slot: Ints, view: View, p: int) -> _Reach:
    low, high = part.bounds(target)
    alive = view.parts[p]
    if alive is None:
        return _Reach(high > low, low, high - 1)
    base = slot * alive.stride
    here = alive.before[base + high] > alive.before[base + low]
    first, last = np.zeros_like(low), np.zeros_like(low)
    first[here] = alive.first(slot[here], low[here])
    last[here] = alive.last(slot[here], high[here])
    return _Reach(here, first, last)


def _shared(
    part: TriePart, leaf: Ints, other: TriePart, leaf_there: Ints, begin: Ints, end: Ints
) -> Ints:
    """Up to which depth two leaves agree that agree up to `begin`; at most `end`, [n]."""
    if other is part and np.array_equal(leaf, leaf_there):
        same: Ints = end.copy()
        return same
    width = int((end - begin).max(initial=0))
    equal = part.padded(leaf, begin, width) == other.padded(leaf_there, begin, width)
    agreed = np.logical_and.accumulate(equal, axis=1).sum(axis=1)
    stop: Ints = np.minimum(begin + agreed, end)
    return stop


def _arrive(part: TriePart, target: Ints, reach: _Reach, depth: Ints) -> Ints:
    """The targets of rows that go on to a depth."""
    target = target.copy()
    single = reach.here & (reach.first == reach.last)
    target[single] = ~reach.first[single]
    rows = np.flatnonzero(reach.here & ~single)
    target[rows] = part.walk(target[rows], reach.first[rows], depth[rows])
    return target
