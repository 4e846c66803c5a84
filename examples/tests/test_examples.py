"""The examples run as they stand, on a small folder of photographs."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[1]
QUICK_STARTS = {
    "quickstart_langchain.py": "langchain_genmm",
    "quickstart_llama_index.py": "llama_index.retrievers.genmm",
}


def installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


needs_builtin = pytest.mark.skipif(
    not all(map(installed, ("efficientnet_lite_pytorch", "gguf", "skimage", "torch"))),
    reason='needs pip install "genmm-retriever[builtin]"',
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    import skimage

    data = Path(str(skimage.__file__)).parent / "data"
    (tmp_path / "photos").mkdir()
    for name in ("coffee.png", "chelsea.png", "rocket.jpg", "motorcycle_left.png"):
        shutil.copy(data / name, tmp_path / "photos")
    return tmp_path / "photos"


def run(name: str, *arguments: object) -> str:
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.mark.parametrize("name", QUICK_STARTS)
def test_quick_starts_are_short(name: str) -> None:
    assert len((EXAMPLES / name).read_text(encoding="utf-8").splitlines()) <= 6


@needs_builtin
@pytest.mark.parametrize("name", QUICK_STARTS)
def test_quick_starts_find_the_coffee_first(name: str, folder: Path) -> None:
    if not installed(QUICK_STARTS[name]):
        pytest.skip(f"{QUICK_STARTS[name]} is not installed")
    lines = run(name, folder).splitlines()
    assert len(lines) == 3
    assert Path(lines[0].split()[0]).name == "coffee.png"


SHOWN = {
    "agent_langgraph.py": ("langchain_genmm", "langgraph"),
    "agent_llama_index.py": ("llama_index.retrievers.genmm",),
    "rag_langchain.py": ("langchain_genmm",),
    "rag_llama_index.py": ("llama_index.retrievers.genmm",),
}


@pytest.mark.parametrize(
    "name", [*SHOWN, "ask.py", "filters.py", "query_adapters.py", "rerank_bm25.py"]
)
def test_examples_are_short(name: str) -> None:
    assert len((EXAMPLES / name).read_text(encoding="utf-8").splitlines()) <= 75


@pytest.mark.parametrize(
    ("name", "module", "mend"),
    [
        *((name, modules[0], "integrations") for name, modules in SHOWN.items()),
        ("agent_langgraph.py", "langgraph", "langgraph"),
        ("rerank_bm25.py", "bm25s", "pip install bm25s"),
    ],
)
def test_what_is_not_installed_is_named_on_one_line(name: str, module: str, mend: str) -> None:
    hidden = f"import runpy, sys; sys.modules[{module!r}] = None; runpy.run_path({name!r})"
    command = [sys.executable, "-c", hidden]
    ended = subprocess.run(
        command, cwd=EXAMPLES, capture_output=True, text=True, timeout=300, check=False
    )
    assert ended.returncode == 1
    assert "pip install" in ended.stderr
    assert mend in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


@needs_builtin
@pytest.mark.parametrize("name", SHOWN)
def test_the_model_is_shown_the_photograph_of_the_coffee(name: str, folder: Path) -> None:
    for module in SHOWN[name]:
        if not installed(module):
            pytest.skip(f"{module} is not installed")
    said = run(name, folder, "--ask", "a cup of coffee").splitlines()
    # Its size: that is read from the bytes which the scripted model was sent.
    assert re.search(r"\(600, 400\)|600 x 400|\(512, 341\)", "".join(said))


@needs_builtin
def test_reranking_mends_the_order_of_bm25() -> None:
    if not installed("bm25s"):
        pytest.skip("bm25s is not installed")
    before, after = (line.split()[1] for line in run("rerank_bm25.py").splitlines()[-2:])
    assert before != "chelsea.png"
    assert after == "chelsea.png"


@needs_builtin
def test_filters_hold() -> None:
    shown = [re.split(r"\s{2,}", line) for line in run("filters.py").splitlines()]
    found = {line[0]: set(line[-1].split()) for line in shown if len(line) > 1}
    assert found["vehicles"] == {"rocket.jpg", "motorcycle_left.png"}
    assert len(found["portraits or drinks"]) == 2
    assert found["portraits or drinks"] <= {"coffee.png", "chelsea.png", "astronaut.png"}
    assert found["only texts"] == {"note"}


@needs_builtin
def test_what_is_there_is_found_and_what_is_not_is_not(folder: Path) -> None:
    said = run("ask.py", folder)
    there, absent = said.split("an elephant")
    assert "  found: " in there
    assert "(quoted)" in there
    assert "rests on motorcycle_left.png" in there
    assert "not found: the best hit is right with probability" in absent
    assert "rests on" not in absent


@needs_builtin
def test_adapters_tell_what_they_did_and_what_it_cost(folder: Path) -> None:
    shown = run("query_adapters.py", folder)
    for name in ("rewrite", "compose", "reason"):
        assert re.search(rf"\n  {name}: .+ \(\d+ tokens, \d+\.\d\d s\)\n", shown)
    assert "  found: coffee.png" in shown
    assert "as a rocket [" in shown


@needs_builtin
def test_evaluation_of_a_folder(folder: Path) -> None:
    report = run("evaluate.py", folder)
    assert "queries             4" in report
    assert "recall@1" in report


def cells() -> list[dict[str, Any]]:
    notebook = json.loads((EXAMPLES / "tour.ipynb").read_text(encoding="utf-8"))
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_the_notebook_has_outputs_and_tells_no_paths() -> None:
    kinds = [output["output_type"] for cell in cells() for output in cell["outputs"]]
    assert "error" not in kinds
    assert kinds.count("execute_result") >= 4
    told = json.dumps([cell["outputs"] for cell in cells()])
    assert "/home/" not in told
    assert "/tmp/" not in told


@needs_builtin
def test_the_notebook_runs_as_it_stands(tmp_path: Path) -> None:
    script = tmp_path / "tour.py"
    script.write_text("\n".join("".join(cell["source"]) for cell in cells()), encoding="utf-8")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    assert "1. camera.png" in done.stdout
