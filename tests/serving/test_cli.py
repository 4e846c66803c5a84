from __future__ import annotations

import json
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

import genmm_retriever
from genmm_retriever.serving import entry

COMMANDS = [
    "demo",
    "index",
    "add",
    "delete",
    "info",
    "check",
    "describe",
    "embed",
    "search",
    "ask",
    "eval",
    "convert",
    "triplets",
    "train",
    "train builtin",
    "train composer",
    "train matching",
    "doctor",
]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_an_example_and_the_shared_options(genmm, name):
    code, out, _ = genmm(*name.split(), "--help")
    assert code == 0
    assert f"Example:  genmm {name}" in out
    assert all(option in out for option in ("--json", "--debug", "--verbose", "--quiet"))


def test_help_lists_every_command(genmm):
    code, out, _ = genmm("--help")
    assert code == 0
    listed = [
        line.split()[0] for line in out.splitlines() if line.startswith("  ") and line.split()
    ]
    assert {name.split()[0] for name in COMMANDS} <= set(listed)
    listed_with_texts = out.split("Commands:")[1]
    assert "..." not in listed_with_texts, "what a command does is not cut short"


def test_version(genmm):
    assert genmm("--version") == (0, f"genmm {genmm_retriever.__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["nonsense"], "nonsense"),
        (["search"], "INDEX"),
        (["search", "x", "y", "--colour"], "--colour"),
        (["search", "x", "y", "-k", "0"], "-k"),
        (["search", "x", "y", "--verify", "perhaps"], "perhaps"),
        (["index", "photos"], "--output"),
        (["eval", "x", "y", "-k", "ten"], "ten"),
        (["search", "x"], "TEXT"),
        (["search", "x", "y", "--filter", "colour"], "colour"),
    ],
)
def test_bad_usage_is_one_line_and_2(genmm, words, arguments, named):
    code, out, err = genmm(*arguments)
    assert code == 2
    assert out == ""
    assert err.count("\n") == 1
    assert named in err


def test_absent_index_is_named(genmm, words, tmp_path):
    for arguments in (["search", tmp_path / "no", "x"], ["delete", tmp_path / "no", "1"]):
        code, out, err = genmm(*arguments)
        assert (code, out) == (2, "")
        assert str(tmp_path / "no") in err
        assert err.count("\n") == 1


def test_absent_index_of_commands_that_need_no_model(genmm, tmp_path):
    for name in ("info", "check"):
        code, out, err = genmm(name, tmp_path / "no")
        assert (code, out) == (2, "")
        assert str(tmp_path / "no") in err
        assert err.count("\n") == 1


def test_search_json(genmm, index, words):
    code, out, err = genmm(
        "search", index, "blue car", "-k", 2, "--filter", "a=b", "--kind", "text", "--json"
    )
    assert (code, err) == (0, "")
    data = json.loads(out)
    assert data["query"]["text"] == "blue car"
    assert data["query"]["filters"] == {"a": "b"}
    first = data["hits"][0]
    assert {"rank", "id", "score", "image", "text", "evidence"} <= set(first)
    assert (first["rank"], first["id"], first["text"]) == (1, "2", "a blue car")
    assert first["evidence"]["identifiers"][0]["text"] == "a, b"
    assert first["evidence"]["identifiers"][0]["logprob"] == -1.5
    assert first["evidence"]["verification"] == 0.5
    asked = next(call[1] for call in words.calls if call[0] == "retrieve")
    assert (asked.kind, asked.filters) == ("text", {"a": "b"})


def test_search_passes_its_options_on(genmm, index, words):
    options = ["--verify", "off", "--beams", 7, "--model", "m", "--device", "cpu", "-k", 3]
    code, _, _ = genmm("search", index, "car", *options, "--no-vectors")
    assert code == 0
    opened = next(call[2] for call in words.calls if call[0] == "from_index")
    named = {"model": "m", "k": 3, "verify": "off", "num_beams": 7, "device": "cpu"}
    assert opened == named | {"contrastive": False}


