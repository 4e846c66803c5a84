from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from benchmarks.corpora import make
from benchmarks.corpora.composed import composed_queries, nearest_by_cosine
from benchmarks.corpora.facts import Collection, Fact, stated
from benchmarks.corpora.garments import Garment, clear_colour, garment_queries, read_garments
from benchmarks.corpora.lexicon import lexicon, may_be
from benchmarks.corpora.photos import Photo, words_of
from benchmarks.corpora.phrasing import modification
from PIL import Image

from genmm_retriever.training.builtin.data import read_captioned

GRASS = ("A brown dog runs in the grass .", "The dog is running over grass", "Dog on a lawn")
BEACH = ("A dog walks on the beach .", "The dog on a beach with seaweed", "One dog walking here")
SNOW = ("A dog stands in deep snow .", "The dog is in the snow", "Dog at a cold place")


def photo(name, captions):
    return Photo(name, Path(f"{name}.webp"), tuple(captions))


def phrases(caption, subject):
    return list(stated(words_of(caption), subject).values())


@pytest.mark.parametrize(
    ("caption", "subject", "expected"),
    [
        ("Two small brown dogs run .", "dog", ["two", "brown", "running"]),
        ("A black and white dog on a leash", "dog", ["black and white", "on a leash"]),
        ("A man in a light blue shirt sits", "man", ["in a blue shirt", "sitting"]),
        ("A man in a red and white shirt", "man", []),
        ("A girl in orange shorts on a swing", "girl", ["in orange shorts", "on a swing"]),
        # What another being does or wears is not the subject's.
        ("A man watches a woman in a red coat jumping", "man", ["watching"]),
        ("A boy on a bike passes a dog", "dog", []),
        ("A dog chases a running boy", "boy", ["with a dog", "running"]),
        # Near a place is not in it.
        ("A dog stands near the water", "dog", ["standing"]),
        ("Two dogs with a lake and grass in the background", "dog", ["two", "at a lake"]),
        # Compounds say something else than their words.
        ("A dog with a tennis ball", "dog", ["with a ball"]),
        ("A boy in a baseball cap with his arms in the air", "boy", ["in a cap"]),
        ("A girl in a bathing suit on a toy car", "girl", []),
    ],
)
def test_what_a_caption_states(caption, subject, expected):
    assert phrases(caption, subject) == expected


def test_nouns_that_may_name_one_being():
    assert may_be("boy", "child")
    assert may_be("skateboarder", "man")
    assert not may_be("boy", "man")
    assert not may_be("child", "woman")
    assert not may_be("dog", "person")


def test_every_phrase_of_the_lexicon_is_made_of_words_that_captions_have():
    """A content word of a phrase is a word that states it, or a form of one."""
    empty = {
        *[
            "in",
            "on",
            "at",
            "by",
            "with",
            "a",
            "an",
            "the",
            "of",
            "its",
            "out",
            "down",
            "up",
            "something",
            "front",
            "playing",
        ]
    }
    empty |= {"lying", "dressed"}
    for (kind, key), entry in lexicon().entries.items():
        for word, phrase in entry.phrases.items():
            siblings = {w for w, other in entry.phrases.items() if other == phrase}
            unsaid = {*words_of(phrase)} - empty - siblings
            assert not unsaid or key == "camera", (kind, key, word, unsaid)


def test_a_fact_needs_two_captions_and_no_contradiction():
    read = Collection([photo("a", ["Two dogs run", "Two dogs", "Three dogs run in snow"])])
    reading = read.reading(0, "dog")
    assert reading.captions[Fact("count", "two")] == 2
    assert reading.agreed() == [Fact("action", "running")]
    assert read.subjects(0) == ["dog"]
    assert Collection([photo("a", ["A dog", "A dog", "It runs"])]).subjects(0) == []


def test_hints_keep_a_fact_from_counting_as_absent():
    read = Collection(
        [
            photo("skier", ["A skier", "A skier rides", "A skier on a lift"]),
            photo("street", ["A man on a street"] * 3),
            photo("silent", ["A man", "A man with a flag", "A man"]),
        ]
    )
    snow, grass = Fact("scene", "snow"), Fact("scene", "grass")
    assert read.hints_at(0, "skier", snow)
    assert read.rules_out(1, "man", snow)
    assert read.rules_out(1, "man", grass)
    # Grass often goes unsaid; snow does not.
    assert not read.rules_out(2, "man", grass)
    assert read.rules_out(2, "man", snow)


def test_counts_are_absent_only_where_the_number_is_known():
    two = Fact("count", "two")
    read = Collection(
        [photo("one", ["A dog"] * 3), photo("pair", ["A dog with another dog"] * 3),
         photo("three", ["Three dogs"] * 3)]
    )  # fmt: skip
    assert [read.rules_out(place, "dog", two) for place in range(3)] == [True, False, True]


