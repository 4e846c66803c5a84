from __future__ import annotations

import sqlite3
from pathlib import Path

import numpy as np
import pytest

from genmm_retriever.corpus.store import (
    Description,
    IdentifierRecord,
    IndexReader,
    IndexSettings,
    IndexWriter,
    check_index,
    is_index_folder,
)
from genmm_retriever.corpus.store import features as features
from genmm_retriever.corpus.store import reader as store_reader
from genmm_retriever.corpus.store.lock import WriterLock
from genmm_retriever.errors import (
    DuplicateIdError,
    IndexDamagedError,
    IndexLockedError,
    IndexNotFoundError,
    IndexStateError,
    InputError,
    QueryError,
)
from genmm_retriever.schema import Item


def ids(reader):
    return [item.id for item in reader.items(reader.live_rows())]


def test_what_is_put_is_read(index, builder):
    with IndexReader.open(index) as reader:
        assert len(reader) == 24
        assert reader.counts() == {"items": 24, "images": 12, "texts": 12, "identifiers": 48}
        assert reader.generation == 1
        assert reader.settings == builder.SETTINGS
        assert ids(reader) == [f"i{n}" for n in range(24)]
        assert reader.row("i7") == 7
        assert reader.row("absent") is None
        assert reader.item(3) == builder.item(3)
        features = reader.features([4, 2])
        assert features.dtype == np.float16
        assert np.array_equal(features, [builder.feature(4), builder.feature(2)])
        assert reader.features([4, 3]) is None
        assert reader.descriptions([5]) == [[Description("seen 5", "model")]]
        assert reader.identifiers_of([9, 0]) == [
            ["group, 9, 0", "group, 9, 1"],
            ["group, 0, 0", "group, 0, 1"],
        ]
        assert reader.array("tokens").shape == (48, 3)
        assert reader.json("scheme") == {"clusters": ["group"]}
        with pytest.raises(InputError, match="no array 'none'"):
            reader.array("none")
        with pytest.raises(InputError, match="no document 'none'"):
            reader.json("none")
        with pytest.raises(InputError, match="no row 99"):
            reader.item(99)
    assert check_index(index) == []
    assert not (index / "staging").exists()


def test_blobs_are_pictures_of_the_index(index, builder):
    with IndexReader.open(index) as reader:
        path = reader.item(2).image
    assert path.startswith(str(index))
    assert Path(path).read_bytes() == builder.item(2).image


def test_other_software_reads_the_arrays(index):
    safetensors = pytest.importorskip("safetensors.numpy")
    features = np.load(index / "features" / "seg-000001.npy", mmap_mode="r")
    assert features.shape == (12, 4, 8)
    with IndexReader.open(index) as reader:
        for file in ("000001-", "000001-fixed%2fpart"):
            found = safetensors.load_file(index / "arrays" / f"{file}.safetensors")
            assert found
            for name, array in found.items():
                assert np.array_equal(array, reader.array(name))


@pytest.mark.parametrize(
    "dtype", ["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u2", "?", ">i4"]
)
def test_arrays_of_every_type_and_form(tmp_path, builder, dtype):
    arrays = {
        "empty": np.zeros((0, 3), dtype),
        "scalar": np.ones((), dtype),
        "trie/edges": np.arange(6).astype(dtype).reshape(2, 3)[:, ::2],
        "bytes": np.arange(3, dtype="u1"),
    }
    with IndexWriter.create(tmp_path / "x", builder.SETTINGS) as writer:
        for name, array in arrays.items():
            writer.put_array(name, array)
        writer.publish()
        with pytest.raises(InputError, match="type"):
            writer.put_array("objects", np.array(["text"]))
        with pytest.raises(InputError, match="no name"):
            writer.put_array("a b", np.zeros(1))
    with IndexReader.open(tmp_path / "x") as reader:
        assert reader.arrays() == sorted(arrays)
        for name, array in arrays.items():
            assert np.array_equal(reader.array(name), array)
            assert reader.array(name).shape == array.shape
        reader.array("bytes")[0] = 9
    assert check_index(tmp_path / "x") == []