def test_budgets_are_passed_on(genmm, index, words):
    code, _, err = genmm("search", index, "car", "--budget", "8,50ms")
    assert code == 0, err
    opened = next(call[2] for call in words.calls if call[0] == "from_index")
    assert (opened["budget"], opened["budget_ms"]) == (8, 50.0)


@pytest.mark.parametrize("name", ["search", "eval"])
def test_broken_budgets_are_named(genmm, index, words, name, tmp_path):
    queries = tmp_path / "q.jsonl"
    queries.write_text('{"id": "q", "text": "car", "relevant": ["2"]}\n')
    code, _, err = genmm(name, index, queries, "--budget", "soon")
    assert code != 0
    assert "soon" in err


def test_search_text_shows_the_evidence_and_odd_names(genmm, index):
    code, out, _ = genmm("search", index, "green car")
    assert code == 0
    assert out.splitlines()[0].split(maxsplit=2) == ["1", "1.000", r"odd\nname\udcff"]
    assert "a, b  (logprob -1.50)" in out
    assert "what is seen" in out


def test_index_reports_what_was_skipped(genmm, words, tmp_path):
    output = tmp_path / "new.genmm"
    code, out, err = genmm(
        "index", "a.png", "b.png", "-o", output, "--strict", "--limit", 5, "--json", "--quiet"
    )
    assert (code, err) == (0, "")
    data = json.loads(out)
    assert data["items"] == 2
    assert data["skipped"] == [{"id": "bad\nname", "reason": "cut short"}]
    _, sources, options = words.calls[-1]
    assert [str(s) for s in sources] == ["a.png", "b.png"]
    assert options == {
        "model": "builtin",
        "identifiers": "structured",
        "identifiers_per_item": 4,
        "items": "images",
        "use_text": None,
        "limit": 5,
        "overwrite": False,
        "strict": True,
        "progress": False,
        "seed": 0,
        "device": None,
    }
    code, out, err = genmm("index", "a.png", "-o", output)
    assert code == 0
    assert r"skipped bad\nname: cut short" in err
    assert "1 items, 1 added, 0 replaced, 0 unchanged, 1 skipped" in out


def test_add_and_delete(genmm, index, words):
    code, out, _ = genmm("add", index, "c.png", "--replace", "--json")
    assert code == 0
    assert json.loads(out)["added"] == 1
    assert words.calls[-1][2]["replace"] is True
    code, out, _ = genmm("delete", index, "1", "2", "--json")
    assert code == 0
    assert json.loads(out)["deleted"] == 2
    code, out, err = genmm("delete", index, "no such id")
    assert (code, out) == (2, "")
    assert "'no such id'" in err


@pytest.mark.parametrize("published", [True, False])
def test_train_says_what_it_did(genmm, monkeypatch, tmp_path, published):
    training = pytest.importorskip("genmm_retriever.training")
    figures = training.Figures(2.0, {"1": 30.0, "5": 60.0, "10": 80.0})
    after = training.Figures(2.0, {"1": 40.0, "5": 60.0, "10": 80.0}) if published else figures
    seen = {}

    def train_index(path, **options):
        seen.update(options, path=path)
        return training.TrainingReport(published, 9, 40, 9, 12, 8, 3.0, figures, after)

    monkeypatch.setattr(training, "train_index", train_index)
    arguments = ("--texts", "t.jsonl", "--steps", 12, "--refresh", "--device", "cpu")
    code, out, err = genmm("train", tmp_path, *arguments, "-q")
    assert code == 0, err
    assert "R@1 30.0" in out
    assert ("did not rise" in out) is not published
    assert (seen["path"], seen["texts"].name, seen["steps"]) == (tmp_path, "t.jsonl", 12)
    assert (seen["refresh"], seen["force"], seen["device"]) == (True, False, "cpu")
    assert seen["notes"]
    # An option may come before the index, and the index may be called builtin.
    code, out, err = genmm("train", "--force", "--no-notes", "./builtin", "--json", "-q")
    assert code == 0, err
    assert seen["force"]
    assert not seen["notes"]
    assert str(seen["path"]) == "builtin"
    data = json.loads(out)
    assert data["published"] is published
    assert data["before"] == {"loss": 2.0, "recall": {"1": 30.0, "5": 60.0, "10": 80.0}}


