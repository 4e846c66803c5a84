from __future__ import annotations

import copy
import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from benchmarks.results.__main__ import main
from benchmarks.results.document import document, read_rows
from benchmarks.results.indexes import described_pictures, later_rows, make_index
from benchmarks.results.runner import Runner, unguided
from benchmarks.results.settings import IndexRecipe, Question, Setting, questions

from genmm_retriever import building
from genmm_retriever.corpus.store import Description, IndexReader
from genmm_retriever.errors import InputError
from genmm_retriever.identifiers import HashingEncoder
from genmm_retriever.retriever import VERIFIERS, GenerativeMMRetriever

PICTURES = 8
PLACES = ("in deep snow", "by the sea", "on green grass", "under an old bridge")


@pytest.fixture(autouse=True)
def hashing(monkeypatch):
    """An encoder that needs no loading."""
    monkeypatch.setattr(building, "default_encoder", HashingEncoder)


@pytest.fixture(scope="module")
def captioned(tmp_path_factory, noise):
    folder = tmp_path_factory.mktemp("captioned")
    lines = []
    for i in range(PICTURES):
        noise(seed=i).save(folder / f"{i}.png")
        captions = [f"picture number {i}", f"coloured patches {i * 7}"]
        lines.append({"id": f"p{i}", "image": f"{i}.png", "captions": captions})
    path = folder / "dev.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def described(captioned, tiny_builtin, tmp_path_factory):
    """An index that the tiny model described, in few words."""
    model = copy.copy(tiny_builtin)
    original = tiny_builtin.generate

    def short(*arguments, **options):
        return original(*arguments, **{**options, "max_new_tokens": 8})

    model.generate = short
    path = tmp_path_factory.mktemp("described") / "dev.genmm"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(building, "default_encoder", HashingEncoder)
        GenerativeMMRetriever.from_images(
            captioned, path=path, model=model, identifiers_per_item=2, progress=False
        ).close()
    return path


@pytest.fixture
def known(described):
    """What that index knows of its pictures, but in words that can be told apart."""
    said = [f"a {thing} {place}" for thing in ("dog", "boat") for place in PLACES]
    words = [[Description(text), Description(f"{text} today")] for text in said]
    return replace(described_pictures(described), descriptions=words)


@pytest.fixture
def counting(tiny_builtin):
    """The tiny model, with how many times it was asked to write or to look."""
    model = copy.copy(tiny_builtin)
    model.calls = Counter()
    for name in ("generate", "encode_images"):

        def call(*arguments, name=name, **options):
            model.calls[name] += 1
            return getattr(tiny_builtin, name)(*arguments, **options)

        setattr(model, name, call)
    return model


@pytest.fixture
def make_runner(tmp_path, captioned, described, counting):
    def make(**changes):
        options = {
            "described": described,
            "queries": captioned,
            "work": tmp_path / "work",
            "rows": tmp_path / "rows",
            "model": counting,
            "limit": 4,
            "encoder": HashingEncoder,
            "progress": False,
        }
        return Runner(**(options | changes))

    return make


def names_in(index):
    with IndexReader.open(index) as reader:
        rows = reader.live_rows().tolist()
        ids = [item.id for item in reader.items(rows)]
        return dict(zip(ids, reader.identifiers_of(rows), strict=True))


SETTINGS = [
    Setting(IndexRecipe(identifiers="structured", lexical_length=2, clusters=2), "off"),
    Setting(IndexRecipe(identifiers="structured", lexical_length=2, clusters=2), "likelihood", 5),
    Setting(IndexRecipe(identifiers="clue"), "off"),
    Setting(IndexRecipe(identifiers="caption", added=0.5), "off"),
    Setting(IndexRecipe(direction="image-to-text"), "off"),
]