def test_fields_that_no_item_has(tmp_path, builder):
    many = {f"f{n:02}": n for n in range(20)}
    with IndexWriter.create(tmp_path / "x", builder.SETTINGS) as writer:
        writer.stage_items([Item(id="0", text="t", metadata=many), Item(id="1", text="t")])
        writer.publish(require=None)
    with IndexReader.open(tmp_path / "x") as reader:
        reader.check_fields({})
        reader.check_fields({"f00": 7, "f19": 8})
        with pytest.raises(QueryError, match="'f20'") as caught:
            reader.check_fields({"f00": 7, "f20": 8})
    assert caught.value.hint == "there are f00, f01, f02, f03, f04, f05, f06, f07, ..."


def test_an_index_without_items_or_without_metadata(tmp_path, builder):
    with IndexWriter.create(tmp_path / "x", builder.SETTINGS) as writer:
        writer.stage_items([Item(id="0", text="t")])
        writer.publish(require=None)
    with IndexReader.open(tmp_path / "x") as reader, pytest.raises(QueryError, match="any meta"):
        reader.check_fields({"year": 2013})
    with IndexWriter.open(tmp_path / "x") as writer:
        writer.delete(["0"])
        writer.publish(require=None)
    with IndexReader.open(tmp_path / "x") as reader:
        reader.check_fields({"year": 2013})


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"year": "2013"}, 'holds numbers such as 2013; a filter asks for "2013"'),
        ({"name": 7}, 'holds texts such as "7"; a filter asks for 7'),
        ({"seen": "true"}, 'holds true; a filter asks for "true"'),
        ({"year": True}, "holds numbers such as 2013; a filter asks for true"),
        ({"mixed": False}, 'holds texts such as "a" and numbers such as -1.5; a filter'),
    ],
)
def test_a_filter_of_a_kind_that_a_field_never_has(tmp_path, builder, asked, told):
    metadata = {"year": 2013, "name": "7", "seen": True, "mixed": ["a", -1.5], "none": None}
    with IndexWriter.create(tmp_path / "x", builder.SETTINGS) as writer:
        writer.stage_items([Item(id="0", text="t", metadata=metadata)])
        writer.publish(require=None)
    with IndexReader.open(tmp_path / "x") as reader:
        with pytest.raises(QueryError, match="field") as caught:
            reader.check_fields(asked)
        assert told in str(caught.value)
        for fits in (
            {"year": 1999.5, "name": "8", "seen": False, "mixed": "b", "none": 1},
            {"year": None, "name": [7, "7"], "mixed": [], "seen": [True, "x"]},
            {"year": [None, True], "name": [None, 7]},
        ):
            reader.check_fields(fits)


def test_select(tmp_path, builder):
    metadata = [
        {"year": 2013, "tags": ["a", "b"]},
        {"year": 2014.0, "tags": ["b"]},
        {"year": True},
        {"year": "2013", "tags": None},
    ]
    items = [Item(id=str(n), text="t", metadata=m) for n, m in enumerate(metadata)]
    with IndexWriter.create(tmp_path / "x", builder.SETTINGS) as writer:
        writer.stage_items([*items, Item(id="p", image="p.png")])
        writer.publish(require=None)
    with IndexReader.open(tmp_path / "x") as reader:

        def select(filters, kind=None):
            return reader.select(filters, kind).tolist()

        assert reader.select({}, None) is None
        assert reader.select({}, "text").dtype == np.int64
        assert select({}, "image") == [4]
        assert select({"year": 2013.0}) == [0]
        assert select({"year": 1}) == []
        assert select({"year": True}) == [2]
        assert select({"year": ["2013", 2014]}) == [1, 3]
        assert select({"tags": "b"}) == [0, 1]
        assert select({"tags": ["a", "c"]}) == [0]
        assert select({"tags": "b", "year": 2013}, "text") == [0]
        assert select({"tags": None}) == [3]
        assert select({"tags": []}) == []
        assert select({"absent": 1}) == []


def test_select_by_ids(tmp_path, builder):
    names = [f"i{n}" for n in range(1200)]
    items = [Item(id=name, text="t", metadata={"odd": n % 2}) for n, name in enumerate(names)]
    with IndexWriter.create(tmp_path / "x", builder.SETTINGS) as writer:
        writer.stage_items([*items, Item(id="p", image="p.png")])
        writer.publish(require=None)
    with IndexReader.open(tmp_path / "x") as reader:

        def select(ids, **conditions):
            return reader.select(**conditions, ids=ids).tolist()

        assert reader.select(ids=()).dtype == np.int64
        assert select(()) == []
        assert select(["i7", "i2", "i7"]) == [2, 7]
        # More than one statement takes, and more than there are.
        assert select([*reversed(names), "p", *(f"x{n}" for n in range(1000))]) == [*range(1201)]
        assert select(["absent", "caf\udce9", "i3' OR '1'='1"]) == []
        assert select(["i1", "i2", "i3", "p"], filters={"odd": 1}) == [1, 3]
        assert select(["i1", "p"], kind="image") == [1200]
        assert select(["i1"], kind="image") == []


