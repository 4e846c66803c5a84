"""Captioned pictures with random features, and tiny models with an index to learn."""

from __future__ import annotations

import copy
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from genmm_retriever import GenerativeMMRetriever, Item
from genmm_retriever.training.builtin.data import CaptionedImages

_THINGS = ("dog", "cat", "bike", "boat", "tree", "ball")
_PLACES = ("on grass", "in snow", "by the sea")


@pytest.fixture(scope="session")
def captioned() -> CaptionedImages:
    """Twelve pictures with three captions each."""
    draw = np.random.default_rng(0)
    captions = [[f"A {_THINGS[i % 6]} {place} {i}." for place in _PLACES] for i in range(12)]
    paths = [Path(f"{i}.jpg") for i in range(12)]
    return CaptionedImages(paths, captions, draw.normal(size=(12, 4, 1280)).astype(np.float16))


@pytest.fixture(scope="session")
def build() -> Callable[..., Any]:
    """A tiny model by its kind (see tests/models), with short prompts and short answers."""
    path = Path(__file__).parents[1] / "models" / "conftest.py"
    spec = importlib.util.spec_from_file_location("tiny_models", path)
    assert spec is not None
    assert spec.loader is not None
    tiny = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tiny)

    def make(kind: str) -> Any:
        model = copy.copy(tiny._built(kind))
        model.prompt_style = "builtin"
        model.generate = _written
        return model

    return make


def _written(prompts: Any, *, num_return_sequences: int = 1, **_: Any) -> list[list[str]]:
    """What a model that can write might write: the words of a text, one left out each time."""
    answers = []
    for prompt in prompts:
        words = prompt.parts[-1].text.removeprefix("Describe: ").split()
        if prompt.has_image:
            shade = int(np.asarray(prompt.parts[0].image).mean() * 10) % 26
            words = [
                "one",
                "fine",
                "square",
                "of",
                "colour",
                chr(ord("a") + shade),
                "here",
                "now",
                "seen",
            ]
        turns = range(1, num_return_sequences + 1)
        answers.append([" ".join(w for i, w in enumerate(words) if i != n) for n in turns])
    return answers


@pytest.fixture(autouse=True)
def light(monkeypatch: pytest.MonkeyPatch) -> None:
    """An encoder that needs no loading."""
    from genmm_retriever import building
    from genmm_retriever.identifiers import HashingEncoder

    monkeypatch.setattr(building, "default_encoder", HashingEncoder)


THINGS = (
    ("t0", "A red dog near the house", "my dog is red"),
    ("t1", "A blue cat near the lamp", "cats of blue colour"),
    ("t2", "A green boat near the chair", "boating in green"),
    ("t3", "A black car near the fish", "the car, black"),
    ("t4", "A white tree near the bird", "white trees"),
    ("t5", "A happy bird near the door", "who sings happily"),
)


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    """Human queries for the items `t0` to `t5`."""
    path = tmp_path / "asked.jsonl"
    lines = [json.dumps({"text": query, "relevant": [name]}) for name, _, query in THINGS]
    path.write_text("\n".join(lines))
    return path


@pytest.fixture
def make_index(tmp_path: Path) -> Callable[..., Path]:
    """An index of six texts, and for a model that sees of two pictures beside them."""

    def make(model: Any, name: str = "index") -> Path:
        items = [Item(id=each, text=text) for each, text, _ in THINGS]
        for i in range(2 if model.supports_images else 0):
            noise = np.random.default_rng(i).integers(0, 256, (20, 20, 3), dtype=np.uint8)
            Image.fromarray(noise).save(tmp_path / f"p{i}.png")
            items.append(Item(id=f"p{i}", image=str(tmp_path / f"p{i}.png")))
        path = tmp_path / name
        with GenerativeMMRetriever.from_images(items, path=path, model=model, progress=False):
            return path

    return make