def test_triplets_are_written_and_trained_on(genmm, monkeypatch, tmp_path):
    training = pytest.importorskip("genmm_retriever.training")
    seen = {}

    def synthesize_triplets(path, output, **options):
        seen.update(options, path=path, output=output)
        return training.TripletReport(5, 4, 2, 9, {"unfit": 3, "caption": 1}, "rule", 2.0)

    def train_index(path, **options):
        seen.update(options)
        composed = training.Figures(3.0, {"1": 10.0})
        figures = training.Figures(2.0, {"1": 30.0}, composed)
        return training.TrainingReport(
            *(True, 9, 40, 9, 12, 8, 3.0, figures, figures),
            composed=7,
            held_composed=2,
            passed_over=1,
        )

    monkeypatch.setattr(training, "synthesize_triplets", synthesize_triplets)
    monkeypatch.setattr(training, "train_index", train_index)
    output = tmp_path / "t.jsonl"
    arguments = ("triplets", tmp_path, "-o", output, "--per-item", 2, "--limit", 9)
    code, out, err = genmm(*arguments, "--category", "kind", "--seed", 3, "-q")
    assert code == 0, err
    assert "5 triplets" in out
    assert "dropped  unfit 3, caption 1" in out
    assert (seen["per_item"], seen["limit"], seen["category"], seen["seed"]) == (2, 9, "kind", 3)
    assert not seen["progress"]
    code, out, _ = genmm(*arguments, "--json")
    assert json.loads(out)["dropped"] == {"unfit": 3, "caption": 1}
    assert genmm("triplets", tmp_path)[0] == 2
    code, out, err = genmm("train", tmp_path, "--triplets", output, "--triplets", "u.jsonl", "-q")
    assert code == 0, err
    assert [path.name for path in seen["triplets"]] == ["t.jsonl", "u.jsonl"]
    assert "composed: loss 3.000, R@1 10.0" in out
    assert "7 composed queries of triplets, 2 more held out, 1 passed over" in out


def test_train_names_what_is_wrong(genmm, tmp_path):
    pytest.importorskip("peft")
    code, out, err = genmm("train", tmp_path / "nothing")
    assert (code, out) == (2, "")
    assert "there is no index" in err
    assert "genmm train --help" in genmm("train")[2]
    assert "genmm train builtin --help" in genmm("train", "builtin")[2]
    assert genmm("train", tmp_path, "--rank", "0")[0] == 2


def test_train_composer_hands_its_options_on(genmm, monkeypatch, tmp_path):
    seen = {}

    def train(sources, triplets, output, **options):
        names = [one.name for one in (*sources, *triplets)]
        seen.update(options, files=names, output=output)
        return {"recall@10": 60.0}

    module = types.ModuleType("genmm_retriever.training.builtin")
    module.train_composer = train
    monkeypatch.setitem(sys.modules, module.__name__, module)
    code, out, err = genmm(
        *("train", "composer", "a.jsonl", "--triplets", "t.jsonl", "--triplets", "u.jsonl"),
        *("-o", tmp_path, "--seed", 3, "--device", "cpu", "--json", "-q"),
    )
    assert code == 0, err
    assert json.loads(out) == {"output": str(tmp_path), "recall@10": 60.0}
    assert seen == {
        "files": ["a.jsonl", "t.jsonl", "u.jsonl"],
        "output": tmp_path,
        "seed": 3,
        "device": "cpu",
        "progress": False,
    }
    assert genmm("train", "composer", "a.jsonl", "-o", tmp_path)[0] == 2


