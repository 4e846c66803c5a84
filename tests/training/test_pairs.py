"""Queries that are written, texts that are read, pairs and steps that are made of them."""

from __future__ import annotations

import errno
import json
import os

import numpy as np
import pytest

from genmm_retriever import GenerativeMMRetriever
from genmm_retriever.corpus.store import IndexReader
from genmm_retriever.errors import InputError, StorageError
from genmm_retriever.training.corpus import Corpus
from genmm_retriever.training.lessons import ROWS_A_STEP, Curriculum
from genmm_retriever.training.pairs import make_pairs
from genmm_retriever.training.queries import QueryBook, write_queries
from genmm_retriever.training.texts import HumanQuery, read_texts


@pytest.fixture
def corpus(build, make_index):
    """The tiny seeing model and what it has indexed."""
    model = build("qwen3-vl")
    with IndexReader.open(make_index(model)) as reader:
        yield model, Corpus(reader)


def written(tmp_path, model, corpus, rows=None):
    book = QueryBook(tmp_path / "q.jsonl")
    write_queries(book, model, rows or corpus.rows, corpus, per_item=6, seed=0)
    return book


def test_queries_stay_written_and_a_cut_line_is_asked_for_again(corpus, tmp_path):
    model, corpus = corpus
    whole = written(tmp_path, model, corpus)
    texts = {row: whole[corpus.marks[row]] for row in corpus.rows}
    assert all(texts.values())
    assert not any(set(texts[row]) & set(corpus.words[row]) for row in corpus.rows)
    path = tmp_path / "q.jsonl"
    raw = path.read_bytes()
    path.write_bytes(raw[:-20])  # killed while it wrote
    again = QueryBook(path)
    missing = [row for row in corpus.rows if corpus.marks[row] not in again]
    assert missing == corpus.rows[-1:]
    write_queries(again, model, missing, corpus, per_item=6, seed=0)
    reread = QueryBook(path)
    assert {row: reread[corpus.marks[row]] for row in corpus.rows} == texts


def test_items_are_known_by_their_content(build, make_index, corpus):
    _, first = corpus
    with IndexReader.open(make_index(build("llama"), "other")) as reader:
        other = Corpus(reader)
        assert len(set(first.marks.values())) == len(first.rows)
        # Another model wrote other queries.
        assert not set(first.marks.values()) & set(other.marks.values())


def test_held_out_queries_are_never_learnt(corpus, tmp_path):
    model, corpus = corpus
    book = written(tmp_path, model, corpus)
    human = [HumanQuery(f"text {i}", None, (i % 6,)) for i in range(30)]
    pairs = make_pairs(corpus, book, human, seed=0)
    held = {pair.text for pair in pairs.held}
    assert len(pairs.held) == 2 * len(corpus.rows) + 3
    assert not held & {pair.text for pair in [*pairs.new, *pairs.old]}
    assert not held & {text for texts in pairs.said.values() for text in texts}
    assert {row for pair in pairs.new for row in pair.rows} == set(corpus.rows)
    assert pairs.old == []
    some = make_pairs(corpus, book, human, seed=0, old_rows=range(4))
    assert {row for pair in some.old for row in pair.rows} == set(range(4))
    assert {row for pair in some.new for row in pair.rows} == set(corpus.rows) - set(range(4))


def test_what_the_index_holds_in_words_is_not_held_out(corpus, tmp_path):
    model, corpus = corpus
    row, other = corpus.rows[:2]
    # As with `--use-text captions`: all of an item's captions in one text.
    corpus.words[row] = ["A dog, running on grass.\nTwo dogs in the park!"]
    human = [HumanQuery(text, None, (row,)) for text in ("a dog running on grass", "two dogs in")]
    human += [HumanQuery(f"caption {n} of people", None, (other,)) for n in range(18)]
    # Words across the border of two texts, and another item's, are no leak.
    human += [HumanQuery("two dogs in the park", None, (other,))]
    book = written(tmp_path, model, corpus)
    met = set()
    for seed in range(40):
        pairs = make_pairs(corpus, book, human, seed=seed)
        held = [pair.text for pair in pairs.held if pair.text in {one.text for one in human}]
        assert pairs.held_human == len(held) == 2
        met |= set(held)
    assert not met & {"a dog running on grass", "two dogs in"}
    assert {"two dogs in the park", "caption 7 of people"} <= met


def test_notes_lead_to_their_items_and_to_nothing_else(corpus, tmp_path):
    model, corpus = corpus
    book = written(tmp_path, model, corpus)
    plain = make_pairs(corpus, book, [], seed=0)
    held = plain.held[0]
    notes = {0: ["A dense note of a red dog", corpus.words[0][0]], held.rows[0]: [held.text]}
    pairs = make_pairs(corpus, book, [], seed=0, notes=notes)
    more = {(pair.text, pair.rows) for pair in pairs.new}
    # What is learnt already is not learnt twice, and what is held out not at all.
    expected = {("A dense note of a red dog", (0,))} if held.rows != (0,) else set()
    assert more - {(pair.text, pair.rows) for pair in plain.new} == expected
    assert len(pairs.new) == len(plain.new) + len(expected)
    # What is rehearsed for the verifier is as without them.
    assert (pairs.said, pairs.held) == (plain.said, plain.held)


