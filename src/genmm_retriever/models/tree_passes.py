"""Which tails of several queries' trees are run together, so that little is spent on padding.

A pass takes as many tokens of each of its queries as of the one with the most. A tail that
ends may run in any pass; those that go on must be together, since the next step starts from one
cache of them all.
"""

from __future__ import annotations

from collections.abc import Sequence

from genmm_retriever.models.passes import passes


def tree_passes(
    fed: Sequence[int],
    queries: Sequence[int],
    ends: Sequence[bool],
    *,
    most: int,
    cost: int,
) -> list[list[int]]:
    """Cut tails into passes.

    Args:
        fed: Tokens of each tail that are computed.
        queries: Query that each tail belongs to.
        ends: Whether each tail ends; those that do not are all in the first pass.
        most: Most tokens of a pass, padding included, as far as tails can be cut.
        cost: What one more pass costs, in tokens.

    Returns:
        Numbers of the tails of each pass; those that go on begin the first one, in their order.

    Examples:
        Two queries go on with one token each. The first has tails of six tokens that end,
        which would cost as much again for the second one, were they run with both.

        >>> tree_passes([1, 1, 3, 3], [0, 1, 0, 0], [False, False, True, True], most=99, cost=5)
        [[0, 1], [2, 3]]
        >>> tree_passes([1, 1, 3, 3], [0, 1, 0, 0], [False, False, True, True], most=99, cost=50)
        [[0, 1, 2, 3]]
    """
    first = [tail for tail, end in enumerate(ends) if not end]
    used: dict[int, int] = {}
    for tail in first:
        used[queries[tail]] = used.get(queries[tail], 0) + fed[tail]
    ending: dict[int, list[int]] = {}
    for tail, end in enumerate(ends):
        if end:
            ending.setdefault(queries[tail], []).append(tail)
    whole = {query: sum(fed[tail] for tail in own) for query, own in ending.items()}

    def split(width: int) -> tuple[list[int], list[tuple[list[int], int]]]:
        """Tails that end and fit into the first pass, and the parts that do not."""
        fitting: list[int] = []
        rest: list[tuple[list[int], int]] = []
        for query, own in ending.items():
            number = _fitting(fed, own, width - used[query]) if query in used else 0
            fitting += own[:number]
            rest += _parts(fed, own[number:], most)
        return fitting, rest

    def cut(width: int) -> tuple[int, list[int], list[list[int]]]:
        """What a first pass so wide costs with those after it, its ending tails, and those."""
        fitting, rest = split(width)
        sizes = [size for _, size in rest]
        after = passes(sizes, most=most, cost=cost)
        spent = len(used) * width + sum(
            max(sizes[part] for part in pass_) * len(pass_) + cost for pass_ in after
        )
        return (
            spent,
            fitting,
            [[tail for part in pass_ for tail in rest[part][0]] for pass_ in after],
        )

    _, fitting, after = min(map(cut, _widths(used, whole, most)), key=lambda found: found[0])
    return ([first + fitting] if used else []) + after


def _widths(used: dict[int, int], ending: dict[int, int], most: int) -> list[int]:
    """Tokens a query that the pass of those that go on may take, the fewest first."""
    if not used:
        return [0]
    least = max(used.values())
    room = max(least, most // len(used))
    wanted = [size + ending.get(query, 0) for query, size in used.items()]
    return sorted({least, room, *(min(size, room) for size in wanted if size > least)})


def _fitting(fed: Sequence[int], tails: Sequence[int], room: int) -> int:
    """How many of the first tails there is room for."""
    for number, tail in enumerate(tails):
        room -= fed[tail]
        if room < 0:
            return number
    return len(tails)


def _parts(fed: Sequence[int], tails: Sequence[int], most: int) -> list[tuple[list[int], int]]:
    """One query's tails in parts of at most so many tokens, and their sizes."""
    parts: list[tuple[list[int], int]] = []
    while tails:
        number = max(1, _fitting(fed, tails, most))
        parts.append((list(tails[:number]), sum(fed[tail] for tail in tails[:number])))
        tails = tails[number:]
    return parts
