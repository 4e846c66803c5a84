from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from benchmarks.corpora import make
from benchmarks.corpora.lexicon import lexicon
from benchmarks.corpora.photos import Made, Photo, read_photos, words_of, write_records
from benchmarks.corpora.planted import INJECTIONS, PLAIN, plain, planted_items
from benchmarks.corpora.removed import removed_queries
from benchmarks.corpora.underspecified import underspecified_queries
from benchmarks.corpora.verbose import (
    CLOSINGS,
    OPENINGS,
    REASONS,
    REQUESTS,
    verbose_queries,
    wrapped,
)
from PIL import Image

from genmm_retriever.corpus.readers import read_sources
from genmm_retriever.evaluation import read_queries
from genmm_retriever.training.triplets.book import Triplet, read_lines


def photo(name, *captions):
    return Photo(name, Path(f"{name}.webp"), captions)


DOGS = [
    photo(
        f"dog{n}",
        f"A small dog with a ball near {place}",
        f"Brown dog with a red ball at the {place}",
        f"The dog of the {place}",
    )
    for n, place in enumerate(("harbour", "castle", "meadow", "station", "market"))
]
CAT = photo("cat", "A cat on a couch", "A black cat lies on a couch", "The cat rests")


def test_underspecified_queries_keep_a_subject_and_one_fact():
    made = underspecified_queries([*DOGS, CAT], number=None)
    assert [record["text"] for record in made.records] == ["a dog with a ball"]
    (record,), (twin,) = made.records, made.twins
    assert twin["id"] == record["id"]
    assert twin["text"] in DOGS[int(record["relevant"][0][-1])].captions
    assert made.dropped["the text was taken"] > 0
    # The cat is the only one of its kind.
    assert made.dropped["the text is not ambiguous"] == 2
    everything = underspecified_queries([*DOGS, CAT], number=None, per_text=9)
    assert sorted(r["relevant"][0] for r in everything.records) == [one.id for one in DOGS]
    assert len(underspecified_queries(DOGS, number=2, per_text=9).records) == 2


def test_a_weak_fact_that_too_many_share_is_no_query(monkeypatch):
    monkeypatch.setattr("benchmarks.corpora.underspecified.MOST", 4)
    made = underspecified_queries(DOGS)
    assert not made.records
    assert made.dropped["too many photos fit"] > 0


def test_verbose_queries_hold_the_caption_unchanged():
    photos = [*DOGS, photo("odd", "Dogs", 'A sign says "stop"', "He takes a picture of a dog")]
    made = verbose_queries(photos, number=None, per_photo=9)
    assert len(made.records) == len(made.twins) == 15
    for record, twin in zip(made.records, made.twins, strict=True):
        assert twin["text"] in record["text"]
        assert len(record["text"]) > 2 * len(twin["text"])
        assert (record["id"], record["relevant"]) == (twin["id"], twin["relevant"])
    assert made.dropped == {
        "the caption is too short": 1,
        "the caption quotes": 1,
        "the caption itself may ask": 1,
    }
    assert len({wrapped("a dog", random.Random(seed)) for seed in range(200)}) > 150
    assert verbose_queries(photos, number=3).records == verbose_queries(photos, number=3).records
    assert len(verbose_queries(photos, number=3).records) == 3


def test_templates_say_nothing_of_what_a_photo_shows():
    visible = lexicon().visible()
    for text in (*OPENINGS, *REASONS, *REQUESTS, *CLOSINGS):
        assert not {*words_of(text.replace("{caption}", ""))} & visible - {"looking"}, text
    for text in (*INJECTIONS.values(), *PLAIN):
        assert not {*words_of(text)} & visible - {"picture"}, text


def test_planted_items_differ_from_their_twins_in_the_injection_alone():
    made = planted_items(DOGS, number=3, seed=2)
    planted = [
        (own, twin) for own, twin in zip(made.records, made.twins, strict=True) if own != twin
    ]
    assert len(made.records) == 5
    assert len(planted) == 3
    for own, twin in planted:
        name, n = own["id"].split("#")
        caption = next(one for one in DOGS if one.id == name).captions[int(n)]
        injection = INJECTIONS[own["metadata"]["planted"]]
        assert own["text"] == f"{caption} {injection}"
        assert twin["text"].startswith(f"{caption} ")
        assert len(own["text"]) == len(twin["text"])
        assert (own["id"], own["metadata"]) == (twin["id"], twin["metadata"])
    for query, item in zip(made.queries, made.records, strict=True):
        assert query["relevant"] == [item["id"]]
        assert query["id"] != item["id"]
        assert query["text"] not in item["text"]


def test_planted_items_come_from_plain_captions():
    odd = photo("odd", "A <b> dog", "Ignore the dog", "One dog")
    made = planted_items([*DOGS, odd], number=5, markers=["ignore"])
    assert made.dropped["the caption quotes or gives orders"] == 2
    assert made.dropped["a photo without two fitting captions"] == 1
    assert {r["metadata"]["planted"] for r in made.records} == {"ignore"}
    with pytest.raises(ValueError, match="only 5 photos fit"):
        planted_items([*DOGS, odd], number=6)


@pytest.mark.parametrize("length", [*range(12, 90, 7), 300])
def test_plain_words_have_the_length_asked_for(length):
    for seed in range(20):
        text = plain(length, random.Random(seed))
        assert len(text) == length
        assert not text.endswith(" ")


def test_half_of_the_photos_are_removed():
    made = removed_queries(DOGS, seed=1)
    asked = [record["relevant"][0] for record in made.records]
    assert sorted(asked) == [one.id for one in DOGS]
    assert len(made.deleted) == 2
    assert {*made.deleted} < {*asked}
    assert removed_queries(DOGS, seed=1).deleted == made.deleted
    assert any(removed_queries(DOGS, seed=s).deleted != made.deleted for s in range(2, 9))
    assert len(removed_queries(DOGS, number=4).deleted) == 2


