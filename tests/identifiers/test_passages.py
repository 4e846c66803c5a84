"""Passages of bounded length, and where their tokens stand in the text."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genmm_retriever.identifiers.passages import places_in_text, split, text_tokens


class Bytes:
    """One token a byte; words inside a text are spelled with the blank before them."""

    def __init__(self, change=lambda text: text):
        self.change = change

    def encode(self, text):
        return list(self.change(text).encode("utf-8", "replace"))

    def decode(self, tokens):
        return bytes(tokens).decode("utf-8", "replace")


class Words:
    """One token a word, with the blank before it, if any."""

    def __init__(self, lead=False):
        self.lead, self.known = lead, []

    def encode(self, text):
        text = " " + text if self.lead else text
        words = text.replace(" ", "\n ").split("\n")
        for word in words:
            if word and word not in self.known:
                self.known.append(word)
        return [self.known.index(word) for word in words if word]

    def decode(self, tokens):
        return "".join(self.known[token] for token in tokens).removeprefix(" " * self.lead)


@given(st.integers(0, 400), st.integers(2, 60), st.data())
def test_passages_cover_the_text_and_overlap(length, longest, data):
    overlap = data.draw(st.integers(0, longest - 1))
    passages = split(length, longest=longest, overlap=overlap)
    assert passages[0][0] == 0
    assert passages[-1][1] == length
    assert all(end - start == min(length, longest) for start, end in passages)
    for (start, end), (following, _) in pairwise(passages):
        assert start < following <= end - overlap
    if len(passages) > 1:
        # One less would not do.
        assert length - overlap > (len(passages) - 1) * (longest - overlap)


def test_first_words_are_spelled_like_inner_ones():
    model = Words()
    dog = model.encode("a dog")[1]
    assert text_tokens(model, "dog and cat")[0] == dog
    assert text_tokens(model, " dog")[0] == dog
    model = Words(lead=True)  # adds the blank itself
    assert text_tokens(model, "dog")[0] == model.encode("a dog")[1]
    assert text_tokens(Bytes(), "dog") == list(b" dog")


def check_places(model, text, wanted, *parts):
    tokens = text_tokens(model, text)
    written = bytes(tokens)
    runs = []
    for part in parts:
        start = written.index(part.encode())
        runs.append((start, start + len(part.encode())))
    found = places_in_text(model, text, tokens, runs)
    assert [text[start:end] for start, end in found] == wanted


def test_places_in_plain_and_in_respelled_text():
    check_places(Bytes(), "A dog and a cat.", ["dog", "cat."], " dog", " cat.")
    check_places(Bytes(str.lower), "A Dog and a CAT.", ["Dog", "CAT"], "dog", "cat")

    def squeeze(text):
        return " " + " ".join(text.replace(" ,", ",").split()).lower().rstrip(". ")

    text = "A  Dog ,\n two   cats .  "
    check_places(Bytes(squeeze), text, ["Dog ,\n two", "cats"], "dog, two", "cats")


def test_places_behind_what_only_one_side_has():
    def drop(text):
        return text.replace("(sic)", "").replace("x", "yy")

    text = "Boxes of some (sic) colour and the fox, at last."
    parts = ("some ", "colour", "foyy,", "at last.")
    check_places(Bytes(drop), text, ["some", "colour", "fox,", "at last."], *parts)


def test_compositions_and_halves_of_characters():
    text = "Caf\u00e9 na\u00efve \ufb01n \u6771\u4eac \U0001f436 end"
    model = Bytes(lambda t: t.replace("\u00e9", "e\u0301").replace("\ufb01", "fi"))
    tokens = text_tokens(model, text)
    written = bytes(tokens)
    start = written.index("\u6771".encode())
    # The run begins and ends inside a character.
    [(first, last)] = places_in_text(model, text, tokens, [(start + 1, start + 5)])
    assert text[first:last] in ("\u6771", "\u6771\u4eac")
    check_places(model, text, ["Caf\u00e9", "\ufb01n", "end"], "Cafe\u0301", "fin", "end")


def test_runs_without_characters_have_no_place():
    model = Bytes()
    text = "a   b"
    tokens = text_tokens(model, text)
    assert places_in_text(model, text, tokens, [(2, 4), (0, 0)]) == [None, None]
    assert places_in_text(model, "", text_tokens(model, ""), [(0, 1)]) == [None]


@settings(deadline=None)
@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=30), st.data())
def test_any_run_of_whole_characters_is_found(text, data):
    model = Bytes()
    tokens = text_tokens(model, text)
    first = data.draw(st.integers(0, len(text)))
    last = data.draw(st.integers(first, len(text)))
    stripped = text.lstrip()
    lead = len(text) - len(stripped)
    if first < lead:
        first = lead
    last = max(first, last)
    before = len((" " + text[lead:first]).encode())
    run = (before, before + len(text[first:last].encode()))
    expected = text[first:last].strip()
    [found] = places_in_text(model, text, tokens, [run])
    assert (found and text[slice(*found)].strip()) == (expected or None)


@pytest.mark.parametrize("size", [0, 1, 192, 193])
def test_defaults(size):
    assert split(size)[-1][1] == size
    assert len(split(size)) == 1 + (size > 192)