def test_nothing_to_hold_out_is_refused(corpus, tmp_path):
    _, corpus = corpus
    with pytest.raises(InputError, match="no usable query"):
        make_pairs(corpus, QueryBook(tmp_path / "none.jsonl"), [], seed=0)


def shown(lessons):
    return [
        (
            [getattr(part, "text", "picture") for part in lesson.prompt.parts],
            lesson.answers,
        )
        for lesson in lessons
    ]


def test_a_step_is_a_pure_function_of_its_number(corpus, tmp_path):
    model, corpus = corpus
    pairs = make_pairs(corpus, written(tmp_path, model, corpus), [], seed=0)
    one, other = (Curriculum(corpus, pairs, model, seed=3) for _ in range(2))
    first = [shown(one.step(n)) for n in range(5)]
    assert [shown(other.step(n)) for n in reversed(range(5))] == first[::-1]
    assert first[0] != first[1]
    assert shown(Curriculum(corpus, pairs, model, seed=4).step(0)) != first[0]
    # Every kind of lesson is there: queries, pictures, what is said, the empty query.
    prompts = [prompt for step in first for prompt, _ in step]
    assert ["Find: "] in prompts
    assert ["picture", "Find."] in prompts
    assert ["picture", "Describe."] in prompts
    assert any(len(p) == 1 and p[0].startswith("Describe: ") for p in prompts)
    assert len(first[0]) <= ROWS_A_STEP
    # The answers are identifiers as the trie has them, but for what is said of an item.
    known = {tokens for some in corpus.answers.values() for tokens in some}
    asked = [a for step in first for p, answers in step if "Find" in p[-1] for a in answers]
    assert {tuple(answer) for answer in asked} <= known
    # An epoch shows every pair once.
    texts = [
        prompt[0].removeprefix("Find: ").lower().rstrip(" .")
        for n in range(one.epoch_steps)
        for prompt, _ in shown(one.step(n))
        if len(prompt) == 1 and prompt[0].startswith("Find: ") and prompt != ["Find: "]
    ]
    assert sorted(texts) == sorted(pair.text.lower().rstrip(" .") for pair in pairs.new)


def test_old_pairs_are_replayed_by_their_ratio(corpus, tmp_path):
    model, corpus = corpus
    pairs = make_pairs(corpus, written(tmp_path, model, corpus), [], seed=0, old_rows=range(6))
    for replay, expected in ((0.0, 0), (1.0, len(pairs.new)), (0.5, round(len(pairs.new) / 2))):
        curriculum = Curriculum(corpus, pairs, model, replay=replay)
        assert curriculum.epoch_pairs == len(pairs.new) + expected


def test_captions_ask_for_pictures_and_pictures_for_captions(build, noise, tmp_path):
    model = build("qwen3-vl")
    for i in range(3):
        noise(20, 20, seed=i).save(tmp_path / f"p{i}.png")
    lines = [
        {"id": f"p{i}", "image": f"p{i}.png", "captions": [f"red {i}", f"blue square {i}"]}
        for i in range(3)
    ]
    texts = tmp_path / "captions.jsonl"
    texts.write_text("\n".join(map(json.dumps, lines)))
    for items in ("images", "captions"):
        path = tmp_path / items
        with GenerativeMMRetriever.from_images(
            texts, path=path, model=model, items=items, progress=False
        ):
            pass
    with IndexReader.open(tmp_path / "images") as reader:
        found = read_texts(texts, reader.row)
        assert [(q.text, q.rows) for q in found[:2]] == [("red 0", (0,)), ("blue square 0", (0,))]
        assert len(found) == 6
    with IndexReader.open(tmp_path / "captions") as reader:
        found = read_texts(texts, reader.row)
        assert [(q.text, q.rows) for q in found] == [(None, (0, 1)), (None, (2, 3)), (None, (4, 5))]
        corpus = Corpus(reader)
        pairs = make_pairs(corpus, written(tmp_path, model, corpus), found, seed=0)
        [pair] = [one for one in pairs.new if one.rows == (2, 3)]
        prompt = pair.prompt(model, corpus)
        assert np.array_equal(prompt.parts[0].image, noise(20, 20, seed=1))
        steps = Curriculum(corpus, pairs, model)
        looked = [
            lesson
            for number in range(steps.epoch_steps)
            for lesson in steps.step(number)
            if lesson.prompt.has_image
        ]
        assert len(looked) == 3
        own = {tokens for row in (0, 1) for tokens in corpus.answers[row]}
        assert any({tuple(answer) for answer in lesson.answers} == own for lesson in looked)


def test_queries_on_a_full_disk_are_kept_whole_or_not_at_all(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    book = QueryBook(tmp_path / "training" / "queries.jsonl")
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(StorageError, match=r"queries\.jsonl.*No space"):
            book.put({"a": ["a red bus"]})
    assert "a" not in book
    assert not book.path.exists()
    book.put({"a": ["a red bus"]})
    assert QueryBook(book.path)["a"] == ["a red bus"]