def test_a_caption_that_another_photo_answers_is_dropped():
    twin = photo("twin", "A small dog with ball near a harbour", "Fog above hills")
    made = removed_queries([DOGS[0], twin])
    texts = {record["relevant"][0]: record["text"] for record in made.records}
    assert texts["twin"] == "Fog above hills"
    assert texts["dog0"] != DOGS[0].captions[0]
    same = removed_queries([photo("a", "Fog above hills"), photo("b", "The fog above the hills")])
    assert not same.records
    assert same.dropped["a photo without a caption of its own"] == 2


@pytest.fixture
def flickr(tmp_path):
    """A folder as Flickr8k's."""
    folder = tmp_path / "data"
    folder.mkdir()
    lines = [{"id": one.id, "image": f"dev/{one.image}", "captions": one.captions} for one in DOGS]
    (folder / "dev.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_pictures_are_named_relative_to_the_file_of_queries(flickr, tmp_path):
    photos = read_photos(flickr / "dev.jsonl")
    target = tmp_path / "made" / "queries.jsonl"
    record = {"id": "q", "text": "now jumping", "image": str(photos[0].image), "relevant": ["x"]}
    assert write_records(target, [record]) == 1
    assert json.loads(target.read_text())["image"] == "../data/dev/dog0.webp"
    (read,) = read_queries(target)
    assert Path(read.query.image).resolve() == photos[0].image.resolve()


@pytest.mark.parametrize("name", ["underspecified", "verbose"])
def test_make_writes_queries_and_twins(name, flickr, tmp_path, capsys):
    output, twins = tmp_path / "q.jsonl", tmp_path / "t.jsonl"
    arguments = [name, "--flickr", str(flickr), "--output", str(output), "--twins", str(twins)]
    assert make.main(arguments) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["lines"] == len(read_queries(output)) == len(read_queries(twins)) > 0
    assert said["dropped"]


def test_make_writes_the_parts_of_a_set(flickr, tmp_path, capsys):
    output, queries, deleted = (tmp_path / name for name in ("o.jsonl", "q.jsonl", "ids"))
    common = ["--flickr", str(flickr), "--output", str(output)]
    assert make.main(["planted", *common, "--number", "2", "--queries", str(queries)]) == 0
    assert len(list(read_sources(output))) == len(read_queries(queries)) == 5
    assert make.main(["removed", *common, "--deleted", str(deleted)]) == 0
    assert len(deleted.read_text().split()) == 2
    np.save(tmp_path / "f.npy", np.eye(5, dtype=np.float32))
    features = ["--features", str(tmp_path / "f.npy")]
    assert make.main(["composed", *common, *features, "--only", "text"]) == 0
    assert output.read_text() == ""
    capsys.readouterr()


def test_composed_queries_are_triplets_to_train_on(flickr, tmp_path, monkeypatch, capsys):
    record = {"id": "q", "text": "now jumping", "relevant": ["x"], "reference": "y"}
    asked = {}

    def made(photos, features, **options):
        asked.update(options)
        return Made(records=[record])

    monkeypatch.setattr(make, "composed_queries", made)
    np.save(tmp_path / "f.npy", np.eye(5, dtype=np.float32))
    triplets = tmp_path / "t.jsonl"
    arguments = ["composed", "--flickr", str(flickr), "--features", str(tmp_path / "f.npy")]
    arguments += ["--output", str(tmp_path / "o.jsonl"), "--triplets", str(triplets)]
    assert make.main([*arguments, "--per-photo", "5"]) == 0
    assert asked["per_photo"] == 5
    assert list(read_lines(triplets)) == [Triplet("y", "x", "now jumping")]
    capsys.readouterr()


def test_make_sees_photos_with_the_model_and_keeps_what_it_saw(
    flickr, tmp_path, capsys, tiny_model
):
    (flickr / "dev").mkdir()
    for n, one in enumerate(DOGS):
        Image.new("RGB", (40, 40), (40 * n, 90, 200)).save(flickr / "dev" / str(one.image))
    cache = tmp_path / "cache"
    arguments = ["composed", "--flickr", str(flickr), "--output", str(tmp_path / "o.jsonl")]
    assert make.main([*arguments, "--cache", str(cache)]) == 0
    (kept,) = (cache / "captioned").iterdir()
    assert len(np.load(kept)) == len(DOGS)
    # Each of five photos is paired with the four others.
    assert sum(json.loads(capsys.readouterr().out)["dropped"].values()) == 20


def test_make_says_what_is_missing(flickr, tmp_path, capsys):
    output = ["--output", str(tmp_path / "o.jsonl")]
    assert make.main(["verbose", *output]) == 2
    assert "--flickr" in capsys.readouterr().err
    assert make.main(["garments", *output]) == 2
    assert "--clothing" in capsys.readouterr().err
    twins = ["--flickr", str(flickr), "--twins", "t.jsonl"]
    assert make.main(["composed", *output, *twins]) == 2
    assert "no twins" in capsys.readouterr().err
    assert make.main(["verbose", *output, "--flickr", str(tmp_path)]) == 2
    assert "dev.jsonl" in capsys.readouterr().err


@pytest.mark.parametrize(
    "module", ["photos", "facts", "lexicon", "phrasing", "underspecified", "verbose", "planted",
               "garments"]
)  # fmt: skip
def test_examples(module):
    import doctest
    import importlib

    result = doctest.testmod(importlib.import_module(f"benchmarks.corpora.{module}"))
    assert result.attempted > 0
    assert result.failed == 0
