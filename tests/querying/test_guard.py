"""What counts as keeping a query's words, on cases and as a property."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from genmm_retriever.querying.guard import (
    dropped_words,
    new_words,
    refers,
    share_kept,
    telling_words,
)


def test_words_about_searching_tell_nothing():
    assert telling_words("Hello, could you please find me that photo I saw last week?") == ["week"]
    assert telling_words("no dogs, 3 cats") == ["no", "dogs", "3", "cats"]


def test_inflections_are_kept_and_other_numbers_and_colours_are_not():
    assert share_kept("two children were riding horses", "2 child rides a horse") < 1
    assert share_kept("children riding horses", "a child rides a horse") == 1
    assert share_kept("two red cars", "three blue cars") == 1 / 3
    assert dropped_words("two red cars", "three blue cars") == ["two", "red"]


def test_a_query_that_tells_nothing_is_kept_by_anything():
    assert share_kept("please show me", "a dog") == 1.0


def test_words_that_point_at_a_picture():
    assert refers("What is she holding?")
    assert not refers("What does the woman hold?")


WORDS = ("red", "dog", "dogs", "runs", "running", "beach", "please", "two", "find", "house")
_texts = st.lists(
    st.sampled_from(
        ["red", "dog", "dogs", "runs", "running", "beach", "please", "two", "find", "house"]
    ),
    max_size=8,
).map(" ".join)


@given(_texts, _texts)
def test_keeping_is_a_share_and_nothing_is_lost_by_adding(original, rewritten):
    share = share_kept(original, rewritten)
    assert 0 <= share <= 1
    assert share_kept(original, f"{rewritten} {original}") == 1
    assert share_kept(original, f"{rewritten} more words") >= share
    assert (share == 1) == (not dropped_words(original, rewritten))
    assert new_words(original, rewritten) == dropped_words(rewritten, original)