class World:
    """A reference on grass, a target in snow, dogs near the reference, and others far away."""

    def __init__(self):
        self.photos = [
            photo("grass", GRASS),
            photo("beach", BEACH),
            photo("target", SNOW),
            photo("beach2", ["A white dog at the beach", "Dog sitting on a beach", "A calm dog"]),
            photo("far", ["Some dog in snow with Tom", "A dog plays in the snow", "Old dog"]),
            photo("far2", ["A dog digs in snow", "Dog deep in snow outside", "My dog"]),
        ]
        self.near = {0: [(1, 0.6), (2, 0.55), (3, 0.5)]}

    def __call__(self, place):
        return self.near.get(place, [])

    def made(self, **options):
        return composed_queries(self.photos, self, **options)


def test_a_change_leads_from_the_reference_to_the_target():
    world = World()
    made = world.made(seed=3)
    found = {record["relevant"][0]: record for record in made.records}
    record = found["target"]
    assert {*record} == {"id", "text", "image", "relevant", "reference"}
    assert record["reference"] == "grass"
    assert record["image"] == "grass.webp"
    assert "in the snow" in record["text"]
    assert record["id"].endswith("-scene")
    assert made.records == world.made(seed=3).records


def caption(world, name, *captions):
    place = [one.id for one in world.photos].index(name)
    world.photos[place] = photo(name, captions)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda w: caption(w, "grass", *GRASS, "A sled dog"), "no fact of the target is new"),
        (lambda w: caption(w, "target", SNOW[0], "A dog", "Dog"), "no fact of the target is new"),
        (lambda w: caption(w, "far", "A dog"), "the text alone names the target"),
        (
            lambda w: caption(w, "beach2", "A dog in snow", *BEACH[:2]),
            "another photo near the reference may fit as well",
        ),
        (
            lambda w: w.near.update({0: [(2, 0.6), (1, 0.55), (3, 0.5)]}),
            "the picture alone leads to the target",
        ),
        (
            lambda w: w.near.update({0: [(1, 0.6), (2, 0.55)]}),
            "the picture alone leads to the target",
        ),
        (
            lambda w: w.near.update({0: [(1, 0.6), (2, 0.95), (3, 0.5)]}),
            "nearly the same picture or the same words",
        ),
        (
            lambda w: caption(w, "target", *GRASS[:2], SNOW[0], SNOW[1]),
            "nearly the same picture or the same words",
        ),
        (lambda w: caption(w, "target", "A cat in snow", "Snow cat"), "no main subject is shared"),
    ],
)
def test_bad_pairs_are_dropped_and_counted(change, reason):
    before = World().made()
    world = World()
    change(world)
    made = world.made()
    assert not any(record["relevant"] == ["target"] for record in made.records)
    assert made.dropped[reason] > before.dropped[reason]


def test_photos_are_not_used_too_often():
    world = World()
    world.near[1] = [(0, 0.6), (2, 0.55), (3, 0.5)]
    everything = world.made(per_photo=9)
    assert len(everything.records) > 1
    few = world.made(per_photo=1)
    assert len(few.records) == 1
    assert few.dropped["a photo was used often enough"] == len(everything.records) - 1
    assert len(world.made(number=1).records) == 1


def test_nearness_by_cosine():
    features = np.array([[1, 0], [0, 1], [2, 0.1], [1, 1]], dtype=np.float32)
    assert [place for place, _ in nearest_by_cosine(features, 4)(0)] == [2, 3, 1]
    grid = np.repeat(features[:, None], 3, axis=1)
    assert nearest_by_cosine(grid, 4)(0) == nearest_by_cosine(features, 4)(0)
    with pytest.raises(ValueError, match="do not fit 5 photos"):
        nearest_by_cosine(features, 5)


def test_phrasings_hold_every_phrase():
    facts = {
        Fact("count", "two"): "two",
        Fact("garment", "red shirt"): "in a red shirt",
        Fact("scene", "snow"): "in the snow",
        Fact("action", "running"): "running",
        Fact("colour", "brown"): "brown",
    }
    gone = (Fact("scene", "grass"), "in the grass")
    for seed in range(40):
        draw = random.Random(seed)
        pair = dict(draw.sample(sorted(facts.items()), 2))
        counted = any(fact.kind == "count" for fact in pair)
        text = modification(pair, "dogs" if counted else "dog", None, draw)
        for phrase in pair.values():
            assert phrase.removeprefix("in a ") in text
        assert "grass" not in text
        assert "in the grass" in modification(pair, "dogs" if counted else "dog", gone, draw)


