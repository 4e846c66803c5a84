"""The benchmarks are a package beside `src`, run from the repository; so are their tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))


@pytest.fixture
def tiny_model(tiny_builtin, monkeypatch):
    """Stands in for the model of `--model`, so that nothing is fetched."""
    from benchmarks.corpora import models

    monkeypatch.setattr(models, "load", lambda name: tiny_builtin)
    return tiny_builtin


@pytest.fixture(scope="session")
def identifiers():
    """Two thousand made-up identifiers over 3,000 token ids."""
    from benchmarks.corpora.identifiers import Lexicon, synthetic

    return synthetic(2_000, Lexicon.numbered(3_000, 2), seed=1)


@pytest.fixture(scope="session")
def command():
    """Runs the command line of the benchmarks as a user does."""

    def run(*arguments, **options):
        return subprocess.run(
            [sys.executable, "-m", "benchmarks", *map(str, arguments)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
            **options,
        )

    return run
