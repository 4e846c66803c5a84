from __future__ import annotations

import json

import pytest


@pytest.mark.parametrize("option", ["--list", "--help"])
def test_help_and_list(command, option):
    done = command(option)
    assert done.returncode == 0, done.stderr
    assert "trie_build" in done.stdout


def test_an_unknown_name_is_bad_usage(command):
    done = command("speed_of_light")
    assert done.returncode == 2
    assert "speed_of_light" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_run_writes_its_result_and_the_table_reads_it(command, tmp_path):
    target = tmp_path / "result.json"
    done = command("trie_build", "--quick", "--json", target, "--cache", tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(target.read_text())
    assert json.loads(done.stdout) == result
    assert result["name"] == "trie_build"
    assert result["command"] == "python -m benchmarks trie_build --quick"
    assert str(tmp_path) not in target.read_text()
    shown = command("--table", target)
    assert shown.returncode == 0, shown.stderr
    assert "**trie_build**" in shown.stdout


def test_all_runs_each_in_its_own_process_and_writes_a_list(command, tmp_path):
    target = tmp_path / "results.json"
    names = ["gpu_step", "trie_lookup"]
    done = command("--all", "--only", *names, "--quick", "--json", target, "--cache", tmp_path)
    assert done.returncode == 0, done.stderr
    assert [result["name"] for result in json.loads(target.read_text())] == names
    assert json.loads(done.stdout) == json.loads(target.read_text())
    assert command("--all", "--only", "nothing").returncode == 2
