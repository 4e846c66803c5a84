"""`genmm embed`: vectors of a contrastive encoder, taken up and taken away."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from genmm_retriever import Item
from genmm_retriever.corpus.store import IdentifierRecord, IndexSettings, IndexWriter


@pytest.fixture
def index(tmp_path):
    path = tmp_path / "it.genmm"
    with IndexWriter.create(path, IndexSettings(model="none", model_fingerprint="f")) as writer:
        writer.stage_items([Item(id=f"t{n}", text=f"A bus {n}") for n in range(7)])
        rows = writer.pending("identifiers")
        writer.put_identifiers([IdentifierRecord(r, f"a, {r}", (r + 5, 0)) for r in rows])
        writer.publish()
    return path


def test_the_command(genmm, index, tiny_clip):
    folder = tiny_clip("clip")
    code, out, err = genmm("embed", index, "--model", folder, "--device", "cpu")
    assert code == 0, err
    assert out.strip() == f"7 of 7 items embedded now by {folder}"
    assert "contrastive" in genmm("info", index)[1]
    assert str(folder) in genmm("info", index, "--json")[1]
    code, out, err = genmm("embed", index, "--drop", "--json")
    assert code == 0, err
    assert '"encoder": null' in out
    code, out, err = genmm("embed", index)
    assert code == 2
    assert "embed wants one of --model and --drop" in err
    code, out, err = genmm("embed", index / "no", "--model", folder)
    assert code == 2
    assert "no index" in err


def test_a_search_without_them(genmm, index):
    for name in ("search", "ask", "eval", "serve", "mcp"):
        assert "--no-vectors" in genmm(name, "--help")[1]
