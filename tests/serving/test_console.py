from __future__ import annotations

import errno
import json

import pytest
import typer

from genmm_retriever import Item
from genmm_retriever.errors import GenmmError, IndexDamagedError, InputError, MissingExtraError
from genmm_retriever.serving.console import Console, command, describe, printable


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (InputError("no such thing", "give another"), 2, "no such thing (give another)"),
        (IndexDamagedError("x is cut", "rebuild"), 2, "x is cut (rebuild)"),
        (GenmmError("a fault"), 1, "a fault"),
        (MissingExtraError("pyarrow", "parquet"), 2, 'pip install "genmm-retriever[parquet]"'),
        (ModuleNotFoundError("no torch", name="torch"), 2, "genmm-retriever[builtin]"),
        (ModuleNotFoundError("no foo", name="foo"), 1, "internal error"),
        (PermissionError(errno.EACCES, "Permission denied", "/x/y"), 2, "/x/y: Permission denied"),
        (ZeroDivisionError("by zero"), 1, "--debug"),
    ],
)
def test_errors_become_one_line_and_a_code(error, code, said):
    message, found = describe(error)
    assert found == code
    assert said in message
    assert "\n" not in message


def test_validation_errors_are_the_users():
    with pytest.raises(ValueError, match="neither") as caught:
        Item(id="x")
    message, code = describe(caught.value)
    assert code == 2
    assert "neither an image nor a text" in message


def test_printable_keeps_words_and_escapes_the_rest():
    assert printable("été 🐈 x") == "été 🐈 x"
    assert printable("a\tb\n\x1b[31m\udc80") == r"a\tb\n\x1b[31m\udc80"
    printable("\ud800").encode("utf-8")


def test_json_is_valid_for_odd_names_and_refuses_nan(capsys):
    Console(json=True).result({"id": "odd\udcff🐈\n"}, "unused")
    printed = capsys.readouterr().out
    assert printed.isascii()
    assert json.loads(printed) == {"id": "odd\udcff🐈\n"}
    with pytest.raises(ValueError, match="not JSON compliant"):
        Console(json=True).result({"x": float("nan")}, "")


def run(action, *arguments):
    app = typer.Typer(rich_markup_mode=None)
    command(app, "go", example="x go")(action)
    app.callback()(lambda: None)
    return app(args=["go", *arguments], standalone_mode=False)


def test_shared_options_reach_the_command():
    seen: list[Console] = []

    def go(console: Console, name: str = "") -> None:
        seen.append(console)

    run(go, "--json", "--quiet", "--name", "x")
    run(go, "-v", "--debug")
    assert seen == [Console(True, False, -1), Console(False, True, 1)]
    assert not seen[0].progress


def test_ctrl_c_is_one_line_and_130(capsys):
    def go(console: Console) -> None:
        raise KeyboardInterrupt

    assert run(go) == 130
    assert capsys.readouterr().err.count("\n") == 1


def test_traceback_only_with_debug(capsys):
    def go(console: Console) -> None:
        raise RuntimeError("boom")

    assert run(go) == 1
    assert "Traceback" not in capsys.readouterr().err
    assert run(go, "--debug") == 1
    assert "Traceback" in capsys.readouterr().err


def test_log_goes_to_stderr_unless_quiet(capsys):
    def go(console: Console) -> None:
        console.say("working")
        console.result({"a": 1}, "done")

    run(go)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("done\n", "working\n")
    run(go, "-q", "--json")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ('{"a": 1}\n', "")
