from __future__ import annotations

import errno
import json
import os

import pytest
from PIL import Image
from pydantic import ValidationError

from genmm_retriever.corpus.images import open_image
from genmm_retriever.corpus.lines import iter_jsonl
from genmm_retriever.corpus.readers import read_sources
from genmm_retriever.errors import EmptyCorpusError, InputError, SourceError
from genmm_retriever.schema import Item, Query


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (2, 2)).save(path)
    return path


def lines(path, *records):
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in records))
    return path


def test_folder_is_recursive_sorted_and_passes_over_the_rest(tmp_path):
    for name in ("b.png", "sub/a.JPG", "a.webp", ".hidden/c.png", ".c.png", "a\nb.gif", "😀.bmp"):
        picture(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    found = list(read_sources(tmp_path))
    assert [item.id for item in found] == ["a\nb.gif", "a.webp", "b.png", "sub/a.JPG", "😀.bmp"]
    assert all(open_image(item.image).size == (2, 2) for item in found)


def test_names_that_are_not_utf8(tmp_path):
    name = os.fsencode(tmp_path) + b"/caf\xe9.png"
    try:
        with open(name, "wb") as file:  # noqa: PTH123 - a path of bytes
            Image.new("RGB", (2, 2)).save(file, "PNG")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    [item] = read_sources(tmp_path)
    assert item.id == "caf\\xe9.png"
    assert open_image(item.image).size == (2, 2)


def test_folders_without_pictures_and_unknown_sources(tmp_path):
    with pytest.raises(EmptyCorpusError, match="no picture"):
        list(read_sources(tmp_path))
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(EmptyCorpusError, match="no picture"):
        list(read_sources(tmp_path))
    with pytest.raises(SourceError, match="no source of items"):
        list(read_sources(tmp_path / "a.txt"))
    with pytest.raises(SourceError, match=r"^'[^']*none' does not exist"):
        list(read_sources(tmp_path / "none"))
    with pytest.raises(EmptyCorpusError, match="no item"):
        list(read_sources(lines(tmp_path / "a.jsonl")))
    with pytest.raises(InputError, match="limit"):
        read_sources(tmp_path, limit=0)


def test_several_sources_items_and_limit(tmp_path):
    item = Item(id="x", text="words")
    found = list(read_sources([item, picture(tmp_path / "p.png")]))
    assert [each.id for each in found] == ["x", "p.png"]
    assert list(read_sources([item, tmp_path / "absent"], limit=1)) == [item]
    assert list(read_sources(item)) == [item]


def test_source_lines(tmp_path):
    path = lines(
        tmp_path / "s.jsonl",
        "\ufeff" + json.dumps({"id": 7, "text": "a dog", "title": "T", "metadata": {"y": [1]}}),
        "",
        {"id": "b", "image": "sub/b.png"},
        {"id": "c", "image": "http://example.org/c.png"},
    )
    seven, b, c = read_sources(path)
    assert seven == Item(id="7", text="a dog", title="T", metadata={"y": [1]})
    assert b.image == str(tmp_path / "sub" / "b.png")
    assert c.image == "http://example.org/c.png"


def test_captions_are_ignored_unless_asked_for(tmp_path):
    record = {"id": "a", "image": "a.png", "captions": ["A dog .", " ", "Two dogs ."]}
    path = lines(tmp_path / "c.jsonl", record)
    [item] = read_sources(path)
    assert item.text is None
    [item] = read_sources(path, use_text="captions")
    assert item.text == "A dog .\nTwo dogs ."
    assert item.kind == "image"
    found = list(read_sources(path, items="captions"))
    assert [(each.id, each.text) for each in found] == [("a#0", "A dog ."), ("a#2", "Two dogs .")]
    assert all(each.kind == "text" for each in found)


def test_use_text_of_metadata_and_of_nothing(tmp_path):
    path = lines(tmp_path / "m.jsonl", {"id": "a", "image": "a.png", "metadata": {"alt": "hi"}})
    assert next(read_sources(path, use_text="alt")).text == "hi"
    with pytest.raises(SourceError, match=r"no line .* has the field 'typo'"):
        list(read_sources(path, use_text="typo"))
    more = lines(tmp_path / "n.jsonl", *({"id": str(n), "image": "a.png"} for n in range(3)))
    with pytest.raises(SourceError, match=r"none of the first 2 lines .* has the field 'typo'"):
        list(read_sources(more, use_text="typo", limit=2))


def test_names_become_metadata(tmp_path):
    path = lines(
        tmp_path / "n.jsonl",
        {"id": "a", "title": "tench", "names": ["tench", "Tinca tinca"], "text": "a fish"},
        {"id": "b", "names": None, "text": "x", "metadata": {"names": ["kept"], "year": 3}},
    )
    first, second = read_sources(path)
    assert first.title == "tench"
    assert first.metadata == {"names": ["tench", "Tinca tinca"]}
    assert second.metadata == {"names": ["kept"], "year": 3}


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ('{"id": "x", "text": "a", "names": "b"}', "line 2: `names` is not a list"),
        (
            '{"id": "x", "text": "a", "names": ["b"], "metadata": {"names": "c"}}',
            "`names` of its own and under",
        ),
        ('{"id": "x", "text": ', "line 2: it is not JSON"),
        ("[1]", "line 2: it is not a JSON object"),
        ('{"text": "no id"}', "line 2: it has no `id`"),
        ('{"id": " ", "text": "a"}', "line 2: it has no `id`"),
        ('{"id": true, "text": "a"}', "line 2: its `id` is not a text"),
        ('{"id": ["b"], "text": "a"}', "line 2: its `id` is not a text"),
        ('{"id": "x", "text": "a", "metadata": {"y": NaN}}', "line 2: it is not JSON: .*NaN"),
        ('{"id": "x", "text": "a", "metadata": {"y": [-Infinity]}}', "line 2: it is not JSON"),
        ('{"id": "x", "text": "a", "metadata": {"y": 1e999}}', "line 2: .*'y' is inf, which"),
        ('{"id": "x", "text": "a", "metadata": {"a": {"b": 1}}}', "line 2: .*of 'a' is nested"),
        ('{"id": "x", "text": "a", "metadata": {"a": [["b"]]}}', "line 2: .*of 'a' is nested"),
        ('{"id": "x"}', "line 2: item 'x' has neither"),
        ('{"id": "x", "text": 3}', "line 2: `text`"),
        ('{"id": "x", "image": 3}', "line 2: `image`"),
        ('{"id": "x", "text": "a", "label": 1, "split": 2}', "unknown fields `label`, `split`"),
        ('{"id": "q", "text": "a", "relevant": ["b"]}', "queries"),
        ('{"id": "x", "image": "a.png", "captions": "one"}', "line 2: `captions`"),
        ('{"id": "\\ud800", "text": "a"}', "line 2: it holds half"),
        ("[" * 100_000, "line 2: it is not JSON"),
    ],
)
def test_broken_lines_are_named(tmp_path, line, match):
    path = lines(tmp_path / "broken.jsonl", {"id": "good", "text": "a"}, line)
    with pytest.raises(SourceError, match=match) as caught:
        list(read_sources(path))
    assert "broken.jsonl" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_lines_that_are_not_utf8(tmp_path):
    (tmp_path / "l.jsonl").write_bytes(b'{"id": "a"}\n{"id": "\xff"}\n')
    with pytest.raises(SourceError, match="line 2: it is not UTF-8"):
        list(iter_jsonl(tmp_path / "l.jsonl"))


