"""A small set of captioned pictures with random features."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

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
