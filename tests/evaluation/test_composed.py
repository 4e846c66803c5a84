from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from genmm_retriever import Item
from genmm_retriever.corpus.readers import read_sources
from genmm_retriever.errors import InputError, SourceError, StorageError
from genmm_retriever.evaluation import (
    read_cirr,
    read_fashioniq,
    read_queries,
    write_composed,
)
from genmm_retriever.evaluation.annotations import picture_within

SAMPLES = "GENMM_COMPOSED_SAMPLES"


def dump(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def triplet(pair, reference, target, members, caption="show three bottles"):
    return {
        "pairid": pair,
        "reference": reference,
        "target_hard": target,
        "target_soft": {target: 1.0},
        "caption": caption,
        "img_set": {"id": 1, "members": members, "reference_rank": 0, "target_rank": 1},
    }


@pytest.fixture
def cirr(tmp_path):
    """CIRR in small, laid out as published: two queries over four pictures."""
    names = ["dev-1", "dev-2", "dev-3", "dev-4"]
    folder = tmp_path / "cirr"
    paths = {name: f"./dev/{name}.png" for name in names}
    dump(folder / "image_splits/split.rc2.val.json", paths)
    records = [
        triplet(12, "dev-1", "dev-2", names[:3]),
        triplet(13, "dev-3", "dev-1", names[:3], caption="Fewer bottles"),
    ]
    dump(folder / "captions/cap.rc2.val.json", records)
    (tmp_path / "dev").mkdir()
    for name in names:
        (tmp_path / "dev" / f"{name}.png").touch()
    return tmp_path


def rewrite(path, change):
    content = json.loads(path.read_text())
    change(content)
    dump(path, content)


def test_cirr(cirr):
    found = read_cirr(cirr / "cirr", cirr)
    assert [item.id for item in found.items] == ["dev-1", "dev-2", "dev-3", "dev-4"]
    assert found.items[0].image == str(cirr / "dev/dev-1.png")
    assert (found.missing, found.dropped, found.queries.available) == ((), 0, 2)
    first, second = found.queries
    assert first.id == "12"
    assert first.query.text == "show three bottles"
    assert first.query.image == str(cirr / "dev/dev-1.png")
    assert first.query.is_composed
    assert first.relevant == {"dev-2"}
    assert first.reference == "dev-1"
    assert first.subset == {"dev-2", "dev-3"}
    assert (second.reference, second.relevant) == ("dev-3", {"dev-1"})
    assert {query.group for query in found.queries} == {None}


def test_relative_folders(cirr, monkeypatch):
    monkeypatch.chdir(cirr)
    assert read_cirr("cirr", ".").items == read_cirr(cirr / "cirr", cirr).items


def test_files_without_their_folders(cirr):
    for part in ("captions", "image_splits"):
        [file] = (cirr / "cirr" / part).iterdir()
        file.rename(cirr / "cirr" / file.name)
    assert len(read_cirr(cirr / "cirr", cirr).queries) == 2


def test_missing_pictures_are_refused_or_left_out(cirr):
    (cirr / "dev/dev-2.png").unlink()
    (cirr / "dev/dev-4.png").unlink()
    with pytest.raises(SourceError, match=r"2 of the 4 pictures .*dev-2\.png"):
        read_cirr(cirr / "cirr", cirr)
    found = read_cirr(cirr / "cirr", cirr, skip_missing=True)
    assert [item.id for item in found.items] == ["dev-1", "dev-3"]
    assert found.missing == ("dev-2", "dev-4")
    assert (found.dropped, found.queries.available) == (1, 2)
    [kept] = found.queries
    # The member that is missing cannot be ranked.
    assert (kept.id, kept.subset) == ("13", {"dev-1"})
    with pytest.raises(SourceError, match="4 of the 4 pictures"):
        read_cirr(cirr / "cirr", cirr / "elsewhere", skip_missing=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target_hard": "dev-9"}, "picture 'dev-9' is not one of the split"),
        ({"reference": 5}, '"reference" must be a text'),
        ({"caption": " "}, '"caption" must be a text'),
        ({"caption": "caf\udce9"}, '"caption" must be a text'),
        ({"img_set": None}, '"members" must be a list'),
        ({"img_set": {"members": ["dev-1", 2]}}, '"members" must be a list'),
        ({"img_set": {"members": ["dev-3", "dev-4"]}}, "not one of the set"),
        ({"target_hard": "dev-3"}, "beside the reference"),
        ({"pairid": None}, '"pairid"'),
    ],
)
def test_broken_records_of_cirr_are_named(cirr, change, message):
    file = cirr / "cirr/captions/cap.rc2.val.json"
    rewrite(file, lambda records: records[1].update(change))
    with pytest.raises(SourceError) as caught:
        read_cirr(cirr / "cirr", cirr)
    assert f"{file}, record 2: " in str(caught.value)
    assert message in str(caught.value)


