"""The benchmarks are a package beside `src`, run from the repository; so are their tests."""

from __future__ import annotations

import json
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


@pytest.fixture
def small_flickr(tmp_path, noise):
    """A folder like Flickr8k's, with drawn pictures."""
    folder = tmp_path / "flickr8k"
    folder.mkdir()
    for split, pictures in (("train", 8), ("dev", 4)):
        lines = []
        for i in range(pictures):
            noise(seed=i).save(folder / f"{split}{i}.png")
            captions = [f"picture {i} of {split}", f"number {i}"]
            lines.append({"id": f"{i}", "image": f"{split}{i}.png", "captions": captions})
        text = "\n".join(map(json.dumps, lines))
        (folder / f"{split}.jsonl").write_text(text, encoding="utf-8")
    return folder


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
