from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genmm_retriever.describing.cleaning import loops
from genmm_retriever.describing.guarding import (
    NOTHING,
    adds_nothing,
    checked_note,
    facts_of,
    keeps_facts,
)
from genmm_retriever.describing.prompts.notes import DENSE_WORDS

ORIGINAL = "Ansel Adams took it in 1932 near Half Dome with his camera."


@pytest.mark.parametrize(
    "refined",
    [
        "A black and white photograph of a tall granite cliff, Half Dome, that Ansel Adams took "
        "in 1932 with his large camera.",
        "In 1932, Ansel Adams' camera took Half Dome under a dark sky.",
    ],
)
def test_a_text_made_precise_stands(refined):
    assert keeps_facts(ORIGINAL, refined)
    assert checked_note("refined", refined, original=ORIGINAL) == (refined.rstrip(), "")


@pytest.mark.parametrize(
    "refined",
    [
        "A black and white photograph of a tall granite cliff.",
        "Ansel Adams took it near Half Dome with his camera, in black and white.",
        "Ansel Adams took it in 1923 near Half Dome with his black camera.",
        "Somebody took it in 1932 near a granite cliff with his camera.",
    ],
)
def test_what_loses_names_or_numbers_does_not(refined):
    note, reason = checked_note("refined", refined, original=ORIGINAL)
    assert (note, reason) == ("", "it loses names or numbers of the text")


def test_texts_without_names_keep_half_of_their_words():
    original = "a small dog chases the ball"
    assert keeps_facts(original, "A brown terrier, a small dog, runs after a red ball.")
    assert not keeps_facts(original, "A brown terrier runs over the green grass.")


@pytest.mark.parametrize(
    ("one", "other", "kept"),
    [
        ("1,000 people", "1000 people", True),
        ("3.5 m", "3.5 m", True),
        ("3.5 m", "35 m", False),
        ("\u72d7\u5728\u8dd1", "\u4e00\u53ea\u72d7\u5728\u96ea\u5730\u4e0a\u8dd1", True),
        ("\u72d7\u5728\u8dd1", "\u4e00\u8258\u8239", False),
        ("\u041c\u043e\u0441\u043a\u0432\u0430", "\u043c\u043e\u0441\u043a\u0432\u0430", True),
    ],
)
def test_numbers_and_scripts(one, other, kept):
    assert keeps_facts(one, other) is kept


@given(st.text())
def test_any_text_keeps_its_own_facts_and_adds_nothing_to_itself(text):
    assert keeps_facts(text, text)
    assert adds_nothing(text, [text])
    assert not facts_of(text).words & facts_of(text).names


@given(st.sampled_from(["dense", "refined", "knowledge"]), st.text(), st.text())
def test_a_note_is_fit_to_be_kept_or_has_a_reason(kind, written, original):
    note, reason = checked_note(kind, written, original=original)
    assert bool(note) != bool(reason)
    assert "\n" not in note
    assert kind != "dense" or len(note.split()) <= DENSE_WORDS


@pytest.mark.parametrize(
    ("kind", "written", "reason"),
    [
        ("dense", "", "it is empty"),
        ("dense", " ... ", "it is empty"),
        ("dense", "the of a", "it is empty"),
        ("dense", "A dog runs, a dog runs, a dog runs", "it loops"),
        ("dense", "The red dog.", "it only repeats what is there"),
        ("dense", "I'm sorry, but I cannot help with that.", "the model refused"),
        ("knowledge", "None.", NOTHING),
        ("knowledge", "A red dog!", "it only repeats what is there"),
        ("refined", "A red dog!", "it only repeats what is there"),
    ],
)
def test_what_cannot_be_used_is_dropped_with_a_reason(kind, written, reason):
    known = ["A red dog on snow"]
    assert checked_note(kind, written, original="a red dog", known=known) == ("", reason)


def test_prefaces_and_overlength_go():
    assert checked_note("dense", "Sure! Here is the caption: A red bus.")[0] == "A red bus."
    assert checked_note("refined", "Refined text: A red bus.")[0] == "A red bus."
    long = " ".join(f"word{n}" for n in range(300))
    assert len(checked_note("dense", long)[0].split()) == DENSE_WORDS


def test_going_round_in_circles_without_repeating_at_once_is_a_loop():
    assert loops("red dog and blue cat and " * 2)
    words = ["red", "dog", "blue", "cat", "green", "bird"]
    circle = " ".join(words[(i * i + i // 3) % 6] for i in range(40))
    assert loops(circle)
    assert not loops("A man in a red shirt and a woman in a blue one look at a map of the city.")
