"""The trie and the look-up of an index over additions, deletions and reopening."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from genmm_retriever.constraints.keeping import (
    TRIE_PREFIX,
    identifiers_starting_with,
    read_trie,
    write_trie,
)
from genmm_retriever.constraints.trie import TokenTrie
from genmm_retriever.corpus.store import (
    Description,
    IdentifierRecord,
    IndexReader,
    IndexSettings,
    IndexWriter,
)
from genmm_retriever.corpus.store.staged import Arrays
from genmm_retriever.schema import Item

EOS = 0
SETTINGS = IndexSettings(model="m", model_fingerprint="f", identifiers="structured")


def tokens_of(text: str) -> tuple[int, ...]:
    return (*text.encode(), EOS)


def add(path: Path, names: list[str], *, replace: bool = False, lose: bool = False) -> None:
    """Add text items, each with two identifiers made of its name."""
    finished = (path / "manifest.json").is_file()
    with IndexWriter.open(path) if finished else IndexWriter.create(path, SETTINGS) as writer:
        items = [Item(id=name.partition("=")[0], text=name) for name in names]
        writer.stage_items(items, replace=replace)
        rows = writer.pending("descriptions")
        writer.put_descriptions(
            {
                row: [Description(item.text or "", "text")]
                for row, item in zip(rows, writer.items(rows), strict=True)
            }
        )
        changed = writer.pending("identifiers")
        for row, item in zip(changed, writer.items(changed), strict=True):
            texts = [f"the {item.text}", f"a {item.text}"]
            writer.put_identifiers(
                [
                    IdentifierRecord(row, text, tokens_of(text), (-0.5,) * len(tokens_of(text)))
                    for text in texts
                ]
            )
        if lose:
            return
        write_trie(writer, changed)
        writer.publish()


def delete(path: Path, names: list[str]) -> None:
    with IndexWriter.open(path) as writer:
        writer.delete(names)
        writer.publish()


def assert_has(path: Path, names: list[str]) -> None:
    """The trie and the look-up know these items and no other."""
    with IndexReader.open(path) as reader:
        trie = read_trie(reader)
        ids = {row: reader.item(row).id for row in reader.live_rows().tolist()}
        left = trie.completions(trie.start(1))
        found = {
            bytes(tail[:-1]).decode(): [ids[row] for row in items]
            for tail, items in zip(left.tails, left.items, strict=True)
        }
        wanted = {f"{w} {n}": [n.partition("=")[0]] for n in names for w in ("the", "a")}
        assert found == wanted
        assert dict(identifiers_starting_with(reader, "")) == wanted
        articles = identifiers_starting_with(reader, "the ")
        assert dict(articles) == {t: i for t, i in wanted.items() if t.startswith("the ")}
        assert identifiers_starting_with(reader, "the ", 2) == articles[:2]
        assert identifiers_starting_with(reader, "", 0) == []


def files(path: Path, group: str) -> list[str]:
    return [file.name for file in sorted((path / "arrays").glob(f"*{group}*"))]


def test_additions_go_to_the_overlay_until_they_are_many(tmp_path: Path) -> None:
    path = tmp_path / "index"
    names = [f"item {n}" for n in range(24)]
    add(path, names)
    assert_has(path, names)
    base = files(path, "base")
    assert len(base) == 1
    for name in ("cat", "dog"):
        names.append(name)
        add(path, [name])
        assert_has(path, names)
        assert files(path, "base") == base
        with IndexReader.open(path) as reader:
            assert f"{TRIE_PREFIX}overlay/twin" in reader.arrays()
            assert "identifiers/added/lookup" in reader.arrays()
    more = [f"more {n}" for n in range(6)]
    add(path, more)
    assert_has(path, names + more)
    with IndexReader.open(path) as reader:
        assert not [name for name in reader.arrays() if "overlay" in name or "added" in name]


def test_deleted_and_replaced_items_are_not_found(tmp_path: Path) -> None:
    path = tmp_path / "index"
    names = [f"item {n}" for n in range(24)]
    add(path, [*names, "kept=one"])
    delete(path, ["item 3"])
    names.remove("item 3")
    assert_has(path, [*names, "kept=one"])
    add(path, ["kept=two"], replace=True)
    assert_has(path, [*names, "kept=two"])
    delete(path, ["kept"])
    assert_has(path, names)
    add(path, ["cat"])
    assert_has(path, [*names, "cat"])


def test_an_interrupted_addition_is_found_later(tmp_path: Path) -> None:
    path = tmp_path / "index"
    names = [f"item {n}" for n in range(20)]
    add(path, names)
    add(path, ["cat"], lose=True)
    assert_has(path, names)
    add(path, ["dog"])
    assert_has(path, [*names, "cat", "dog"])


@pytest.mark.parametrize("fails", [1, 2])
def test_an_addition_that_breaks_off_while_the_trie_is_staged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: int
) -> None:
    """The trie stays whole at whichever of its groups that happens."""
    path = tmp_path / "index"
    names = [f"item {n}" for n in range(20)]
    more = [f"more {n}" for n in range(9)]
    add(path, names)
    written: list[object] = []
    original = Arrays._write

    def breaking(self: Arrays, *values: Any) -> Any:
        written.append(values)
        if len(written) == fails:
            raise KeyboardInterrupt
        return original(self, *values)

    with monkeypatch.context() as patched:
        patched.setattr(Arrays, "_write", breaking)
        with pytest.raises(KeyboardInterrupt):
            # So many that base and overlay are merged, and their groups written anew.
            add(path, more)
    assert_has(path, names)
    with IndexWriter.open(path) as writer:
        TokenTrie.from_arrays(writer.arrays_under(TRIE_PREFIX))
    add(path, ["dog"])
    assert_has(path, [*names, *more, "dog"])


def test_changed_identifiers_of_a_row_replace_the_old(tmp_path: Path) -> None:
    path = tmp_path / "index"
    add(path, [f"item {n}" for n in range(12)])
    with IndexWriter.open(path) as writer:
        row = int(writer.live_rows()[4])
        writer.clear_identifiers([row])
        writer.put_identifiers([IdentifierRecord(row, "new", tokens_of("new"), (0.0,) * 4)])
        trie = write_trie(writer, [row])
        writer.publish()
    assert tokens_of("new") in trie.sequences()
    assert tokens_of("the item 4") not in trie.sequences()
    with IndexReader.open(path) as reader:
        assert identifiers_starting_with(reader, "new") == [("new", ["item 4"])]
        assert identifiers_starting_with(reader, "the item 4") == []


@pytest.mark.parametrize("count", [1, 2])
def test_a_tiny_index(tmp_path: Path, count: int) -> None:
    path = tmp_path / "index"
    add(path, ["one", "two"][:count])
    assert_has(path, ["one", "two"][:count])
    add(path, ["three"])
    assert_has(path, [*["one", "two"][:count], "three"])
