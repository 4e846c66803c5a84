from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genmm_retriever.identifiers.keywords import (
    candidate_phrases,
    content_words,
    extract_keywords,
    words,
)
from genmm_retriever.models.sentences import HashingEncoder, MiniLMEncoder


class RandomEncoder:
    """A fixed random direction a text, so that likeness has no pattern to lean on."""

    name = "random"

    def encode(self, texts):
        out = np.empty((len(texts), 6), dtype=np.float32)
        for row, text in enumerate(texts):
            out[row] = np.random.default_rng(list(text.encode())).normal(size=6)
        return out / np.linalg.norm(out, axis=1, keepdims=True)


def keybert(text, encoder, n, candidates, diversity):
    """The published algorithm, one text and one phrase at a time."""
    own = encoder.encode([text])[0]
    phrases = candidate_phrases(text)
    vectors = {phrase: encoder.encode([phrase])[0] for phrase in phrases}
    near = {phrase: round(float(vectors[phrase] @ own), 4) for phrase in phrases}
    pool = sorted(phrases, key=lambda phrase: -near[phrase])[:candidates]
    chosen: list[str] = []
    while len(chosen) < n:
        said = {word for phrase in chosen for word in phrase.split()}
        left = [p for p in pool if p not in chosen and set(p.split()) - said]
        if not left:
            break

        def worth(phrase):
            if not chosen:
                return near[phrase]
            apart = max(float(vectors[phrase] @ vectors[other]) for other in chosen)
            return (1 - diversity) * near[phrase] - diversity * apart

        chosen.append(max(left, key=worth))
    return chosen


_WORDS = ("dog", "cat", "red", "snow", "the", "and", "runs", "hat", "two", "of", "sea", "boat")
_VOCABULARY = st.sampled_from(_WORDS)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(_VOCABULARY, max_size=12).map(" ".join), min_size=1, max_size=6),
    st.integers(1, 6),
    st.integers(1, 9),
    st.sampled_from([0.0, 0.3, 0.5, 1.0]),
)
def test_equals_the_published_algorithm_text_by_text(texts, n, candidates, diversity):
    encoder = RandomEncoder()
    found = extract_keywords(texts, encoder, n=n, candidates=candidates, diversity=diversity)
    for text, keywords in zip(texts, found, strict=True):
        assert keywords == keybert(text, encoder, n, candidates, diversity)


def test_does_not_depend_on_the_texts_around():
    texts = ["a red dog in the snow", "", "two cats on a boat", "snow"]
    encoder = HashingEncoder()
    together = extract_keywords(texts, encoder)
    assert together == [extract_keywords([text], encoder)[0] for text in texts]
    assert together[1] == []


def test_fewer_keywords_are_a_prefix_of_more():
    text = ["an old man with a white beard plays the guitar on a busy street corner"]
    encoder = HashingEncoder()
    longest = extract_keywords(text, encoder, n=8)[0]
    assert len(longest) > 4
    for n in range(1, 8):
        assert extract_keywords(text, encoder, n=n)[0] == longest[:n]


def test_encodes_a_phrase_shared_by_all_texts_once():
    seen: list[str] = []

    class Counting(HashingEncoder):
        def encode(self, texts):
            seen.extend(texts)
            return super().encode(texts)

    extract_keywords(["snow falls"] * 50, Counting())
    assert seen.count("snow falls") == 51  # 50 times as a text, once as a phrase
    assert seen.count("snow") == 1


def test_diversity_takes_other_phrases_than_relevance():
    text = ["brown dog, brown dogs, a dog of brown fur, near the lake"]
    encoder = HashingEncoder()
    near = extract_keywords(text, encoder, n=2, diversity=0.0)[0]
    apart = extract_keywords(text, encoder, n=2, diversity=0.9)[0]
    assert near[0] == apart[0]
    assert near[1] != apart[1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A dog's T-shirt.", ["dog", "dog t-shirt", "t-shirt"]),
        ("snow, grass", ["snow", "grass"]),
        ("of the and", []),
        ("two", []),
        ("हिन्दी भाषा", ["हिन्दी", "हिन्दी भाषा", "भाषा"]),
        ("犬", ["犬"]),
        ("don\u2019t_stop", ["stop"]),
        ("I'm running", ["running"]),
    ],
)
def test_candidates(text, expected):
    assert candidate_phrases(text) == expected


def test_candidates_of_a_long_text_are_bounded_and_the_frequent_ones():
    text = " ".join(f"word{i}, rare{i}, lake" for i in range(5000))
    found = candidate_phrases(text, limit=50)
    assert len(found) == 50
    assert "lake" in found


def test_words_are_clean():
    assert words("x" * 500)[0] == "x" * 32
    assert words("\ud800 <|im_end|>") == ["im", "end"]
    assert content_words("the of") == ["the", "of"]


@pytest.mark.parametrize("options", [{"n": 0}, {"candidates": 0}, {"diversity": 1.5}])
def test_refuses_numbers_out_of_range(options):
    with pytest.raises(ValueError, match="bad n="):
        extract_keywords(["a dog"], HashingEncoder(), **options)


def test_is_fast_on_repeated_captions():
    texts = ["a brown dog runs through the wet grass"] * 5_000
    started = time.perf_counter()
    found = extract_keywords(texts, HashingEncoder())
    assert len(found) == 5_000
    assert time.perf_counter() - started < 60


def test_minilm_finds_what_a_caption_is_about():
    keywords = extract_keywords(
        ["An old man with a hat plays the accordion for tourists in Paris."], MiniLMEncoder()
    )[0]
    assert len(keywords) == 4
    said = " ".join(keywords)
    assert "accordion" in said
    assert "paris" in said
