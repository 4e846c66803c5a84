"""Building an index: what is described, named and kept, and what a broken-off build leaves."""

from __future__ import annotations

import contextlib
import copy
import json
import re
import shutil
from collections import Counter

import numpy as np
import pytest

from genmm_retriever.corpus.readers import read_sources
from genmm_retriever.corpus.store import IndexReader, IndexSettings, IndexWriter
from genmm_retriever.errors import DuplicateIdError, EmptyCorpusError, ImageError, InputError
from genmm_retriever.schema import Item

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
building = pytest.importorskip("genmm_retriever.building")

WATCHED = ("encode_images", "generate", "score_from")
TEXT = Item(id="t", text="Two children build a castle of sand.")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Batches of few items, so that a build has several; an encoder that needs no loading."""
    from genmm_retriever.identifiers import HashingEncoder

    monkeypatch.setattr(building, "default_encoder", HashingEncoder)
    monkeypatch.setattr(building, "IMAGES_AT_ONCE", 2)
    monkeypatch.setattr(building, "IDENTIFIERS_AT_ONCE", 4)


@pytest.fixture
def watched(tiny_builtin):
    """Makes models that count what they do and are interrupted in the n-th call."""

    def make(*, stop=None, budget=None, **attributes):
        model = copy.copy(tiny_builtin)
        model.calls, model.done = Counter(), Counter()

        def watch(name):
            original = getattr(tiny_builtin, name)

            def call(inputs, *arguments, **options):
                model.calls[name] += 1
                if stop == (name, model.calls[name]) or model.calls.total() - 1 == budget:
                    raise KeyboardInterrupt
                if name == "generate":
                    options["max_new_tokens"] = min(options["max_new_tokens"], 10)
                found = original(inputs, *arguments, **options)
                if name == "score_from":
                    inputs = arguments[-1]
                # The builder asks by a picture of 8 x 8 whether there are features at all.
                model.done[name] += sum(getattr(i, "size", None) != (8, 8) for i in inputs)
                return found

            setattr(model, name, call)

        for name in WATCHED:
            watch(name)
        for name, value in attributes.items():
            setattr(model, name, value)
        return model

    return make


def settings_for(model, **changes):
    return IndexSettings(
        model=model.name, model_fingerprint=model.fingerprint, **{"seed": 3, **changes}
    )


def build(path, source, model, *, strict=False, replace=False, **changes):
    with IndexWriter.create(path, settings_for(model, **changes)) as writer:
        return building.stage_and_build(
            writer, read_sources(source), model, strict=strict, replace=replace, progress=False
        )


def add(path, source, model, **options):
    with IndexWriter.open(path) as writer:
        return building.stage_and_build(
            writer, read_sources(source), model, progress=False, **options
        )


def records(path):
    """Everything that a build makes, by item id."""
    with IndexReader.open(path) as reader:
        rows = reader.live_rows().tolist()
        ids = [item.id for item in reader.items(rows)]
        described = reader.descriptions(rows)
        features = [reader.features([row]) for row in rows]
    with IndexWriter.open(path) as writer:
        named = {row: [] for row in rows}
        for one in writer.identifiers():
            named[one.row].append((one.text, one.tokens, one.null_logprobs))
    return {
        name: (row, texts, None if kept is None else kept.tobytes(), named[row])
        for name, row, texts, kept in zip(ids, rows, described, features, strict=True)
    }


def published(path):
    """All of an index that a reader can see, comparable."""
    with IndexReader.open(path) as reader:
        arrays = {name: reader.array(name) for name in reader.arrays()}
        return {
            "records": records(path),
            "items": reader.items(reader.live_rows().tolist()),
            "arrays": {
                name: (str(one.dtype), one.shape, one.tobytes()) for name, one in arrays.items()
            },
            "scheme": reader.json("identifiers"),
            "skipped": reader.skipped(),
            "generation": reader.generation,
        }


def identifiers(path):
    return {name: [text for text, *_ in found[3]] for name, found in records(path).items()}


@pytest.fixture
def mixed(pictures):
    """Five pictures, a broken one among them, and a text."""
    (pictures / "p2.png").write_bytes(b"\x89PNG\r\n\x1a\n cut short")
    return [pictures, TEXT]


@pytest.fixture
def unbroken(tmp_path, mixed, watched):
    """What comes out when nothing interrupts, and what was done for it."""
    model = watched()
    build(tmp_path / "unbroken", mixed, model)
    return published(tmp_path / "unbroken"), model


# A build of `mixed` calls encode_images four times (the first is the question whether there
# are features), generate at least six times and score at least three times.
STOPS = [
    ("encode_images", 2),
    ("encode_images", 3),
    ("encode_images", 4),
    ("generate", 1),
    ("generate", 2),
    ("generate", 5),
    ("score_from", 1),
    ("score_from", 2),
    ("score_from", 3),
]


def test_an_interrupted_build_goes_on_to_the_same_index(tmp_path, mixed, watched, unbroken):
    expected, once = unbroken
    for name, number in STOPS:
        path = tmp_path / f"{name}{number}"
        broken, second = watched(stop=(name, number)), watched()
        with pytest.raises(KeyboardInterrupt):
            build(path, mixed, broken)
        assert not (path / "manifest.json").exists(), "published what was not finished"
        report = build(path, mixed, second)
        assert (report.items, report.added, report.unchanged) == (6, 6, 0)
        assert published(path) == expected, f"interrupted in {name} number {number}"
        together = broken.done + second.done
        assert together["encode_images"] == once.done["encode_images"]
        assert together["score_from"] == once.done["score_from"]
        # The batch in hand has two pictures; what was asked for them is asked again.
        extra = together["generate"] - once.done["generate"]
        assert 0 <= extra <= 4
        if name != "generate":
            assert extra == 0


def test_a_build_that_is_interrupted_again_and_again_ends(tmp_path, mixed, watched, unbroken):
    expected, once = unbroken
    path = tmp_path / "often"
    runs, done = 0, False
    while not done:
        runs += 1
        assert runs < 30, "it gets nowhere"
        with contextlib.suppress(KeyboardInterrupt):
            build(path, mixed, watched(budget=3))
            done = True
    assert runs >= once.calls.total() // 4
    assert published(path) == expected


def test_an_interrupted_addition_is_seen_wholly_or_not(tmp_path, pictures, watched, noise):
    path = tmp_path / "index"
    build(path, [pictures / "p0.png", pictures / "p1.png"], watched())
    before = published(path)
    more = [pictures / "p2.png", pictures / "p3.png", TEXT]
    with pytest.raises(KeyboardInterrupt):
        add(path, more, watched(stop=("score_from", 2)))
    with IndexReader.open(path) as reader:
        assert (len(reader), reader.generation) == (2, before["generation"])
    second = watched()
    report = add(path, more, second)
    assert (report.items, report.added, report.replaced, report.unchanged) == (5, 3, 0, 0)
    assert second.calls["generate"] == 0, "described again"
    after = records(path)
    assert sorted(after) == ["p0.png", "p1.png", "p2.png", "p3.png", "t"]
    assert {name: after[name] for name in before["records"]} == before["records"]


@pytest.mark.parametrize("kind", ["structured", "caption", "numeric"])
def test_an_interrupted_replacement_names_items_as_if_it_had_not_been(tmp_path, watched, kind):
    """They are all called alike, so that what is free again would be taken."""

    def items(version):
        metadata = {"version": version}
        return [Item(id=f"t{n}", text=TEXT.text, metadata=metadata) for n in range(9)]

    path, other = tmp_path / "index", tmp_path / "unbroken"
    build(path, items(0), watched(), identifiers=kind)
    shutil.copytree(path, other)
    add(other, items(1), watched(), replace=True)
    with pytest.raises(KeyboardInterrupt):
        add(path, items(1), watched(stop=("score_from", 2)), replace=True)
    with IndexWriter.open(path) as writer:
        assert len(writer.pending("identifiers")) == 5
    report = add(path, items(1), watched(), replace=True)
    assert (report.items, report.replaced) == (9, 9)
    assert identifiers(path) == identifiers(other)
    assert published(path) == published(other)
    names = [text for texts in identifiers(path).values() for text in texts]
    assert len(names) == len(set(names)) == 9


def test_report_and_published_counts(tmp_path, mixed, watched):
    model = watched()
    report = build(tmp_path / "index", mixed, model)
    assert (report.items, report.added, report.replaced, report.unchanged) == (6, 6, 0, 0)
    [(name, reason)] = report.skipped
    assert name == "p2.png"
    assert "p2.png" in reason
    with IndexReader.open(tmp_path / "index") as reader:
        counts = reader.counts()
        assert (counts["items"], counts["images"], counts["texts"]) == (6, 5, 1)
        assert reader.row("p2.png") is None
        assert reader.skipped() == report.skipped


def test_a_finished_build_is_not_done_again(tmp_path, mixed, watched):
    build(tmp_path / "index", mixed, watched())
    before, idle = published(tmp_path / "index"), watched()
    report = build(tmp_path / "index", mixed, idle)
    assert (report.items, report.added, report.unchanged) == (6, 0, 6)
    assert idle.calls.total() == 0
    assert published(tmp_path / "index") == before


def test_other_settings_are_refused_by_name(tmp_path, mixed, watched):
    build(tmp_path / "index", [TEXT], watched())
    with pytest.raises(InputError, match=r"seed: 3 -> 4"):
        build(tmp_path / "index", [TEXT], watched(), seed=4)


def test_strict_refuses_a_broken_picture(tmp_path, mixed, watched):
    with pytest.raises(ImageError, match=r"p2\.png"):
        build(tmp_path / "index", mixed, watched(), strict=True)
    assert not (tmp_path / "index" / "manifest.json").exists()


def test_a_mended_picture_is_taken_in(tmp_path, mixed, watched, noise):
    path = tmp_path / "index"
    build(path, mixed, watched())
    before = records(path)
    noise(seed=5).save(mixed[0] / "p2.png")
    model = watched()
    report = build(path, mixed, model)
    assert (report.items, report.skipped) == (7, [])
    assert model.done["encode_images"] == 1
    after = records(path)
    assert after.pop("p2.png")[3]
    assert after == before


def test_what_has_no_visible_words_is_reported(tmp_path, watched, pictures):
    def silent(prompts, **options):
        return [[""] * options["num_return_sequences"] for _ in prompts]

    blank = Item(id="blank", text="\u200b\u200b")
    path = tmp_path / "index"
    report = build(
        path, [pictures / "p0.png", blank, TEXT], watched(generate=silent, object_words=None)
    )
    assert {name for name, _ in report.skipped} == {"blank", "p0.png"}
    assert all("visible words" in reason for _, reason in report.skipped)
    assert list(records(path)) == ["t"]


def test_only_broken_pictures_make_no_index(tmp_path, watched):
    for n in range(3):
        (tmp_path / f"b{n}.png").write_bytes(b"no picture")
    with pytest.raises(EmptyCorpusError, match=r"b0\.png"):
        build(tmp_path / "index", [tmp_path / f"b{n}.png" for n in range(3)], watched())
    assert not (tmp_path / "index" / "manifest.json").exists()


def test_duplicates_are_named_and_nothing_is_kept(tmp_path, watched, pictures):
    path = tmp_path / "index"
    twice = [Item(id="a", text="one"), Item(id="b", text="two"), Item(id="a", text="three")]
    with pytest.raises(DuplicateIdError, match="'a'"):
        build(path, twice, watched())
    build(path, [TEXT], watched())
    with pytest.raises(DuplicateIdError, match="castle"):
        add(path, [pictures, Item(id="t", text="something else")], watched())
    assert list(records(path)) == ["t"]


def test_equal_pictures_are_items_of_their_own(tmp_path, watched, noise):
    for name in "abc":
        noise(seed=5).save(tmp_path / f"{name}.png")
    build(tmp_path / "index", [tmp_path / f"{name}.png" for name in "abc"], watched())
    found = identifiers(tmp_path / "index")
    assert len(found) == 3
    assert all(found.values())
    flat = [text for texts in found.values() for text in texts]
    assert len(flat) == len(set(flat)) > 3


def test_identifiers_end_properly_and_know_their_prior(tmp_path, mixed, watched, tiny_builtin):
    from genmm_retriever.describing import null_prompt

    build(tmp_path / "index", mixed, watched())
    found = [one for *_, named in records(tmp_path / "index").values() for one in named]
    assert len({text for text, *_ in found}) == len(found) > 6
    tokens = [list(ids) for _, ids, _ in found]
    assert tokens == [[*tiny_builtin.encode(text), tiny_builtin.eos_token_id] for text, *_ in found]
    for ids, (_, _, logprobs) in zip(tokens, found, strict=True):
        [alone] = tiny_builtin.score([null_prompt(tiny_builtin)], [ids])
        np.testing.assert_allclose(logprobs, alone.numpy(), atol=2e-4)


def test_the_trie_leads_to_every_item_and_no_other(tmp_path, mixed, watched):
    from genmm_retriever.constraints.keeping import read_trie

    build(tmp_path / "index", mixed, watched())
    found = records(tmp_path / "index")
    with IndexReader.open(tmp_path / "index") as reader:
        trie = read_trie(reader)
    left = trie.completions(trie.start(1, None))
    assert dict(zip(map(tuple, left.tails), left.items, strict=True)) == {
        ids: (row,) for row, *_, named in found.values() for _, ids, _ in named
    }
    # The prior is kept in half precision.
    priors = {ids: sum(prior) for *_, named in found.values() for _, ids, prior in named}
    wanted = [priors[tuple(tail)] for tail in left.tails]
    np.testing.assert_allclose(left.null_logprobs.numpy(), wanted, rtol=2e-3)


def test_object_words_take_one_door(tmp_path, pictures, watched):
    seen = {"p0.png": [("tabby", 0.7), ("sports car", 0.2)], "p1.png": []}
    asked = []

    def object_words(features, *, least):
        asked.append((features.shape[0], least))
        return list(seen.values())

    model = watched(object_words=object_words)
    sources = [pictures / name for name in seen]
    build(tmp_path / "index", sources, model, identifiers_per_item=3)
    found = {name: one[1] for name, one in records(tmp_path / "index").items()}
    assert asked == [(2, building.OBJECTS_LEAST)]
    assert [d.source for d in found["p0.png"]] == ["model", "objects", "model"]
    assert found["p0.png"][1].text == "tabby, sports car"
    assert [d.source for d in found["p1.png"]] == ["model", "model"]
    assert any("tabby" in text for text in identifiers(tmp_path / "index")["p0.png"])
    build(tmp_path / "one", sources, model, identifiers_per_item=1)
    for one in records(tmp_path / "one").values():
        assert [d.source for d in one[1]] == ["model"]
        assert len(one[3]) == 1


def test_human_text_beside_a_picture_becomes_a_door(tmp_path, pictures, watched):
    lines = [
        {"id": "a", "image": "p0.png", "captions": ["A zebra grazes.", "A zebra."]},
        {"id": "b", "image": "p1.png", "text": "A violin lies on a table."},
    ]
    source = pictures / "lines.jsonl"
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    model = watched()
    with IndexWriter.create(tmp_path / "index", settings_for(model, use_text="captions")) as writer:
        items = read_sources(source, use_text="captions")
        building.stage_and_build(writer, items, model, progress=False)
    found = records(tmp_path / "index")
    assert "A zebra grazes. A zebra." in [d.text for d in found["a"][1] if d.source == "text"]
    assert "violin" in " ".join(text for text, *_ in found["b"][3])
    assert found["a"][1][0].source == "model"
    build(tmp_path / "without", [source], watched())
    assert all(d.source == "model" for d in records(tmp_path / "without")["a"][1])


def test_texts_are_not_shown_to_the_model_for_description(tmp_path, watched):
    model = watched()
    long = " ".join(f"word{n}" for n in range(200))
    build(tmp_path / "index", [TEXT, Item(id="long", text=long)], model)
    assert model.calls["generate"] == model.calls["encode_images"] == 0
    found = records(tmp_path / "index")
    assert [d.text for d in found["t"][1]] == [TEXT.text]
    assert {d.source for _, described, *_ in found.values() for d in described} == {"text"}
    # Doors to its beginning and its end.
    assert found["long"][1][0].text.startswith("word0 ")
    assert found["long"][1][-1].text.endswith(" word199")


def test_additions_leave_earlier_items_as_they_are(tmp_path, pictures, watched):
    path = tmp_path / "index"
    build(path, [pictures / "p0.png", pictures / "p1.png", TEXT], watched())
    before, scheme = records(path), published(path)["scheme"]
    model = watched()
    same_words = Item(id="again", text=TEXT.text)
    report = add(path, [pictures / "p2.png", same_words], model)
    assert (report.items, report.added) == (5, 2)
    assert model.done["encode_images"] == 1
    after = records(path)
    assert {name: after[name] for name in before} == before
    assert published(path)["scheme"] == scheme
    names = [text for texts in identifiers(path).values() for text in texts]
    assert len(names) == len(set(names))
    assert model.done["score_from"] == len(after["p2.png"][3]) + len(after["again"][3])


def test_a_replaced_item_gets_a_new_row_and_only_it_is_done(tmp_path, pictures, watched, noise):
    path = tmp_path / "index"
    build(path, [pictures], watched())
    before = records(path)
    noise(seed=77).save(pictures / "p1.png")
    with pytest.raises(DuplicateIdError, match="'t'"):
        add(path, [TEXT, TEXT], watched())
    model = watched()
    report = add(path, [pictures], model, replace=True)
    assert (report.items, report.replaced, report.unchanged, report.added) == (6, 1, 5, 0)
    assert model.done["encode_images"] == 1
    after = records(path)
    assert after["p1.png"][0] > max(row for row, *_ in before.values())
    assert after["p1.png"][2] != before["p1.png"][2]
    assert {n: one for n, one in after.items() if n != "p1.png"} == {
        n: one for n, one in before.items() if n != "p1.png"
    }


def test_a_broken_replacement_leaves_the_old_item_served(tmp_path, pictures, watched):
    path = tmp_path / "index"
    build(path, [pictures], watched())
    before = records(path)
    (pictures / "p1.png").write_bytes(b"no picture any more")
    report = add(path, [pictures], watched(), replace=True)
    assert [name for name, _ in report.skipped] == ["p1.png"]
    assert records(path) == before


def test_numeric_identifiers(tmp_path, pictures, watched):
    path = tmp_path / "index"
    build(path, [pictures], watched(), identifiers="numeric")
    before = identifiers(path)
    add(path, [TEXT, Item(id="u", text="An old man plays the violin.")], watched())
    after = identifiers(path)
    assert {name: after[name] for name in before} == before
    names = [text for texts in after.values() for text in texts]
    assert len(names) == len(set(names)) >= 8
    assert all(re.fullmatch(r"\d+( \d+)*", text) for text in names)


def test_caption_identifiers(tmp_path, pictures, watched):
    path = tmp_path / "index"
    build(path, [pictures], watched(), identifiers="caption")
    before = identifiers(path)
    add(path, [TEXT], watched())
    after = identifiers(path)
    assert {name: after[name] for name in before} == before
    assert after["t"] == ["two children build a castle of sand"]


def test_without_features_pictures_are_shown_as_pixels(tmp_path, mixed, watched):
    from genmm_retriever.corpus.images import open_image
    from genmm_retriever.describing import clean_caption, describe_prompt
    from genmm_retriever.models.base import ImagePart

    kept = build(tmp_path / "kept", mixed, watched())
    model = watched(encode_images=lambda images: None, object_words=None)
    report = build(tmp_path / "index", mixed, model)
    assert (report.items, [name for name, _ in report.skipped]) == (6, ["p2.png"])
    assert kept.skipped == report.skipped
    found = records(tmp_path / "index")
    assert {one[2] for one in found.values()} == {None}
    seen = ImagePart(image=open_image(mixed[0] / "p3.png"))
    [[likeliest]] = model.generate([describe_prompt(seen, model)], max_new_tokens=10)
    assert found["p3.png"][1][0].text == clean_caption(likeliest)
    assert len(found["p3.png"][1]) == 3


def test_progress_is_shown_on_stderr_only_if_wanted(tmp_path, pictures, watched, capsys):
    model = watched()
    for progress in (False, True):
        with IndexWriter.create(tmp_path / f"i{progress}", settings_for(model)) as writer:
            items = read_sources(pictures / "p0.png")
            building.stage_and_build(writer, items, model, progress=progress)
        out, err = capsys.readouterr()
        assert out == ""
        assert [word in err for word in ("looking", "describing", "identifying")] == [progress] * 3
