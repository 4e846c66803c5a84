from __future__ import annotations

import json

import pytest

from genmm_retriever.errors import InputError, SourceError
from genmm_retriever.evaluation import read_queries


def write(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture
def captioned(tmp_path):
    lines = [
        {"id": "a", "image": "a.webp", "captions": ["a dog", "a brown dog"]},
        {"id": "b", "image": "sub/b.webp", "captions": ["a cat", " ", "a small cat"]},
    ]
    return write(tmp_path / "dev.jsonl", lines)


def test_each_caption_asks_for_its_picture(captioned):
    found = read_queries(captioned)
    assert [(q.id, q.query.text, set(q.relevant)) for q in found] == [
        ("a#0", "a dog", {"a"}),
        ("a#1", "a brown dog", {"a"}),
        ("b#0", "a cat", {"b"}),
        ("b#2", "a small cat", {"b"}),
    ]
    assert {q.query.kind for q in found} == {"image"}
    assert found.recall == "any"


def test_each_picture_asks_for_its_captions(captioned):
    found = read_queries(captioned, direction="image-to-text")
    assert [(q.id, sorted(q.relevant)) for q in found] == [
        ("a", ["a#0", "a#1"]),
        ("b", ["b#0", "b#2"]),
    ]
    assert found[1].query.image == str(captioned.parent / "sub/b.webp")
    assert {q.query.kind for q in found} == {"text"}


def test_caption_ids_are_those_of_the_index(captioned):
    from genmm_retriever.corpus.readers import read_sources

    indexed = {item.id for item in read_sources([captioned], items="captions")}
    asked = read_queries(captioned, direction="image-to-text")
    assert frozenset().union(*(q.relevant for q in asked)) == indexed


def test_query_lines(tmp_path):
    lines = [
        {"text": "red shoes", "relevant": ["7"]},
        {"id": "q2", "image": "shoe.png", "text": "in blue", "relevant": ["8", "9"]},
    ]
    found = read_queries(write(tmp_path / "q.jsonl", lines))
    assert [q.id for q in found] == ["1", "q2"]
    assert found[1].query.is_composed
    assert found[1].query.image == str(tmp_path / "shoe.png")
    assert found[1].relevant == {"8", "9"}


def test_limit_samples_with_a_fixed_seed(tmp_path):
    lines = [{"id": f"q{n}", "text": f"text {n}", "relevant": ["x"]} for n in range(100)]
    path = write(tmp_path / "q.jsonl", lines)
    first = [q.id for q in read_queries(path, limit=20)]
    assert first == [q.id for q in read_queries(path, limit=20)]
    assert first != [q.id for q in read_queries(path, limit=20, seed=1)]
    assert len(set(first)) == 20
    assert first != [f"q{n}" for n in range(20)]
    assert read_queries(path, limit=20).available == 100
    assert len(read_queries(path, limit=1000)) == 100


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "x"', "line 2"),
        ('{"text": "x"}', "relevant"),
        ('{"text": "x", "relevant": []}', "relevant is empty"),
        ('{"text": "x", "relevant": "a"}', "list of item ids"),
        ('{"relevant": ["a"]}', "needs text, an image"),
        ('{"text": "x", "relevant": ["a"], "colour": 1}', 'unknown field "colour"'),
        ('{"id": "a", "image": "a.png", "captions": "x"}', "list of texts"),
        ('{"id": "q", "text": 5, "relevant": ["a"]}', "line 2"),
        ('{"text": "x", "relevant": ["a"], "subset": "a"}', "subset must be a list of item ids"),
        ('{"text": "x", "relevant": ["a"], "subset": ["b"]}', "no relevant item is in the subset"),
        ('{"text": "x", "relevant": ["a"], "reference": 7}', '"reference" must be a text'),
        ('{"text": "x", "relevant": ["a"], "reference": "a"}', "cannot be relevant"),
        ('{"text": "x", "relevant": ["a"], "group": " "}', '"group" must be a text'),
        ('{"text": "x", "relevant": ["a"], "filters": ["a"]}', "valid dictionary"),
    ],
)
def test_broken_line_is_named(tmp_path, line, message):
    path = tmp_path / "q.jsonl"
    path.write_text('{"text": "fine", "relevant": ["a"]}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(SourceError) as caught:
        read_queries(path)
    assert message in str(caught.value)
    assert "line 2" in str(caught.value)
    assert str(path) in str(caught.value)


def test_absent_empty_and_duplicate(tmp_path):
    with pytest.raises(SourceError, match="does not exist"):
        read_queries(tmp_path / "absent.jsonl")
    with pytest.raises(SourceError, match="holds no query"):
        read_queries(write(tmp_path / "empty.jsonl", []))
    twice = [{"id": "q", "text": "x", "relevant": ["a"]}] * 2
    with pytest.raises(SourceError, match="two queries with the id 'q'"):
        read_queries(write(tmp_path / "twice.jsonl", twice))
    with pytest.raises(InputError, match="limit is 0"):
        read_queries(tmp_path / "twice.jsonl", limit=0)


def test_beir_folder(tmp_path):
    write(tmp_path / "corpus.jsonl", [{"_id": "d1", "text": "one"}])
    write(
        tmp_path / "queries.jsonl",
        [{"_id": "1", "text": "who"}, {"_id": "2", "text": "what"}, {"_id": "3", "text": "-"}],
    )
    (tmp_path / "qrels").mkdir()
    qrels = tmp_path / "qrels" / "test.tsv"
    qrels.write_text("query-id\tcorpus-id\tscore\n1\td1\t2\n1\td2\t0\n2\td3\t1\n2\td4\t1\n")
    found = read_queries(tmp_path)
    assert [(q.id, sorted(q.relevant)) for q in found] == [("1", ["d1"]), ("2", ["d3", "d4"])]
    assert found.recall == "fraction"
    with pytest.raises(SourceError, match=r"dev\.tsv does not exist"):
        read_queries(tmp_path, split="dev")
    qrels.write_text("9\td1\t1\n")
    with pytest.raises(SourceError, match="judges the query '9'"):
        read_queries(tmp_path)
    qrels.write_text("1\td1\n")
    with pytest.raises(SourceError, match="line 1"):
        read_queries(tmp_path)
