"""The examples run as they stand, on a small folder of photographs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

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


@needs_builtin
def test_evaluation_of_a_folder(folder: Path) -> None:
    report = run("evaluate.py", folder)
    assert "queries             4" in report
    assert "recall@1" in report
