"""Rows of different lengths cut into passes, so that little is spent on padding."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

PASS_COST = {"cpu": 64}
"""What one more pass costs, in tokens; on other devices a token costs next to nothing."""
_ELSEWHERE = 8192


def pass_cost(device_type: str) -> int:
    """What one more pass costs on a device, in tokens."""
    return PASS_COST.get(device_type, _ELSEWHERE)


def passes(
    fed: Sequence[int], *, most: int, cost: int, before: Sequence[int] | None = None
) -> list[list[int]]:
    """Cut rows into passes that are padded to their longest row.

    The tokens computed, padding included, and `cost` a pass are as few as they can be for
    passes that take all rows of a length; then passes above the limit are cut.

    Args:
        fed: Tokens of each row that are computed.
        most: Most padded tokens of a pass, those in the cache included; a row above it gets
            a pass of its own.
        cost: What one more pass costs, in tokens.
        before: Tokens of each row that are in its cache already.

    Returns:
        Row numbers of each pass; every row in one of them.

    Examples:
        >>> passes([2, 9, 2], most=100, cost=10)
        [[1], [0, 2]]
        >>> passes([2, 9, 2], most=100, cost=20)
        [[1, 0, 2]]
    """
    order = sorted(range(len(fed)), key=lambda row: -fed[row])
    equal = [list(rows) for _, rows in groupby(order, key=lambda row: fed[row])]
    least = [0] + [0] * len(equal)
    begin = [0] * (len(equal) + 1)
    for end in range(1, len(equal) + 1):
        count, found = 0, []
        for start in range(end - 1, -1, -1):
            count += len(equal[start])
            found.append((least[start] + fed[equal[start][0]] * count + cost, start))
        least[end], begin[end] = min(found)
    lengths = [f + b for f, b in zip(fed, before or [0] * len(fed), strict=True)]
    cut: list[list[int]] = []
    end = len(equal)
    while end:
        rows = [row for group in equal[begin[end] : end] for row in group]
        cut[:0] = _limited(rows, lengths, most)
        end = begin[end]
    return cut


def _limited(rows: Sequence[int], lengths: Sequence[int], most: int) -> list[list[int]]:
    """Cut further where a pass would be above the limit."""
    parts: list[list[int]] = [[]]
    longest = 0
    for row in rows:
        longest = max(longest, lengths[row])
        if parts[-1] and longest * (len(parts[-1]) + 1) > most:
            parts.append([])
            longest = lengths[row]
        parts[-1].append(row)
    return parts
