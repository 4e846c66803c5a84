from __future__ import annotations

import pytest

from genmm_retriever.errors import InputError
from genmm_retriever.identifiers import CaptionIdentifiers, HashingEncoder


def test_first_words_then_more_then_a_number():
    scheme = CaptionIdentifiers.fit([["x"]], HashingEncoder(), length=2)
    items = [["A dog runs."], ["A dog runs!"], ["a DOG, runs"], ["A dog"], ["A cat"]]
    assert scheme.assign(items, taken=set()) == [
        ["a dog"], ["a dog runs"], ["a dog runs 2"], ["a dog 2"], ["a cat"]
    ]  # fmt: skip


def test_descriptions_with_equal_beginnings_share_an_identifier():
    scheme = CaptionIdentifiers(2)
    texts = ["A dog runs.", "A dog sleeps.", "Two dogs"]
    assert scheme.assign([texts], taken=set()) == [["a dog", "two dogs"]]


def test_at_most_twice_the_words():
    scheme = CaptionIdentifiers()
    text = " ".join(f"w{i}" for i in range(40))
    (first,), (second,) = scheme.assign([[text], [text]], taken=set())
    assert len(first.split()) == 8
    assert len(second.split()) == 9
    taken = {" ".join(text.split()[:n]) for n in range(8, 17)}
    assert scheme.assign([[text]], taken=taken) == [[" ".join(text.split()[:16]) + " 2"]]


def test_refuses_no_words():
    with pytest.raises(InputError, match="length=0 must be at least 1"):
        CaptionIdentifiers.fit([["a dog"]], length=0)


def test_refuses_another_kind():
    with pytest.raises(InputError, match="no state of caption identifiers"):
        CaptionIdentifiers.from_state({}, {"kind": "numeric", "version": 1})