def test_select_by_more_values_than_a_statement_takes(tmp_path, builder):
    items = [
        Item(id=str(n), text="t", metadata={"n": n, "name": f"v{n}", "tags": ["all", n % 2]})
        for n in range(1200)
    ]
    with IndexWriter.create(tmp_path / "x", builder.SETTINGS) as writer:
        writer.stage_items([*items, Item(id="p", image="p.png", metadata={"n": 3})])
        writer.publish(require=None)
    with IndexReader.open(tmp_path / "x") as reader:
        if hasattr(sqlite3.Connection, "setlimit"):
            # What SQLite takes where it was built without more.
            limit = sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER
            reader._tables.connection.setlimit(limit, 32_766)

        def select(filters, **conditions):
            found = reader.select(filters, **conditions)
            assert found.dtype == np.int64
            return found.tolist()

        others = [f"x{n}" for n in range(39_998)]
        one = [*others[:20_000], "v7", *others[20_000:], "v7"]
        assert select({"name": one}) == [7]
        assert select({"name": one, "n": 7}) == [7]
        assert select({"name": one, "n": 8}) == []
        assert select({"name": others}) == []
        assert select({"name": others, "tags": "all"}) == []
        many = [f"v{n}" for n in reversed(range(40_000))]
        assert select({"name": many}) == [*range(1200)]
        assert select({"name": many, "tags": 1}) == [*range(1, 1200, 2)]
        assert select({"name": many, "tags": ["all", *range(40_000)]}) == [*range(1200)]
        assert select({"name": many, "n": [*range(1100, 41_100)]}) == [*range(1100, 1200)]
        assert select({"n": [*range(40_000)]}, kind="image") == [1200]
        assert select({"n": [*range(40_000)]}, ids=["p", "3", "absent"]) == [3, 1200]


def test_staging_is_invisible_until_published(index, builder):
    with IndexReader.open(index) as reader:
        with IndexWriter.open(index) as writer:
            report = writer.stage_items([builder.item(40), builder.item(3)])
            assert (report.added, report.replaced, report.unchanged) == (1, 0, 1)
            assert writer.pending("identifiers") == [24]
            assert writer.publish() == 2  # the item is not complete: it stays staged
            assert writer.pending("identifiers") == [24]
        assert reader.is_stale()
        assert len(reader) == 24
    with IndexWriter.open(index) as writer:
        assert writer.pending("identifiers") == [24]
        builder.fill(writer)
        assert writer.publish() == 3
    with IndexReader.open(index) as reader:
        assert not reader.is_stale()
        assert ids(reader)[-1] == "i40"
        assert np.array_equal(reader.features([24, 0]), [builder.feature(24), builder.feature(0)])
    assert not (index / "staging").exists()


def test_repeating_a_build_changes_nothing(index, builder):
    before = {
        p: p.read_bytes() for p in index.rglob("*") if p.is_file() and p.name != "writer.lock"
    }
    builder.build(index)
    after = {p: p.read_bytes() for p in index.rglob("*") if p.is_file() and p.name != "writer.lock"}
    assert before == after


def test_a_replaced_item_is_served_until_its_successor_is_complete(index, builder):
    with IndexWriter.open(index) as writer:
        report = writer.stage_items([builder.item(3, version=1)], replace=True)
        assert report.replaced == 1
        writer.publish()
        with IndexReader.open(index) as reader:
            assert reader.row("i3") == 3
        assert 3 in writer.live_rows()
        builder.fill(writer)
        assert 3 not in writer.live_rows()
        writer.publish()
    with IndexReader.open(index) as reader:
        assert reader.row("i3") == 24
        assert reader.item(24).text == "text 3 1"
        assert len(reader) == 24
        with pytest.raises(InputError, match="no row 3"):
            reader.item(3)
        assert reader.select({"version": 1}).tolist() == [24]


