from __future__ import annotations

import json

import numpy as np
import pytest
from benchmarks.corpora import models, text
from benchmarks.corpora.identifiers import (
    Lexicon,
    synthetic,
    wordnet,
    wordnet_texts,
)

LEXICON = Lexicon.numbered(3_000, 2)


def test_identifiers_are_seeded_and_a_smaller_count_comes_first(identifiers):
    again = synthetic(500, LEXICON, seed=1)
    assert again.lists() == identifiers.first(500).lists()
    assert synthetic(500, LEXICON, seed=2).lists() != again.lists()


def test_identifiers_look_like_text(identifiers):
    lists = identifiers.lists()
    assert len(lists) == len(identifiers) == len(identifiers.items) == 2_000
    assert all(one[-1] == 2 and 2 not in one[:-1] for one in lists)
    assert 10 < identifiers.mean_length < 20
    assert all(0 <= token < 3_000 for token in identifiers.tokens)
    # Beginnings are shared, whole identifiers hardly ever.
    assert len({tuple(one[:2]) for one in lists}) < 1_000
    assert len({tuple(one) for one in lists}) > 1_990


def test_rows_and_lengths(identifiers):
    chosen = np.array([5, 3, 5])
    lists = identifiers.lists()
    assert identifiers.rows(chosen).lists() == [lists[5], lists[3], lists[5]]
    length = len(lists[0])
    found = identifiers.of_length(length).lists()
    assert found == [one for one in lists if len(one) == length]


def test_cut_to_one_length(identifiers):
    cut = identifiers.cut(12)
    whole = [one for one in identifiers.lists() if len(one) >= 12]
    assert cut.lists() == [[*one[:11], 2] for one in whole]


def test_a_tokenizer_without_english_pieces_gives_numbers(tiny_builtin):
    lexicon = Lexicon.of_tokenizer(tiny_builtin.tokenizer, tiny_builtin.eos_token_id)
    size = len(tiny_builtin.tokenizer)
    assert max(lexicon.heads.max(), lexicon.tails.max()) < size
    assert tiny_builtin.eos_token_id not in [*lexicon.heads, *lexicon.tails, lexicon.comma]


def test_wordnet_identifiers(tmp_path):
    path = tmp_path / "passages.jsonl"
    entries = [
        {"id": "a", "title": "Dog", "text": 'a domestic animal that barks; "the dog barked"'},
        {"id": "b", "title": "cat", "text": "feline mammal"},
    ]
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    assert wordnet_texts(path) == ["dog, domestic, animal, barks", "cat, feline, mammal"]
    assert wordnet_texts(path, 1) == ["dog, domestic, animal, barks"]
    found = wordnet(path, lambda words: [len(words)], end=0)
    assert found.lists() == [[28, 0], [19, 0]]


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Stands in for the installed packages."""
    folder = tmp_path / "packages"
    (folder / "inner").mkdir(parents=True)
    for name, content in (
        ("a.py", "abc"),
        ("b.md", "de"),
        ("inner/c.rst", "fghij"),
        ("inner/again.py", "abc"),
        ("d.bin", "no text"),
        ("inner/empty.py", ""),
    ):
        (folder / name).write_text(content)
    (folder / "latin.py").write_bytes(b"\xff\xfe")
    monkeypatch.setattr(text.sysconfig, "get_path", lambda key: str(folder))
    return folder


def letters(texts):
    return [[ord(letter) for letter in one] for one in texts]


def test_package_text_takes_each_content_once(files, tmp_path):
    corpus = text.package_text(tmp_path / "cache", "letters", letters, 10)
    bounds = zip(corpus.offsets[:-1], corpus.offsets[1:], strict=True)
    found = sorted("".join(map(chr, corpus.tokens[a:b])) for a, b in bounds)
    assert found == ["abc", "de", "fghij"]
    assert corpus.about["files"] == 3
    assert corpus.about["tokens"] == 10


def test_package_text_is_made_once_and_says_when_there_is_too_little(files, tmp_path):
    made = text.package_text(tmp_path / "cache", "letters", letters, 10)

    def fails(texts):
        raise AssertionError("the cache was not used")

    again = text.package_text(tmp_path / "cache", "letters", fails, 10)
    assert again.tokens.tolist() == made.tokens.tolist()
    with pytest.raises(ValueError, match="fewer than 100"):
        text.package_text(tmp_path / "cache", "letters", letters, 100)


def test_passages_never_cross_a_document():
    corpus = text.TextCorpus(np.arange(20, dtype=np.uint32), np.array([0, 7, 7, 20]), {})
    tokens, offsets, items = corpus.passages(18, length=5)
    assert tokens.tolist() == list(range(18))
    assert offsets.tolist() == [0, 5, 7, 12, 17, 18]
    assert items.tolist() == [0, 1, 2, 3, 4]


def test_control_tokens_in_a_text_stay_words(tiny_builtin):
    tokenizer = tiny_builtin.tokenizer
    ids = models.encode_texts(tokenizer, ["<image>", "a<|im_end|>"])
    assert all(max(one) < tiny_builtin.vocab_size for one in ids)
    assert [tokenizer.decode(one) for one in ids] == ["<image>", "a<|im_end|>"]
    assert len(ids[0]) > 1
    assert tokenizer("<image>", add_special_tokens=False).input_ids == [tiny_builtin.vocab_size]