def test_captions_are_demanded_of_pictures(tmp_path):
    picture(tmp_path / "folder" / "a.png")
    with pytest.raises(SourceError, match="no captions"):
        list(read_sources(tmp_path / "folder", items="captions"))
    path = lines(tmp_path / "s.jsonl", {"id": "a", "image": "a.png"})
    with pytest.raises(SourceError, match="line 1: it has no `captions`"):
        list(read_sources(path, items="captions"))


def test_parquet(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    body = picture(tmp_path / "a.png").read_bytes()
    records = [
        {"id": "a", "image": {"bytes": body, "path": None}, "metadata": {"k": 1}, "text": None},
        {"id": "b", "image": {"bytes": None, "path": "a.png"}, "metadata": None},
        {"id": "c", "text": "words"},
    ]
    path = tmp_path / "t.parquet"
    parquet.write_table(arrow.Table.from_pylist(records), path)
    a, b, c = read_sources(path)
    assert c == Item(id="c", text="words")
    assert (a.image, a.metadata) == (body, {"k": 1})
    assert b.image == str(tmp_path / "a.png")
    (tmp_path / "bad.parquet").write_bytes(b"not parquet at all")
    with pytest.raises(SourceError, match=r"bad\.parquet"):
        list(read_sources(tmp_path / "bad.parquet"))


def test_beir_folder(tmp_path):
    lines(
        tmp_path / "corpus.jsonl",
        {"_id": "1", "title": "T", "text": "body", "metadata": {"year": 1, "deep": {"a": 1}}},
        {"_id": "2", "title": "only title", "text": "", "url": "http://x"},
    )
    one, two = read_sources(tmp_path)
    assert one == Item(id="1", title="T", text="body", metadata={"year": 1})
    assert two == Item(id="2", title="only title", text="only title", metadata={"url": "http://x"})


def test_values_that_json_has_no_form_for_are_refused():
    for value in (float("nan"), float("inf"), [1.0, float("-inf")]):
        with pytest.raises(ValidationError, match=r"'year' is .*no finite number"):
            Item(id="a", text="words", metadata={"year": value})
        with pytest.raises(ValidationError, match=r"'year' is .*no finite number"):
            Query(text="words", filters={"year": value})


def test_what_cannot_be_read_comes_with_a_mend(tmp_path, monkeypatch):
    with pytest.raises(SourceError) as caught:
        list(iter_jsonl(tmp_path / "none.jsonl"))
    assert caught.value.hint
    picture(tmp_path / "folder" / "a.png")

    def walk(folder, *, onerror):
        onerror(PermissionError(errno.EACCES, "Permission denied", f"{folder}/sub"))

    monkeypatch.setattr(os, "walk", walk)
    with pytest.raises(SourceError, match="sub' cannot be read: Permission denied") as caught:
        list(read_sources(tmp_path / "folder"))
    assert caught.value.hint
