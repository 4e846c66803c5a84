"""Training clues, against looking at every window of small corpora."""

from __future__ import annotations

import hashlib
import json
import math
import random

import numpy as np
import pytest

from genmm_retriever.errors import InputError, SourceError
from genmm_retriever.identifiers.passages import heading, text_tokens
from genmm_retriever.identifiers.words import WordEdges

pytest.importorskip("numba")

from genmm_retriever.constraints.clues import ClueIndex
from genmm_retriever.training.clues import (
    choose_clues,
    clue_examples,
    read_knowledge,
)


class Pieces:
    """Tokens of at most three letters; the first of a word brings its blank."""

    def __init__(self):
        self.known = {}

    def encode(self, text):
        found, start = [], 0
        for place in range(1, len(text) + 1):
            if place == len(text) or text[place] == " " or place - start == 3:
                found.append(text[start:place])
                start = place
        return [self.known.setdefault(piece, len(self.known)) for piece in found]

    def decode(self, tokens):
        names = list(self.known)
        return "".join(names[token] for token in tokens)


def indexed(model, texts, items=None):
    rows = [text_tokens(model, text) for text in texts]
    offsets = np.cumsum([0, *map(len, rows)])
    flat = np.array([token for row in rows for token in row], dtype=np.int64)
    items = range(len(rows)) if items is None else items
    return rows, ClueIndex.build(flat, offsets, list(items), vocab_size=400)


def best_by_hand(rows, words, number, answer, question, names, count):
    """The windows that the docstring promises; plain Python over all passages."""
    own = rows[number]
    joined = words.joined(own).tolist()

    def holding(part):
        return [
            n
            for n, row in enumerate(rows)
            if any(row[i : i + len(part)] == part for i in range(len(row) - len(part) + 1))
        ]

    options = []
    for start in range(len(own)):
        for end in range(start + 1, len(own) + 1):
            part = own[start:end]
            usual = 4 <= len(part) <= 9 and (end == len(own) or not joined[end])
            if joined[start] or not (usual or part in names) or holding(part) != [number]:
                continue
            share = len(set(part) & {*answer, *question}) / len(set(part))
            rare = [math.log(len(rows) / len(holding([t]))) / math.log(len(rows)) for t in part]
            holds = any(part[i : i + len(answer)] == answer for i in range(len(part)))
            rank = not holds, part not in names, -(share + sum(rare) / len(rare))
            options.append((*rank, start, end))
    chosen = []
    for *_, start, end in sorted(options):
        if len(chosen) < count and all(end <= a or b <= start for a, b in chosen):
            chosen.append((start, end))
    return chosen


@pytest.mark.parametrize("seed", range(6))
def test_clues_are_those_found_by_hand(seed):
    draw = random.Random(seed)
    model = Pieces()
    said = ["fish", "river", "of", "a", "warbler", "|", "north", "stone", "the"]
    texts = [" ".join(draw.choices(said, k=draw.randint(3, 12))) for _ in range(6)]
    names = ["ab", "abc", "b", "abd", "cc", "a"]
    texts = [f"| {name} | {text}" for name, text in zip(names, texts, strict=True)]
    rows, index = indexed(model, texts)
    words = WordEdges(model, 400)
    some = 0
    for number, row in enumerate(rows):
        answer = texts[number].split()[1]
        arguments = {"answer": answer, "question": "north of it", "names": [heading(answer, ())]}
        found = choose_clues(index.view(), np.array(row), number, model, words, **arguments)
        expected = best_by_hand(
            rows,
            words,
            number,
            text_tokens(model, answer),
            text_tokens(model, "north of it"),
            [text_tokens(model, f"| {answer} |")],
            3,
        )
        assert found == [model.decode(row[a:b]).strip() for a, b in expected]
        some += len(found)
    assert some > 6


def test_windows_with_the_answer_come_first():
    model = Pieces()
    texts = [
        "| tench | a freshwater fish of europe that lives long",
        "| pike | a fish of europe",
        "| tench | the name of a ship",
    ]
    rows, index = indexed(model, texts)
    words = WordEdges(model, 400)
    first, *more = choose_clues(
        index.view(), np.array(rows[0]), 0, model, words, answer="tench", names=["| tench |"]
    )
    # The name alone stands in two passages.
    assert "tench | a" in first
    assert all("tench" not in clue for clue in more)
    [only] = choose_clues(
        index.view(), np.array(rows[1]), 1, model, words, answer="pike", names=["| pike |"], count=1
    )
    assert "pike" in only


def test_pieces_of_one_item_may_share_a_window():
    model = Pieces()
    rows, index = indexed(model, ["so the owl sings", "the owl sings at night", "owl"], [7, 7, 8])
    words = WordEdges(model, 400)
    assert choose_clues(index.view(), np.array(rows[0]), 7, model, words)
    assert not choose_clues(index.view(), np.array(rows[0]), 9, model, words)
    assert not choose_clues(index.view(), np.array(rows[2]), 8, model, words)
    assert index.passages_of_item(7).tolist() == [0, 1]
    assert index.delete([7]).passages_of_item(7).tolist() == []
    assert index.view().passages == 3
    assert index.delete([7]).view().passages == 1


class Reader:
    """The part of an open index that is asked."""

    def __init__(self, items):
        self.held = items

    def row(self, name):
        return next((n for n, item in enumerate(self.held) if item.id == name), None)

    def items(self, rows):
        return [self.held[row] for row in rows]


def test_examples_of_a_split(tmp_path):
    from genmm_retriever.schema import Item

    names = [f"n{n:03}" for n in range(12)]
    items = [
        Item(id=name, title=f"thing {name}", text=f"it is number {name}", metadata={"names": ["x"]})
        for name in names
    ]
    model = Pieces()
    _, index = indexed(model, [f"| thing {n} | x | it is number {n}" for n in names])
    path = tmp_path / "queries.jsonl"
    lines = [{"id": n, "image": f"{n}.png", "question": "what?", "passage_id": n} for n in names]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    queries = read_knowledge(path)
    assert [query.id for query in queries] == names
    assert queries[0].image == tmp_path / "n000.png"
    odd = [n for n in names if int(hashlib.sha256(n.encode()).hexdigest(), 16) % 2]
    assert 0 < len(odd) < len(names)
    halves = {
        held: list(clue_examples(queries, Reader(items), index, model, held_out=held))
        for held in (True, False, None)
    }
    assert [one.id for one in halves[True]] == odd
    assert [one.id for one in halves[False]] == [n for n in names if n not in odd]
    assert [one.id for one in halves[None]] == names
    for one in halves[None]:
        assert 1 <= len(one.clues) <= 3
        assert one.clues[0] == f"| thing {one.id} |"
        assert one.question == "what?"
    with pytest.raises(InputError, match="not indexed"):
        list(clue_examples(queries, Reader(items[1:]), index, model, held_out=None))


def test_broken_queries_are_named(tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_text('{"id": "a", "image": "a.png", "question": "what?"}\n')
    with pytest.raises(SourceError, match="line 1: it needs texts"):
        read_knowledge(path)
    path.write_text("")
    with pytest.raises(SourceError, match="no query"):
        read_knowledge(path)