def test_delete_then_read(index, builder):
    with IndexWriter.open(index) as writer:
        with pytest.raises(InputError, match="no item 'typo'"):
            writer.delete(["i1", "typo"])
        assert writer.delete(["i1", "i2", "i1"]) == 2
        writer.publish()
    with IndexReader.open(index) as reader:
        assert len(reader) == 22
        assert reader.row("i1") is None
        assert 1 not in reader.live_rows()
        assert 1 not in reader.select({"group": 1})
        assert reader.identifiers_of([1, 3])[0] == []
    with IndexWriter.open(index) as writer:
        writer.stage_items([builder.item(1)])
        assert writer.pending("identifiers") == [24]  # rows are never given twice
        writer.delete("i1")
        assert writer.pending("identifiers") == []


def test_duplicates_are_named_and_nothing_is_kept(tmp_path, builder):
    twice = [Item(id="a", text="one"), Item(id="b", text="x"), Item(id="a", image="two.png")]
    with IndexWriter.create(tmp_path / "x", builder.SETTINGS) as writer:
        with pytest.raises(DuplicateIdError, match=r"'a': number 1 \('one'\) and number 3 \(two"):
            writer.stage_items(twice)
        assert writer.pending("identifiers") == []
        writer.stage_items(twice[:2])
        with pytest.raises(DuplicateIdError, match=r"has 'one', the source gives two\.png"):
            writer.stage_items(twice[2:])
        assert writer.stage_items(twice[2:], replace=True).replaced == 1
        other = Item(id="b", text=twice[1].text, metadata={"year": 2012})
        with pytest.raises(DuplicateIdError, match=f"the metadata of '{twice[1].text}' is not"):
            writer.stage_items([other])