def test_cirr_without_published_targets(cirr):
    file = cirr / "cirr/captions/cap.rc2.val.json"
    rewrite(file, lambda records: records[0].pop("target_hard"))
    with pytest.raises(SourceError, match=r"record 1: .*test split are not published"):
        read_cirr(cirr / "cirr", cirr)


def test_two_pairs_of_one_id(cirr):
    rewrite(
        cirr / "cirr/captions/cap.rc2.val.json", lambda records: records[1].update({"pairid": 12})
    )
    with pytest.raises(SourceError, match="two queries with the id '12'"):
        read_cirr(cirr / "cirr", cirr)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "is not JSON"),
        (b"\xff", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b'{"a": 1}', "is not a list of records"),
        (b"[5]", "record 1: it is not a JSON object"),
        (b"[]", "holds no query"),
    ],
)
def test_broken_files_are_named(cirr, content, message):
    file = cirr / "cirr/captions/cap.rc2.val.json"
    file.write_bytes(content)
    with pytest.raises(SourceError, match=message) as caught:
        read_cirr(cirr / "cirr", cirr)
    assert str(file) in str(caught.value)


def test_absent_files_are_named(cirr):
    with pytest.raises(SourceError, match=r"split\.rc2\.train\.json does not exist"):
        read_cirr(cirr / "cirr", cirr, split="train")


HOSTILE = [
    "../secret.png",
    "./dev/../../secret.png",
    "dev/..",
    "/etc/passwd",
    "//host/share.png",
    "..\\secret.png",
    "C:\\secret.png",
    "C:secret.png",
    "\\\\host\\share\\secret.png",
    "a\x00.png",
    "caf\udce9.png",
    "",
    ".",
    " ",
    None,
    7,
    ["a.png"],
]


@pytest.mark.parametrize("name", HOSTILE)
def test_pictures_that_lead_out_of_the_folder_are_refused(cirr, name):
    (cirr / "secret.png").touch()
    (cirr / "pictures").mkdir()
    file = cirr / "cirr/image_splits/split.rc2.val.json"
    rewrite(file, lambda paths: paths.update({"dev-4": name}))
    with pytest.raises(SourceError) as caught:
        read_cirr(cirr / "cirr", cirr / "pictures", skip_missing=True)
    assert f"{file}, record 'dev-4': " in str(caught.value)


@pytest.mark.parametrize("name", ["http://host/a.png", "file:///etc/passwd", "data:,a", "a..b/c"])
def test_names_like_addresses_stay_in_the_folder(tmp_path, name):
    assert picture_within(tmp_path, name).is_relative_to(tmp_path)


@pytest.fixture
def fashioniq(tmp_path):
    """FashionIQ in small: two categories that share a picture."""
    splits = {"dress": ["D1", "D2", "B1"], "shirt": ["S1", "B1", "S2"]}
    pairs = {"dress": [("D1", "D2"), ("D2", "B1")], "shirt": [("S1", "S2")]}
    captions = ["is shiny and silver. ", "fit and flare"]
    for category, names in splits.items():
        dump(tmp_path / f"fiq/image_splits/split.{category}.val.json", names)
        records = [
            {"target": target, "candidate": reference, "captions": captions}
            for reference, target in pairs[category]
        ]
        dump(tmp_path / f"fiq/captions/cap.{category}.val.json", records)
    (tmp_path / "images").mkdir()
    for name in ("D1.jpg", "D2.png", "B1.jpg", "S1.jpg", "S2.jpg"):
        (tmp_path / "images" / name).touch()
    return tmp_path


BOTH = ("dress", "shirt")


def test_fashioniq(fashioniq):
    found = read_fashioniq(fashioniq / "fiq", fashioniq / "images", categories=BOTH)
    assert {item.id: item.metadata["category"] for item in found.items} == {
        "D1": ["dress"],
        "D2": ["dress"],
        "B1": ["dress", "shirt"],
        "S1": ["shirt"],
        "S2": ["shirt"],
    }
    assert found.items[1].image == str(fashioniq / "images/D2.png")
    assert [query.id for query in found.queries] == ["dress-1", "dress-2", "shirt-1"]
    first = found.queries[0]
    assert first.query.text == "is shiny and silver and fit and flare"
    assert first.query.image == str(fashioniq / "images/D1.jpg")
    assert first.query.filters == {"category": "dress"}
    assert (first.relevant, first.group) == ({"D2"}, "dress")
    # FashionIQ ranks the reference along with the others.
    assert (first.reference, first.subset) == (None, frozenset())


def test_categories_of_fashioniq(fashioniq):
    [query] = read_fashioniq(
        fashioniq / "fiq", fashioniq / "images", categories=["shirt", "shirt"]
    ).queries
    assert query.group == "shirt"
    with pytest.raises(SourceError, match=r"split\.toptee\.val\.json does not exist"):
        read_fashioniq(fashioniq / "fiq", fashioniq / "images")
    for wrong in (["hat"], [], ["../dress"]):
        with pytest.raises(InputError, match="one of dress, shirt, toptee"):
            read_fashioniq(fashioniq / "fiq", fashioniq / "images", categories=wrong)


