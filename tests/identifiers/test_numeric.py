from __future__ import annotations

import numpy as np
import pytest

from genmm_retriever.errors import InputError
from genmm_retriever.identifiers import HashingEncoder, NumericIdentifiers

ENCODER = HashingEncoder()


def test_near_items_share_a_prefix():
    topics = ("dog snow mountain", "boat sea harbour", "guitar stage concert")
    items = [[f"{topic} {number}"] for topic in topics for number in range(30, 55)]
    scheme = NumericIdentifiers.fit(items, ENCODER)
    found = [some[0] for some in scheme.assign(items, taken=set())]
    first = np.array([text.split()[0] for text in found]).reshape(3, -1)
    groups = [set(row) for row in first.tolist()]
    assert not groups[0] & groups[1]
    assert not groups[0] & groups[2]
    assert not groups[1] & groups[2]
    assert max(len(text.split()) for text in found) >= 2


def test_one_identifier_a_leaf_and_item():
    topics = ("dog snow mountain", "boat sea harbour", "guitar stage concert")
    items = [[f"{topic} {number}"] for topic in topics for number in range(30, 55)]
    scheme = NumericIdentifiers.fit(items, ENCODER)
    ((first, second),) = scheme.assign(
        [["dog snow mountain 31", "boat sea harbour 31", "dog snow mountain 31"]], taken=set()
    )
    assert first.split()[0] != second.split()[0]


def test_leaves_are_small_where_items_differ():
    items = [[f"thing{number} other{number * 7}"] for number in range(300)]
    scheme = NumericIdentifiers.fit(items, ENCODER, clusters=4)
    found = [some[0] for some in scheme.assign(items, taken=set())]
    assert max(int(digit) for text in found for digit in text.split()[:-1]) <= 3
    assert max(int(text.split()[-1]) for text in found) <= 16


def test_refuses_a_tree_without_branches():
    with pytest.raises(InputError, match="at least 2"):
        NumericIdentifiers.fit([["a dog"]], ENCODER, clusters=1)