@pytest.mark.parametrize(
    "error",
    [
        sqlite3.DatabaseError("the user's own database"),
        sqlite3.OperationalError("no such table: items"),
        FileNotFoundError(2, "No such file", "the user's own file"),
        ValueError("line 7"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_of_the_source_come_out_as_they_are(index, builder, error):
    def broken():
        yield builder.item(40)
        raise error

    with IndexWriter.open(index) as writer:
        with pytest.raises(type(error)) as caught:
            writer.stage_items(broken())
        assert caught.value is error
        assert writer.pending("identifiers") == []
        assert writer.publish() == 1
        assert writer.stage_items([builder.item(40)]).added == 1


def test_skipped_items_are_remembered_and_tried_again_when_mended(tmp_path, builder):
    picture = tmp_path / "p.png"
    picture.write_bytes(b"broken")
    item = Item(id="p", image=str(picture))
    with IndexWriter.create(tmp_path / "x", builder.SETTINGS) as writer:
        writer.stage_items([item, Item(id="t", text="t")])
        writer.skip(0, "p.png is broken")
        assert writer.pending("features") == []
        builder.fill(writer)
        writer.publish()
    with IndexReader.open(tmp_path / "x") as reader:
        assert ids(reader) == ["t"]
        assert reader.skipped() == [("p", "p.png is broken")]
    with IndexWriter.create(tmp_path / "x", builder.SETTINGS) as writer:
        assert writer.stage_items([item]).left_out == 1
        assert writer.skipped() == [("p", "p.png is broken")]
        picture.write_bytes(b"mended picture")
        assert writer.stage_items([item]).added == 1
        assert writer.skipped() == []
        assert writer.pending("features") == [2]


def test_a_changed_picture_file_counts_as_another_picture(tmp_path, builder):
    picture = tmp_path / "p.png"
    picture.write_bytes(b"one")
    item = Item(id="p", image=str(picture))
    with IndexWriter.create(tmp_path / "x", builder.SETTINGS) as writer:
        writer.stage_items([item])
        picture.write_bytes(b"another")
        assert writer.stage_items([item]).unchanged == 1
        assert writer.stage_items([item], replace=True).replaced == 1
        assert writer.pending("features") == [1]


def test_relative_paths_and_data_uris(tmp_path, builder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with IndexWriter.create("x", builder.SETTINGS) as writer:
        writer.stage_items(
            [
                Item(id="a", image="sub/../a.png"),
                Item(id="d", image="data:text/plain;base64,aGk="),
                Item(id="m", image="data:broken"),
                Item(id="w", image="http://example.org/a.png"),
            ]
        )
        a, d, m, w = writer.items([0, 1, 2, 3])
    assert a.image == str(tmp_path / "a.png")
    assert Path(d.image).read_bytes() == b"hi"
    assert (m.image, w.image) == ("data:broken", "http://example.org/a.png")


def test_settings_that_differ_are_named(index, builder):
    other = IndexSettings(model="m", model_fingerprint="g", seed=3)
    with pytest.raises(InputError, match="model_fingerprint: 'f' -> 'g', seed: 0 -> 3"):
        IndexWriter.create(index, other)
    with IndexReader.open(index) as old:
        with IndexWriter.create(index, other, overwrite=True) as writer:
            assert writer.pending("identifiers") == []
            writer.stage_items([builder.item(1)])
        with pytest.raises(IndexStateError, match="being built anew"):
            IndexWriter.open(index)
        with IndexReader.open(index) as present:
            assert len(present) == 24  # served until the new one is there
        with IndexWriter.create(index, other) as writer:
            assert writer.pending("identifiers") == [0]
            builder.fill(writer)
            assert writer.publish() == 2
        assert old.is_stale()
        assert old.item(5).id == "i5"
    with IndexReader.open(index) as reader:
        assert ids(reader) == ["i1"]
        assert reader.settings == other
    assert check_index(index) == []


def test_foreign_folders_are_never_touched(tmp_path, builder):
    (tmp_path / "manifest.json").write_text('{"name": "my web page"}')
    for overwrite in (False, True):
        with pytest.raises(InputError, match="not empty and is not an index"):
            IndexWriter.create(tmp_path, builder.SETTINGS, overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]
    with pytest.raises(IndexNotFoundError, match="is not an index"):
        IndexReader.open(tmp_path)
    with pytest.raises(InputError, match="is a file"):
        IndexWriter.create(tmp_path / "manifest.json", builder.SETTINGS)


def test_absent_and_unfinished_indexes(tmp_path, builder):
    with pytest.raises(IndexNotFoundError, match="no index at"):
        IndexReader.open(tmp_path / "x")
    with pytest.raises(IndexNotFoundError):
        IndexWriter.open(tmp_path / "x")
    assert not (tmp_path / "x").exists()
    IndexWriter.create(tmp_path / "x", builder.SETTINGS).close()
    assert is_index_folder(tmp_path / "x")
    for opener in (IndexReader.open, IndexWriter.open, check_index):
        with pytest.raises(IndexNotFoundError, match="took nothing in"):
            opener(tmp_path / "x")
    with IndexWriter.create(tmp_path / "x", builder.SETTINGS) as writer:
        writer.stage_items([Item(id="a", text="words")])
    for opener in (IndexReader.open, IndexWriter.open, check_index):
        with pytest.raises(IndexNotFoundError, match="is unfinished"):
            opener(tmp_path / "x")


def test_one_writer_at_a_time(index, builder):
    with IndexWriter.open(index):
        with pytest.raises(IndexLockedError, match=r"process \d+"):
            IndexWriter.open(index)
        with pytest.raises(IndexLockedError):
            IndexWriter.create(index, builder.SETTINGS, overwrite=True)
        with pytest.raises(IndexLockedError, match=r"^it is being trained by process \d+"):
            WriterLock(index, busy="it is being trained")
    with IndexWriter.open(index) as writer, pytest.raises(InputError, match="the ids are None"):
        writer.delete(None)


def test_features_are_checked(tmp_path, builder):
    with IndexWriter.create(tmp_path / "x", builder.SETTINGS) as writer:
        writer.stage_items([Item(id="a", image="a.png"), Item(id="b", image="b.png")])
        assert writer.features([0]) is None
        for rows, array, match in [
            ([0], np.zeros((2, 3)), "shape"),
            ([0], np.zeros(1), "shape"),
            ([7], np.zeros((1, 3)), "no row 7"),
            ([0], np.full((1, 3), np.nan), "finite"),
            ([0], np.full((1, 3), 1e6), "finite"),
        ]:
            with pytest.raises(InputError, match=match):
                writer.put_features(rows, array)
        writer.put_features([0], np.ones((1, 3)))
        with pytest.raises(InputError, match="shape"):
            writer.put_features([1], np.ones((1, 4)))
        writer.put_features([0], np.zeros((1, 3)))
        assert not writer.features([0]).any()
        assert writer.pending("features") == [1]


def test_identifiers_are_replaced_and_cleared(tmp_path, builder):
    with IndexWriter.create(tmp_path / "x", builder.SETTINGS) as writer:
        writer.stage_items([Item(id="a", text="a"), Item(id="b", text="b")])
        writer.put_identifiers([IdentifierRecord(0, "one", (1, 2)), IdentifierRecord(1, "x", (3,))])
        writer.put_identifiers([IdentifierRecord(0, "two", (4,), (-0.5,))])
        assert writer.identifiers([0]) == [IdentifierRecord(0, "two", (4,), (-0.5,))]
        assert [r.text for r in writer.identifiers()] == ["two", "x"]
        writer.clear_identifiers([1])
        assert writer.pending("identifiers") == [1]
        writer.clear_identifiers()
        assert writer.identifiers() == []


def test_many_additions_keep_few_segments(tmp_path, builder, monkeypatch):
    monkeypatch.setattr(features, "_COMPACT_AT", 4)
    for n in range(0, 20, 2):
        with IndexWriter.create(tmp_path / "x", builder.SETTINGS) as writer:
            writer.stage_items([builder.item(n)])
            builder.fill(writer)
            writer.publish()
    assert len(list((tmp_path / "x" / "features").iterdir())) <= 7
    assert len(list((tmp_path / "x" / "generations").iterdir())) == 2
    with IndexReader.open(tmp_path / "x") as reader:
        rows = reader.live_rows()
        assert len(rows) == 10
        assert np.array_equal(reader.features(rows), [builder.feature(row) for row in rows])
    assert check_index(tmp_path / "x") == []


@pytest.mark.parametrize(
    ("step", "before"),
    [
        ("connect_readonly", True),
        ("connect_readonly", False),
        ("_map_containers", True),
        ("_map_containers", False),
        ("_map_segments", True),
        ("map_segment", True),
        ("map_segment", False),
    ],
)
def test_a_reader_that_publications_overtake_opens_the_newest(
    index, builder, monkeypatch, step, before
):
    """Whatever was looked at already, the files of a generation may go at any moment."""
    original = getattr(store_reader, step)
    versions = iter((1, 2))

    def overtaken(*arguments):
        found = None if before else original(*arguments)
        for version in versions:
            with IndexWriter.open(index) as writer:
                writer.stage_items((builder.item(n, version) for n in range(24)), replace=True)
                builder.fill(writer, batch=24)
                writer.publish()
        return original(*arguments) if before else found

    monkeypatch.setattr(store_reader, step, overtaken)
    with IndexReader.open(index) as reader:
        rows = reader.live_rows()
        assert reader.array("live/rows").tolist() == rows.tolist()
        [version] = {item.metadata["version"] for item in reader.items(rows)}
        assert (reader.generation, version) == (3, 2)
        pictures = reader.select({}, "image")
        wanted = [builder.feature(row) for row in pictures]
        assert np.array_equal(reader.features(pictures), wanted)


def test_an_old_reader_says_that_a_deleted_picture_is_gone(index):
    def delete(name):
        with IndexWriter.open(index) as writer:
            writer.delete([name])
            writer.publish()

    with IndexReader.open(index) as reader:
        delete("i2")
        assert reader.item(0).id == "i0"
        delete("i4")
        with pytest.raises(IndexStateError, match="open the index again") as caught:
            reader.item(2)
        assert not isinstance(caught.value, IndexDamagedError)
        assert [item.id for item in reader.items([0, 3, 4, 6])] == ["i0", "i3", "i4", "i6"]
    with IndexReader.open(index) as reader:
        assert reader.row("i2") is None
    assert check_index(index) == []


def test_what_nothing_uses_is_removed(index, builder):
    images = [f"i{n}" for n in range(0, 24, 2)]
    with IndexWriter.open(index) as writer:
        writer.delete(images)
        writer.publish()
        assert len(list((index / "blobs").iterdir())) == 12  # the generation before has them
        for n in (40, 41):
            writer.stage_items([Item(id=str(n), text="t")])
            builder.fill(writer)
            writer.publish()
    assert list((index / "blobs").iterdir()) == []
    assert list((index / "features").iterdir()) == []