def draw_picture(path, colour, back=(250, 250, 250)):
    picture = Image.new("RGB", (60, 60), back)
    picture.paste(colour, (12, 12, 48, 48))
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


@pytest.mark.parametrize(
    ("colour", "name"),
    [
        ((10, 10, 12), "black"),
        ((250, 250, 250), "white"),
        ((128, 128, 128), "gray"),
        ((200, 20, 30), "red"),
        ((30, 60, 200), "blue"),
        ((20, 140, 40), "green"),
        ((110, 70, 40), "brown"),
        ((250, 150, 190), "pink"),
        ((120, 40, 160), "purple"),
        ((215, 195, 165), "beige"),
        ((240, 220, 40), "yellow"),
    ],
)
def test_clear_colours_have_names(colour, name):
    assert clear_colour(Image.new("RGB", (30, 30), colour)) == name


def test_a_colour_is_clear_or_not_named():
    picture = Image.new("RGB", (60, 60), (200, 20, 30))
    picture.paste((30, 60, 200), (0, 0, 60, 22))
    assert clear_colour(picture) == "red"
    picture.paste((30, 60, 200), (0, 0, 60, 30))
    assert clear_colour(picture) is None
    assert clear_colour(Image.new("RGB", (9, 9), (200, 180, 165))) is None


def garments(*rows):
    return [Garment(f"{n}", Path(f"{colour}-{n}.png"), label, "test")
            for n, (label, colour) in enumerate(rows)]  # fmt: skip


def colour_of(path):
    return {"none": None}.get(path.name.split("-")[0], path.name.split("-")[0])


def test_garments_of_the_same_colour_are_relevant():
    rows = [("hat", "red"), ("hat", "blue"), ("hat", "gray"), ("hat", "red"), ("dress", "red"),
            ("skirt", "red"), ("dress", "none"), ("dress", "black")]  # fmt: skip
    made = garment_queries(garments(*rows), colour=colour_of)
    asked = {(one["reference"], *one["relevant"]) for one in made.records}
    assert asked == {("4", "0", "3"), ("5", "0", "3")}
    assert all("hat" in one["text"] and "red" not in one["text"] for one in made.records)
    assert made.dropped["no clear colour"] == 1
    assert made.dropped["the text alone is enough"] > 0
    assert "6" not in {item["id"] for item in made.items}
    assert len(garment_queries(garments(*rows), number=1, colour=colour_of).records) == 1
    assert {(one["id"], *one["captions"]) for one in made.sources} >= {("0", "a hat")}
    assert len(made.sources) == len(made.items)


def test_garments_to_train_on_are_triplets_of_one_split(tmp_path):
    rows = [("hat", "red", "train"), ("hat", "blue", "train"), ("hat", "gray", "train"),
            ("hat", "red", "train"), ("dress", "red", "train"), ("skirt", "red", "train"),
            ("hat", "red", "test")]  # fmt: skip
    shades = {"red": (200, 20, 30), "blue": (30, 60, 200), "gray": (120, 120, 120)}
    lines = []
    for place, (label, shade, split) in enumerate(rows):
        draw_picture(tmp_path / f"{place}.png", shades[shade])
        line = {"id": f"{place}", "image": f"{place}.png", "label": label, "split": split}
        lines.append(json.dumps(line) + "\n")
    (tmp_path / "items.jsonl").write_text("".join(lines), encoding="utf-8")
    out = {name: tmp_path / f"{name}.jsonl" for name in ("queries", "sources", "triplets")}
    code = make.main(
        ["garments", "--clothing", str(tmp_path), "--split", "train", "--output",
         str(out["queries"]), "--sources", str(out["sources"]), "--triplets", str(out["triplets"])]
    )  # fmt: skip
    assert code == 0
    triplets = [json.loads(line) for line in out["triplets"].read_text().splitlines()]
    assert {one["reference"] for one in triplets} == {"4", "5"}
    assert {one["target"] for one in triplets} == {"0", "3"}
    assert all("hat" in one["text"] for one in triplets)
    paths, captions = read_captioned(out["sources"])
    assert len(paths) == 6
    assert ["a dress"] in captions
    assert all(path.is_file() for path in paths)


def test_garments_are_read_and_named_by_their_pixels(tmp_path):
    draw_picture(tmp_path / "a.png", (200, 20, 30))
    (tmp_path / "items.jsonl").write_text(
        '{"id": "a", "image": "a.png", "label": "hat", "split": "test"}\n'
    )
    made = garment_queries(read_garments(tmp_path / "items.jsonl"))
    assert [item["id"] for item in made.items] == ["a"]
    assert not made.dropped