def test_train_matching_hands_its_options_on(genmm, monkeypatch, tmp_path):
    seen = {}

    def train(sources, output, **options):
        seen.update(options, files=[one.name for one in sources], output=output)
        return {"matching_loss": 2.0}

    module = types.ModuleType("genmm_retriever.training.builtin")
    module.train_matching = train
    monkeypatch.setitem(sys.modules, module.__name__, module)
    code, out, err = genmm(
        "train", "matching", "a.jsonl", "-o", tmp_path, "--seed", 3, "--json", "-q"
    )
    assert code == 0, err
    assert json.loads(out) == {"output": str(tmp_path), "matching_loss": 2.0}
    assert seen == {
        "files": ["a.jsonl"], "output": tmp_path, "seed": 3, "device": None, "progress": False,
    }  # fmt: skip
    assert genmm("train", "matching", "a.jsonl")[0] == 2


def test_train_hands_its_options_on(genmm, monkeypatch, tmp_path):
    seen = {}

    def train(sources, output, **options):
        seen.update(options, sources=[source.name for source in sources], output=output)
        return {"pictures": 3}

    module = types.ModuleType("genmm_retriever.training.builtin")
    module.train = train
    monkeypatch.setitem(sys.modules, module.__name__, module)
    code, out, err = genmm(
        *("train", "builtin", "a.jsonl", "b.jsonl", "-o", tmp_path, "--minutes", "1.5"),
        *(
            "--questions",
            "asked.jsonl",
            "--limit",
            7,
            "--seed",
            3,
            "--device",
            "cpu",
            "--json",
            "-q",
        ),
    )
    assert code == 0, err
    assert json.loads(out) == {"output": str(tmp_path), "pictures": 3}
    assert seen == {
        "sources": ["a.jsonl", "b.jsonl"],
        "output": tmp_path,
        "minutes": 1.5,
        "questions": Path("asked.jsonl"),
        "limit": 7,
        "seed": 3,
        "device": "cpu",
        "progress": False,
    }


def test_names_that_no_terminal_can_show(genmm, words, tmp_path):
    code, out, err = genmm("search", tmp_path / os.fsdecode(b"na\xffme\n"), "x")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert r"na\udcffme\n" in err


def genmm_process(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "genmm_retriever.serving.entry", *map(str, arguments)],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        check=False,
        **options,
    )


def test_as_a_process(tmp_path):
    done = genmm_process("search", tmp_path / "absent", "a cat")
    assert done.returncode == 2
    assert done.stdout == b""
    assert done.stderr.count(b"\n") == 1
    done = genmm_process("--version")
    assert (done.returncode, done.stderr) == (0, b"")


def test_without_an_encoding_for_the_names(tmp_path):
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"}
    done = genmm_process("info", tmp_path / "größe🐈", env=environment)
    assert done.returncode == 2
    assert done.stderr.isascii()
    assert b"Traceback" not in done.stderr


def test_reader_of_the_output_may_leave():
    code = f"{sys.executable} -m genmm_retriever.serving.entry --help | true"
    done = subprocess.run(["bash", "-c", code], capture_output=True, check=False)
    assert b"Traceback" not in done.stderr
    assert b"Exception" not in done.stderr


def test_a_query_that_is_no_unicode_is_refused(genmm, index):
    code, out, err = genmm("search", index, "caf\udce9 bird")
    assert (code, out) == (2, "")
    assert "valid Unicode" in err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("arguments", [["--help"], ["index", "--help"], ["doctor"], ["--version"]])
def test_output_that_cannot_be_written_is_one_line(arguments):
    command = [sys.executable, "-m", "genmm_retriever.serving.entry", *arguments]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 2
    assert b"output cannot be written" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_ctrl_c_while_the_commands_are_imported_is_quiet(monkeypatch, capsys):
    class Interrupted:
        def find_spec(self, name, path=None, target=None):
            if name == "genmm_retriever.serving.cli":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "genmm_retriever.serving.cli")
    monkeypatch.setattr(sys, "meta_path", [Interrupted(), *sys.meta_path])
    assert entry.main() == 130
    assert capsys.readouterr() == ("", "")


def test_the_program_begins_with_nothing_imported():
    code = "import sys, genmm_retriever.serving.entry; print({'typer', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
    settings = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    assert 'genmm = "genmm_retriever.serving.entry:main"' in settings