def test_rows_are_measured_once_and_nothing_is_described_twice(make_runner, counting, tmp_path):
    outcome = make_runner().run(SETTINGS)
    assert set(outcome.values()) == {"done"}
    assert counting.calls["generate"] == 0
    rows = read_rows(tmp_path / "rows")
    assert len(rows) == len(SETTINGS)
    # Rows of one recipe share an index.
    assert len(list((tmp_path / "work").iterdir())) == len(SETTINGS) - 1
    for setting in SETTINGS:
        row = rows[setting.key]
        figures = row["figures"]
        assert row["settings"] == setting.to_json()
        assert figures["queries"] == 4
        assert 0 <= figures["recall@1"] <= figures["recall@10"] <= 100
        assert figures["candidates@50"] <= figures["candidates@100"] <= 100
        assert figures["seconds_per_query"]["mean"] > 0
        assert row["items"] == PICTURES * (2 if setting.index.direction == "image-to-text" else 1)
        assert (row["by_age"] != {}) == (setting.index.added > 0)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "rows").iterdir()}
    assert set(make_runner().run(SETTINGS).values()) == {"kept"}
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "rows").iterdir()} == before
    # Asked in another way, a row is another row.
    again = make_runner(limit=3).run(SETTINGS[:1])
    assert list(again.values()) == ["done"]


def test_the_recipe_reaches_the_index(tmp_path, known, tiny_builtin):
    sizes = {}
    for length in (1, 3):
        path = tmp_path / f"{length}"
        recipe = IndexRecipe(lexical_length=length, clusters=3)
        make_index(path, recipe, known, tiny_builtin, HashingEncoder(), per_item=2)
        with IndexReader.open(path) as reader:
            state = reader.json("identifiers")["state"]
            assert state["lexical_length"] == length
            assert len(state["names"]) == 3
            rows = reader.live_rows().tolist()
            np.testing.assert_array_equal(reader.features(rows), known.features)
            assert reader.descriptions(rows) == known.descriptions
        sizes[length] = sum(name.count(",") for own in names_in(path).values() for name in own)
    assert sizes[1] < sizes[3]


def test_later_items_are_named_by_the_old_scheme(tmp_path, known, tiny_builtin):
    later = later_rows(PICTURES, 0.5, 0)
    assert len(later) == 4
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for path, added in ((whole, 0.0), (parts, 0.5)):
        make_index(path, IndexRecipe(added=added), known, tiny_builtin, HashingEncoder())
    with IndexReader.open(parts) as reader:
        # The two parts were published one after the other, the later one last.
        assert reader.generation == 2
        rows = reader.live_rows().tolist()
        ids = [item.id for item in reader.items(rows)]
    assert ids[4:] == [known.items[place].id for place in later]
    assert set(names_in(parts)) == set(names_in(whole))


def test_a_broken_off_build_goes_on(tmp_path, known, tiny_builtin, monkeypatch):
    recipe = IndexRecipe(identifiers="numeric", added=0.5)
    make_index(tmp_path / "a", recipe, known, tiny_builtin, HashingEncoder())
    original = building.Builder.run
    for stop in (1, 2):
        calls = Counter()

        def run(self, calls=calls, stop=stop):
            calls["run"] += 1
            if calls["run"] == stop:
                raise KeyboardInterrupt
            return original(self)

        monkeypatch.setattr(building.Builder, "run", run)
        path = tmp_path / f"b{stop}"
        with pytest.raises(KeyboardInterrupt):
            make_index(path, recipe, known, tiny_builtin, HashingEncoder())
        monkeypatch.setattr(building.Builder, "run", original)
        make_index(path, recipe, known, tiny_builtin, HashingEncoder())
        assert names_in(path) == names_in(tmp_path / "a")


def test_other_eyes_look_anew(tmp_path, known, make_builtin):
    from genmm_retriever.models.builtin import BuiltinMLLM

    other = BuiltinMLLM(*make_builtin(seed=5), name="other")
    make_index(tmp_path / "index", IndexRecipe(), known, other, HashingEncoder())
    with IndexReader.open(tmp_path / "index") as reader:
        features = reader.features(reader.live_rows().tolist())
    assert features.shape == known.features.shape
    assert not np.allclose(features, known.features, atol=0.1)


def test_what_this_version_cannot_do_is_left_out(make_runner, tmp_path):
    outcome = make_runner().run([Setting(verify="oracle")])
    assert list(outcome.values()) == [
        "left out: there is no verifier 'oracle' in this version"
    ]  # fmt: skip
    assert not (tmp_path / "rows").exists()


