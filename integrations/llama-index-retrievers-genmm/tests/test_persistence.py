from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from genmm_retriever.errors import IndexDamagedError, IndexNotFoundError, StorageError
from genmm_retriever.schema import Item
from keyword_core import KeywordCore
from llama_index.retrievers.genmm import GenerativeMMRetriever
from llama_index.retrievers.genmm.persistence import load, save


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """Files laid out as in an index folder."""
    folder = tmp_path / "shop"
    (folder / "generations" / "000001").mkdir(parents=True)
    (folder / "generations" / "000001" / "items.sqlite").write_bytes(b"items")
    (folder / "manifest.json").write_text('{"generation": 1}')
    (folder / "writer.lock").write_text("")
    return folder


def test_persist_copies_the_index_and_keeps_the_configuration(
    items: list[Item], index: Path, tmp_path: Path
) -> None:
    core = KeywordCore(items, path=index)
    retriever = GenerativeMMRetriever(
        core, similarity_top_k=4, filters={"year": [2010]}, kind="image", verify="off",
        node_type="image",
    )  # fmt: skip
    retriever.persist(tmp_path / "kept")
    retriever.persist(tmp_path / "kept")
    shutil.rmtree(index)
    folder, settings = load(tmp_path / "kept")
    assert settings == {
        "similarity_top_k": 4,
        "filters": {"year": [2010]},
        "kind": "image",
        "verify": "off",
        "node_type": "image",
        "verbose": False,
    }
    assert (folder / "generations" / "000001" / "items.sqlite").read_bytes() == b"items"
    assert not (folder / "writer.lock").exists()
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == [
        "index",
        "retriever.json",
    ]
    again = GenerativeMMRetriever(core, **settings)
    assert [n.node_id for n in again.retrieve("cat")] == [
        n.node_id for n in retriever.retrieve("cat")
    ]


def test_persist_into_the_index_itself_writes_only_the_settings(index: Path) -> None:
    save(index, index, {"similarity_top_k": 1})
    assert load(index)[0].resolve() == index.resolve()
    assert not (index / "index").exists()


def test_persist_over_the_copy_that_is_open(index: Path, tmp_path: Path) -> None:
    save(tmp_path / "kept", index, {"similarity_top_k": 1})
    save(tmp_path / "kept", tmp_path / "kept" / "index", {"similarity_top_k": 2})
    folder, settings = load(tmp_path / "kept")
    assert settings == {"similarity_top_k": 2}
    assert (folder / "manifest.json").is_file()


def test_persist_replaces_an_older_copy(index: Path, tmp_path: Path) -> None:
    save(tmp_path / "kept", index, {})
    (index / "manifest.json").write_text('{"generation": 2}')
    save(tmp_path / "kept", index, {})
    assert json.loads((tmp_path / "kept" / "index" / "manifest.json").read_text()) == {
        "generation": 2
    }


def test_persist_never_deletes_what_is_no_index(index: Path, tmp_path: Path) -> None:
    (tmp_path / "kept" / "index").mkdir(parents=True)
    (tmp_path / "kept" / "index" / "thesis.txt").write_text("mine")
    with pytest.raises(StorageError, match="is no index"):
        save(tmp_path / "kept", index, {})
    assert (tmp_path / "kept" / "index" / "thesis.txt").read_text() == "mine"


def test_persist_needs_an_index_and_a_place(index: Path, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no index on disk"):
        save(tmp_path / "kept", None, {})
    with pytest.raises(StorageError, match="lies inside the index"):
        save(index / "kept", index, {})
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"):
        save(tmp_path / "file", index, {})


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"version": 2, "index": ".", "settings": {}}',
             '{"version": 1, "index": "../../etc", "settings": {}}']
)  # fmt: skip
def test_damaged_settings_are_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "retriever.json").write_text(text)
    with pytest.raises(IndexDamagedError, match=r"retriever\.json cannot be read"):
        load(tmp_path)


def test_nothing_persisted(tmp_path: Path) -> None:
    with pytest.raises(IndexNotFoundError, match=r"no retriever\.json"):
        GenerativeMMRetriever.from_persist_dir(tmp_path)
