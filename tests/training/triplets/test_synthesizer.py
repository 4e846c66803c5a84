"""From an index to a file of triplets, by rule and by a model, broken off and gone on with."""

from __future__ import annotations

import copy
import json
from collections import namedtuple
from types import SimpleNamespace

import numpy as np
import pytest

from genmm_retriever.corpus.store import IndexReader
from genmm_retriever.errors import InputError
from genmm_retriever.training.triplets import TripletSynthesizer, making, synthesize_triplets
from genmm_retriever.training.triplets.filters import Fit
from genmm_retriever.training.triplets.gallery import Gallery


class Killed(BaseException):
    """What a test ends a call with."""


@pytest.fixture(autouse=True)
def always_fits(monkeypatch):
    """Random weights judge at random."""
    monkeypatch.setattr(Fit, "gains", lambda self, texts, *_: [0.5] * len(texts))
    monkeypatch.setattr(making, "PAIRS_AT_ONCE", 1)


Triplets = namedtuple("Triplets", "text reverse")


class OtherBook(SimpleNamespace):
    """A file of triplets that knows none of the pairs."""

    def __len__(self):
        return len(self.triplets)

    def __contains__(self, names):
        return False


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def made(path, output, model, **options):
    options = {"category": "kind", "per_item": 2, "progress": False} | options
    return synthesize_triplets(path, output, model=model, **options)


@pytest.mark.parametrize("style", ["builtin", "instruct"])
def test_triplets_lead_both_ways_within_a_category(seeing, seen, photos, tmp_path, style):
    path, output = photos(), tmp_path / "t.jsonl"
    model = copy.copy(seeing)
    model.prompt_style = style
    report = made(path, output, model)
    found = lines(output)
    assert report.triplets == report.new == len(found) > 3
    assert report.by == ("rule" if style == "builtin" else "model")
    assert report.pairs == len(found) + sum(report.dropped.values())
    assert report.with_reverse == sum(one["reverse"] is not None for one in found)
    colours = {f"p{i}": name.split()[0] for i, (name, _) in enumerate(seen)}
    kinds = {f"p{i}": name.split()[1] for i, (name, _) in enumerate(seen)}
    keys = ["reference", "target", "text", "reverse", "scores", "model", "prompt_version"]
    texts = [text for one in found for text in (one["text"], one["reverse"]) if text]
    assert len(set(texts)) == len(texts)
    for one in found:
        assert list(one) == keys
        assert kinds[one["reference"]] == kinds[one["target"]]
        assert one["model"] == model.name
        assert one["scores"]["fit"] == 0.5
        if style == "instruct":
            assert colours[one["target"]] in one["text"]
    assert {one["prompt_version"] for one in found} == {"rule-1" if style == "builtin" else "1"}


def test_broken_off_anywhere_it_ends_the_same(seeing, photos, tmp_path):
    path, whole, broken = photos(), tmp_path / "whole.jsonl", tmp_path / "broken.jsonl"
    expected = made(path, whole, seeing)

    def stop(_):
        if turns.pop():
            raise Killed

    for _ in range(3):
        turns = [True, False]
        with pytest.raises(Killed):
            made(path, broken, seeing, interrupt=stop)
        broken.write_bytes(broken.read_bytes() + b'{"reference": "p')
    report = made(path, broken, seeing)
    assert broken.read_bytes() == whole.read_bytes()
    assert report.dropped == expected.dropped
    assert made(path, broken, seeing, interrupt=stop).new == 0
    with pytest.raises(InputError, match="begun with seed 0, not 3"):
        made(path, broken, seeing, seed=3)


def test_without_a_limit_all_pairs_are_decided_however_many_triplets_there_are(monkeypatch):
    """As where an index has changed: more triplets in the file than it has pairs now."""
    pairs, decided = list("abcd"), []
    book = OtherBook(triplets={name: Triplets("x", None) for name in range(9)})
    synthesizer = SimpleNamespace(ids=lambda some: [(one, one) for one in some])
    monkeypatch.setattr(making, "_put", lambda _, batch, *rest: decided.extend(batch))
    making._write(synthesizer, pairs, book, None, progress=False, interrupt=None)
    assert decided == pairs


def test_a_limit_is_of_the_file_and_may_be_raised(seeing, photos, tmp_path):
    path, output, whole = photos(), tmp_path / "t.jsonl", tmp_path / "whole.jsonl"
    made(path, whole, seeing)
    assert made(path, output, seeing, limit=3).triplets == 3
    assert made(path, output, seeing, limit=3).new == 0
    made(path, output, seeing)
    assert output.read_bytes() == whole.read_bytes()
    with pytest.raises(InputError, match="limit is 0"):
        made(path, output, seeing, limit=0)


def test_pictures_that_cannot_be_read_and_texts_that_do_not_fit(
    seeing, photos, tmp_path, monkeypatch
):
    path = photos()
    monkeypatch.setattr(Fit, "gains", lambda self, texts, *_: [-0.5] * len(texts))
    for i in range(4):
        (tmp_path / f"{i}.png").unlink()
    report = made(path, tmp_path / "t.jsonl", seeing)
    assert report.triplets == 0
    assert set(report.dropped) == {"unreadable", "unfit"}
    assert sum(report.dropped.values()) == report.pairs


def test_groups_by_topic_and_by_field(seeing, photos):
    with IndexReader.open(photos()) as reader:
        gallery = Gallery(reader, seeing)
        topics = gallery.groups(None)
        assert set(topics) == set(gallery.rows) == set(range(8))
        assert gallery.groups("kind")[4] == ["dog"]
        rows, vectors = gallery.vectors()
        assert rows == gallery.rows
        assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0, abs=1e-5)
        with pytest.raises(InputError, match=r"metadata 'colour'.*kind, place"):
            gallery.groups("colour")
        with pytest.raises(InputError, match="per_item is 0"):
            TripletSynthesizer(reader, seeing, per_item=0)
        synthesizer = TripletSynthesizer(reader, seeing, category="place")
        # A place of one picture alone has no pair.
        pairs = synthesizer.pairs()
        assert {pair.group for pair in pairs} <= {"grass", "sand", "snow"}


def test_only_a_models_words_are_seen(seeing, seen, photos):
    with IndexReader.open(photos()) as reader:
        gallery = Gallery(reader, seeing)
        assert seen[0][1] in gallery.words(0).texts
        row = reader.row("text")
        assert row not in gallery.rows
        # Words of people come in only where the index was asked to use them.
        assert gallery.words(row).texts == ()
        gallery.reader._manifest.settings.__dict__["use_text"] = "text"
        assert gallery.words(row).texts == ("A poem about the sea",)
