from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

import genmm_retriever

PACKAGE = Path(str(files("genmm_retriever")))
REPOSITORY = Path(__file__).parent.parent

# Distribution that brings a module, where the names differ.
BRINGS = {
    "PIL": "pillow",
    "sklearn": "scikit-learn",
    "skimage": "scikit-image",
    "open_clip": "open-clip-torch",
}
# Modules that come with a declared distribution.
ALONG = {
    "scipy": "scikit-learn",
    "threadpoolctl": "scikit-learn",
    "huggingface_hub": "transformers",
    "pydantic_core": "pydantic",
    "starlette": "fastapi",
    "mcp_types": "mcp",
    "anyio": "mcp",
}


def test_version_is_the_installed_one():
    assert genmm_retriever.__version__ == importlib.metadata.version("genmm-retriever")


def test_public_names_resolve():
    for name in genmm_retriever.__all__:
        assert getattr(genmm_retriever, name) is not None
        assert name in dir(genmm_retriever)


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Retreiver'"):
        _ = genmm_retriever.Retreiver


@pytest.mark.parametrize(
    "statement",
    [
        "import genmm_retriever",
        "from genmm_retriever import Item, Query, Hit, InputError",
        "import genmm_retriever.serving.cli",
        "import genmm_retriever.evaluation",
        "from genmm_retriever.corpus.store import IndexReader, check_index",
    ],
)
def test_import_pulls_in_no_deep_learning_library(statement):
    heavy = "{'torch', 'transformers', 'sklearn', 'scipy', 'peft'}"
    code = f"import sys; {statement}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def declared() -> set[str]:
    lines = importlib.metadata.requires("genmm-retriever") or []
    names = {re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0] for line in lines}
    return {name.lower().replace("_", "-") for name in names}


def imported_modules() -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names = [node.module]
            else:
                continue
            for name in names:
                found.setdefault(name.partition(".")[0], path)
    return found


def test_every_imported_package_is_declared():
    ours = {"genmm_retriever", *sys.stdlib_module_names}
    known = declared()
    for module, path in imported_modules().items():
        if module in ours:
            continue
        name = BRINGS.get(module, ALONG.get(module, module)).lower().replace("_", "-")
        assert name in known, f"{path} imports {module}, which pyproject.toml does not declare"


def test_package_data_is_installed():
    assert (PACKAGE / "py.typed").is_file()


@pytest.mark.skipif(
    not (REPOSITORY / "pyproject.toml").is_file(), reason="needs the repository's pyproject.toml"
)
def test_floors_hold():
    pytest.importorskip("importlinter")
    code = "import sys; from importlinter.cli import lint_imports_command as c; sys.exit(c([]))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(not (REPOSITORY / ".ci" / "run").is_file(), reason="needs the repository")
def test_readme_has_the_commands_that_ci_runs():
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8").splitlines()
    assert 'pip install ".[builtin]" && genmm demo' in readme
    assert 'pip install ".[builtin,test]" && pytest' in readme


@pytest.mark.skipif(not (REPOSITORY / "README.md").is_file(), reason="needs the repository")
def test_every_readme_installs_from_the_checkout():
    found = [REPOSITORY / "README.md", REPOSITORY / "examples" / "README.md"]
    found += (REPOSITORY / "integrations").glob("*/README.md")
    assert len(found) == 4
    for path in found:
        text = path.read_text(encoding="utf-8")
        assert 'pip install ".[builtin]"' in text
        assert "genmm-retriever[" not in text, f"{path}: the packages are on no index"


@pytest.mark.skipif(not (REPOSITORY / "README.md").is_file(), reason="needs the repository")
def test_the_readme_has_the_limits_of_k():
    from genmm_retriever.checks import MAX_K

    pytest.importorskip("fastapi")
    pytest.importorskip("mcp")
    from genmm_retriever.serving import mcp_server
    from genmm_retriever.serving.http import requests

    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert f"at most {MAX_K:,} in Python and on the command line" in readme
    assert f"{requests.MAX_K:,} over HTTP and {mcp_server.MAX_K:,} over MCP" in readme
    assert f"{requests.MAX_SOURCES} for answers" in readme
