"""Pictures of coloured things, and a tiny model that is told what it sees."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from PIL import Image

from genmm_retriever import GenerativeMMRetriever, Item
from genmm_retriever.identifiers import HashingEncoder
from genmm_retriever.training.triplets import gallery

SEEN = (
    ("red ball", "a red ball on green grass"),
    ("blue ball", "a blue ball on wet sand"),
    ("yellow ball", "a yellow ball in deep snow"),
    ("black ball", "a black ball under a chair"),
    ("brown dog", "a brown dog on green grass"),
    ("white dog", "a white dog in deep snow"),
    ("grey dog", "a grey dog near the harbour"),
    ("spotted dog", "a spotted dog on wet sand"),
)


def _mark(image):
    return hashlib.sha256(np.asarray(image.convert("RGB")).tobytes()).hexdigest()


def _noise(number):
    draw = np.random.default_rng(number)
    return Image.fromarray(draw.integers(0, 256, (20, 20, 3), dtype=np.uint8))


_KNOWN = {_mark(_noise(i)): said for i, (_, said) in enumerate(SEEN)}


def _seeing(prompts, *, num_return_sequences=1, **_):
    """Of one picture its description, of two what the second has in place of the first."""
    answers = []
    for prompt in prompts:
        said = [_KNOWN[_mark(part.image)] for part in prompt.parts if hasattr(part, "image")]
        if len(said) == 2:
            here, there = (" ".join(text.split()[1:3]) for text in said)
            texts = [said[1], f"a {there} instead of a {here}", f"Change: now the {there}, please"]
        else:
            texts = [*said, "so fine a sight"]
        answers.append([texts[i % len(texts)] for i in range(num_return_sequences)])
    return answers


@pytest.fixture
def seen():
    """What each picture is of, and what the model says of it."""
    return SEEN


@pytest.fixture(autouse=True)
def light_encoder(monkeypatch):
    """An encoder that needs no loading."""
    monkeypatch.setattr(gallery, "default_encoder", HashingEncoder)


@pytest.fixture
def seeing(build):
    """A tiny model of random weights whose answers are right."""
    model = build("qwen3-vl")
    model.generate = _seeing
    return model


@pytest.fixture
def photos(seeing, tmp_path):
    """Makes an index of the eight pictures, half balls and half dogs."""

    def make(name="photos"):
        items = []
        for i, (title, _) in enumerate(SEEN):
            _noise(i).save(tmp_path / f"{i}.png")
            metadata = {"kind": title.split()[1], "place": SEEN[i][1].split()[-1]}
            items.append(Item(id=f"p{i}", image=str(tmp_path / f"{i}.png"), metadata=metadata))
        items.append(Item(id="text", text="A poem about the sea"))
        path = tmp_path / name
        with GenerativeMMRetriever.from_images(items, path=path, model=seeing, progress=False):
            return path

    return make
