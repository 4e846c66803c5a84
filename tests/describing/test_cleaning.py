from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genmm_retriever.describing import MAX_WORDS, clean_caption, text_descriptions


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("  A dog\n\n runs.\t", "A dog runs."),
        ("A\x00 dog\x1b[0m\u202e", "A dog [0m"),
        ('"A dog runs."', "A dog runs."),
        ("Caption: A dog runs.", "A dog runs."),
        ("<think>What is it?</think>A dog.", "A dog."),
        ("<think>never ends", ""),
        ("a dog, a dog, a dog, a dog", "a dog"),
        ("a very very big dog", "a very very big dog"),
        ("a dog dog dog dog dog", "a dog"),
        ("He sits on a bench and he sits on a bench and he sits", "He sits on a bench and"),
        ("\ud800", ""),
        ("", ""),
    ],
)
def test_clean(raw, clean):
    assert clean_caption(raw) == clean


def test_long_captions_end_with_a_sentence():
    text = " ".join(f"word{i}" for i in range(50)) + ". " + " ".join(f"more{i}" for i in range(50))
    assert clean_caption(text).endswith("word49.")
    assert len(clean_caption(" ".join(f"w{i}" for i in range(10_000))).split()) == MAX_WORDS


@given(st.text())
def test_clean_is_one_bounded_printable_line_and_settles(text):
    cleaned = clean_caption(text)
    assert len(cleaned.split()) <= MAX_WORDS
    assert "\n" not in cleaned
    assert cleaned == cleaned.strip()
    assert cleaned == " ".join(cleaned.split())
    cleaned.encode()


def test_text_descriptions_cover_a_passage_from_start_to_end():
    words = [f"w{i}" for i in range(200)]
    found = text_descriptions(" ".join(words), per_item=3)
    assert [text.split()[0] for text in found] == ["w0", "w70", "w140"]
    assert found[-1].split()[-1] == "w199"
    assert all(len(text.split()) == MAX_WORDS for text in found)


@pytest.mark.parametrize("text", ["", " \n", "\x00"])
def test_text_descriptions_of_nothing(text):
    assert text_descriptions(text) == []


def test_text_descriptions_of_a_short_text_is_the_text():
    assert text_descriptions("A dog\nruns.") == ["A dog runs."]
