"""Where phrases stand in passages: all phrases in all passages, one token a pass."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def occurrences(
    passages: Sequence[Ints], phrases: Sequence[tuple[int, ...]]
) -> list[list[tuple[int, list[int]]]]:
    """Every place where a phrase begins.

    The phrases are laid into a prefix tree, and all tokens of all passages walk down it at once:
    as many passes as the longest phrase has tokens, each over the places still on a path.

    Args:
        passages: Token ids, int64, each [length].
        phrases: Distinct, none empty.

    Returns:
        For each passage the phrases that occur, by ascending number, with the places where they
        begin, ascending.

    Examples:
        >>> occurrences([np.array([5, 6, 5, 6, 5])], [(6,), (5, 6, 5), (7,)])
        [[(0, [1, 3]), (1, [0, 2])]]
    """
    lengths = np.array([len(passage) for passage in passages], dtype=np.int64)
    if not len(phrases) or not lengths.sum():
        return [[] for _ in passages]
    edges, targets, phrase_of, width = _tree(phrases)
    text = np.concatenate(passages)
    ends = np.repeat(np.cumsum(lengths), lengths)
    place = np.arange(len(text))
    node = np.zeros(len(text), dtype=np.int64)
    # A token that no phrase has must not look like another node's edge.
    text = np.where((text >= 0) & (text < width), text, width)
    begins, named = [], []
    depth = 0
    while len(place):
        inside = place + depth < ends[place]
        place, node = place[inside], node[inside]
        wanted = node * (width + 1) + text[place + depth]
        at = np.searchsorted(edges, wanted).clip(max=len(edges) - 1)
        on = edges[at] == wanted
        place, node = place[on], targets[at[on]]
        complete = phrase_of[node] >= 0
        begins.append(place[complete])
        named.append(phrase_of[node[complete]])
        depth += 1
    return _grouped(np.concatenate(begins), np.concatenate(named), lengths)


def _tree(phrases: Sequence[tuple[int, ...]]) -> tuple[Ints, Ints, Ints, int]:
    """Edges as sorted numbers `node * (width + 1) + token`, their targets, phrases of nodes."""
    width = 1 + max(max(phrase) for phrase in phrases)
    nodes: dict[tuple[int, int], int] = {}
    ends = {}
    for number, phrase in enumerate(phrases):
        node = 0
        for token in phrase:
            node = nodes.setdefault((node, token), len(nodes) + 1)
        ends[node] = number
    edges = np.array([node * (width + 1) + token for node, token in nodes], dtype=np.int64)
    order = np.argsort(edges)
    phrase_of = np.full(len(nodes) + 1, -1, dtype=np.int64)
    phrase_of[list(ends)] = list(ends.values())
    return edges[order], np.array(list(nodes.values()), dtype=np.int64)[order], phrase_of, width


def _grouped(begins: Ints, named: Ints, lengths: Ints) -> list[list[tuple[int, list[int]]]]:
    starts = np.cumsum(lengths) - lengths
    # Empty passages share their start with the next one: the last that begins there has tokens.
    passage = np.searchsorted(starts, begins, side="right") - 1
    order = np.lexsort((begins, named, passage))
    columns = (passage[order], named[order], (begins - starts[passage])[order])
    triples = zip(*(column.tolist() for column in columns), strict=True)
    found: list[list[tuple[int, list[int]]]] = [[] for _ in lengths]
    for (of, phrase), group in groupby(triples, key=lambda triple: triple[:2]):
        found[of].append((phrase, [place for _, _, place in group]))
    return found