def test_queries_of_other_pictures_are_refused(make_runner, tmp_path, captioned):
    other = tmp_path / "other.jsonl"
    line = {"id": "stranger", "image": str(captioned.parent / "0.png"), "captions": ["a"]}
    other.write_text(json.dumps(line), encoding="utf-8")
    with pytest.raises(InputError, match=r"'stranger', which dev\.genmm lacks"):
        make_runner(queries=other).run([Setting()])


def test_the_document_shows_rows_and_gaps(make_runner, tmp_path):
    shares = (0.0, 0.5)
    settings = tuple(Setting(IndexRecipe("caption", added=share)) for share in shares)
    make_runner(limit=None).run(settings)
    gap = Setting(IndexRecipe("caption", added=0.1))
    question = Question("added", "Added later", ("added",), (*settings, gap))
    peer = {
        "name": "dual_encoder",
        "claim": "a dual encoder",
        "details": {
            "recalls": {
                f"{way} R@{k}": float(k)
                for way in ("text->image", "image->text")
                for k in (1, 5, 10)
            }
        },
    }
    stage = {**peer, "name": "vision_stage", "claim": "a learnt stage"}
    text = document([question], read_rows(tmp_path / "rows"), [peer, stage])
    assert "## Added later" in text
    assert "load average" in text
    assert "| added | R@1 | R@5 | R@10 | cand@50 | cand@100 | s a query |" in text
    assert "| 10% | not measured |" in text
    assert "| 50% | old |" in text
    assert "| 50% | new |" in text
    assert "| a dual encoder | text->image | 1.0 | 5.0 | 10.0 |" in text
    before, behind = text.split("## Would an unfrozen last stage of the vision backbone help?")
    assert ("a learnt stage" in before, "a learnt stage" in behind) == (False, True)
    with pytest.raises(InputError, match="step_share is no part of this document"):
        document([question], {}, [{**peer, "name": "step_share"}])
    assert str(tmp_path) not in text
    figure = read_rows(tmp_path / "rows")[settings[0].key]["figures"]["recall@10"]
    assert f" {figure:.1f} |" in text


def test_the_questions_are_those_of_the_papers():
    asked = {one.name: one for one in questions("models/untrained")}
    varied = {name: {str(s.to_json()) for s in one.settings} for name, one in asked.items()}
    assert all(len(found) == len(asked[name].settings) for name, found in varied.items())
    assert {s.index.identifiers for s in asked["identifiers"].settings} == {
        "structured", "numeric", "clue", "caption"
    }  # fmt: skip
    assert {s.verify for s in asked["verifiers"].settings} >= set(VERIFIERS)
    assert [s.index.lexical_length for s in asked["length"].settings] == [2, 4, 6]
    assert [s.beams for s in asked["beams"].settings] == [5, 10, 20, 50, 100]
    assert {s.index.added for s in asked["added"].settings} == {0.0, 0.1, 0.5}
    assert {s.index.model for s in asked["training"].settings} == {None, "models/untrained"}
    assert "training" not in {one.name for one in questions()}


def test_without_the_guide_the_language_model_is_alone(tiny_builtin):
    alone = unguided(tiny_builtin)
    assert alone.calibration["guidance"] == 0.0
    assert (tiny_builtin.calibration or {}).get("guidance") != 0.0
    (guide,) = [one for one in questions() if one.name == "guide"]
    assert Counter(setting.guided for setting in guide.settings) == {True: 2, False: 2}


def test_the_command_line(tmp_path, capsys):
    assert main(["list"]) == 0
    assert "identifiers" in capsys.readouterr().out
    (tmp_path / "rows").mkdir()
    assert main(["table", "--rows", str(tmp_path / "rows"), "--only", "beams"]) == 0
    printed = capsys.readouterr().out
    assert "## How many beams?" in printed
    assert "Not measured yet." in printed
    with pytest.raises(SystemExit, match="2"):
        main(["list", "--only", "nothing"])
    assert "there is no question 'nothing'" in capsys.readouterr().err
    missing = ["--described", str(tmp_path / "none"), "--queries", "q.jsonl"]
    folders = ["--work", str(tmp_path / "w"), "--rows", str(tmp_path / "r")]
    monkey = ["run", *missing, *folders, "--only", "length", "--model", str(tmp_path / "none")]
    assert main(monkey) == 2
