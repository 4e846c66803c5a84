"""The look-up of identifiers against a dict."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genmm_retriever.constraints.lookup import IdentifierLookup
from genmm_retriever.errors import IndexDamagedError, InputError

texts = st.text(st.sampled_from("ab é猫\U0010ffff"), max_size=6)
pairs = st.lists(st.tuples(texts, st.integers(0, 2**62)), max_size=30)


@settings(max_examples=100, deadline=None)
@given(pairs, pairs, texts, st.none() | st.integers(0, 5))
def test_pieces_equal_a_dict(
    first: list[tuple[str, int]], second: list[tuple[str, int]], prefix: str, limit: int | None
) -> None:
    packed = [
        IdentifierLookup.build([t for t, _ in piece], [r for _, r in piece])
        for piece in (first, second)
    ]
    lookup = IdentifierLookup.from_array(*packed)
    wanted: dict[str, set[int]] = {}
    for text, row in first + second:
        wanted.setdefault(text, set()).add(row)
    for text in [*wanted, prefix]:
        assert lookup.items(text) == tuple(sorted(wanted.get(text, ())))
    under = sorted((t for t in wanted if t.startswith(prefix)), key=lambda t: t.encode() + b"\xff")
    assert lookup.starting_with(prefix, limit) == [
        (text, tuple(sorted(wanted[text]))) for text in under[:limit]
    ]


def test_no_piece_finds_nothing() -> None:
    assert IdentifierLookup.from_array().starting_with("") == []
    assert IdentifierLookup.from_array().items("a") == ()


def test_odd_texts_are_refused() -> None:
    lookup = IdentifierLookup.from_array(IdentifierLookup.build(["a", ""], [0, 1]))
    for odd in ("a\udcff", "a\0", "\0"):
        with pytest.raises(InputError, match="no plain text"):
            IdentifierLookup.build([odd], [0])
        assert lookup.items(odd) == ()
        assert lookup.starting_with(odd) == []
    with pytest.raises(InputError, match="65537 characters"):
        IdentifierLookup.build(["a" * 65_537], [0])


def test_damaged_arrays_are_refused() -> None:
    packed = IdentifierLookup.build(["a dog", "a cat"], [0, 1])
    for bad in (packed[:0], packed[:-9], np.zeros(64, dtype=np.uint8)):
        with pytest.raises(IndexDamagedError, match="look-up"):
            IdentifierLookup.from_array(bad)