def test_missing_pictures_of_fashioniq(fashioniq):
    (fashioniq / "images/B1.jpg").unlink()
    arguments = fashioniq / "fiq", fashioniq / "images"
    with pytest.raises(SourceError, match=r"1 of the 3 pictures .*B1\.jpg"):
        read_fashioniq(*arguments, categories=BOTH)
    found = read_fashioniq(*arguments, categories=BOTH, skip_missing=True)
    assert [item.id for item in found.items] == ["D1", "D2", "S1", "S2"]
    assert [query.id for query in found.queries] == ["dress-1", "shirt-1"]
    assert (found.missing, found.dropped) == (("B1",), 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"candidate": "S1"}, "picture 'S1' is not one of the split"),
        ({"captions": "is red"}, '"captions" must be a list'),
        ({"captions": [" ", "."]}, "its captions are empty"),
        ({"candidate": ""}, '"candidate" must be a text'),
    ],
)
def test_broken_records_of_fashioniq_are_named(fashioniq, change, message):
    file = fashioniq / "fiq/captions/cap.dress.val.json"
    rewrite(file, lambda records: records[1].update(change))
    with pytest.raises(SourceError) as caught:
        read_fashioniq(fashioniq / "fiq", fashioniq / "images", categories=BOTH)
    assert f"{file}, record 2: " in str(caught.value)
    assert message in str(caught.value)


def test_hostile_names_of_fashioniq(fashioniq):
    file = fashioniq / "fiq/image_splits/split.dress.val.json"
    for name in ("../fiq/secret", "/etc/passwd", 5, None):
        dump(file, ["D1", name])
        with pytest.raises(SourceError, match="record 2: the "):
            read_fashioniq(fashioniq / "fiq", fashioniq / "images", categories=BOTH)
    dump(file, {"D1": "D1"})
    with pytest.raises(SourceError, match="a split file is a list"):
        read_fashioniq(fashioniq / "fiq", fashioniq / "images", categories=BOTH)


@pytest.mark.parametrize("name", ["cirr", "fashioniq"])
def test_written_files_are_read_as_the_same(request, name, tmp_path):
    folder = request.getfixturevalue(name)
    if name == "cirr":
        found = read_cirr(folder / "cirr", folder)
    else:
        found = read_fashioniq(folder / "fiq", folder / "images", categories=BOTH)
    items, queries = write_composed(found, tmp_path / "out")
    assert tuple(read_sources(items)) == found.items
    assert tuple(read_queries(queries)) == tuple(found.queries)
    with pytest.raises(StorageError, match=r"items\.jsonl is there already"):
        write_composed(found, tmp_path / "out")
    write_composed(found, tmp_path / "out", overwrite=True)
    assert isinstance(found.items[0], Item)


@pytest.fixture
def samples():
    """A folder of records as published: cirr.cap.rc2.val.sample.json and of FashionIQ's dresses."""
    if SAMPLES not in os.environ:
        pytest.skip(f"{SAMPLES} names no folder with records as published")
    return Path(os.environ[SAMPLES])


def test_published_records_of_cirr(samples, tmp_path):
    records = json.loads((samples / "cirr.cap.rc2.val.sample.json").read_text())
    names = {name for record in records for name in record["img_set"]["members"]}
    dump(tmp_path / "split.rc2.val.json", {name: f"./dev/{name}.png" for name in sorted(names)})
    dump(tmp_path / "cap.rc2.val.json", records)
    (tmp_path / "dev").mkdir()
    for name in names:
        (tmp_path / "dev" / f"{name}.png").touch()
    found = read_cirr(tmp_path, tmp_path)
    assert len(found.queries) == len(records)
    for query, record in zip(found.queries, records, strict=True):
        assert query.relevant == {record["target_hard"]}
        assert len(query.subset) == 5
        assert query.subset | {query.reference} == set(record["img_set"]["members"])


def test_published_records_of_fashioniq(samples, tmp_path):
    records = json.loads((samples / "fashioniq.cap.dress.val.sample.json").read_text())
    names = sorted({record[field] for record in records for field in ("candidate", "target")})
    dump(tmp_path / "split.dress.val.json", names)
    dump(tmp_path / "cap.dress.val.json", records)
    for name in names:
        (tmp_path / f"{name}.jpg").touch()
    found = read_fashioniq(tmp_path, tmp_path, categories=["dress"])
    assert len(found.queries) == len(records)
    assert found.queries[0].query.text == (
        "is shiny and silver with shorter sleeves and fit and flare"
    )
    assert all(" and " in query.query.text for query in found.queries)
