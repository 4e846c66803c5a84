"""The model under the benchmarks, its tokenizer, and queries to ask."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

from genmm_retriever.models.base import ImagePart, Prompt, TextPart

QUERIES = (
    "a black dog runs over the grass",
    "two children play football on a beach",
    "an old wooden boat on a quiet lake",
    "red sports car in front of a building",
    "a woman reads a book in a cafe",
    "snow covered mountain under a blue sky",
    "bowl of fresh fruit on a table",
    "a man climbs a steep rock",
    "street musicians at night",
    "a white bird sits on a fence",
)


@lru_cache(maxsize=1)
def load(name: str) -> Any:
    """The model, loaded once a process."""
    from genmm_retriever.models.loading import load_model

    return load_model(name)


def picture_prompts(mllm: Any, count: int, seed: int = 0) -> list[Prompt]:
    """Picture queries in the builtin model's form, features encoded beforehand as in an index."""
    draw = np.random.default_rng(seed)
    pictures = [
        Image.fromarray(draw.integers(0, 256, (5, 5, 3), dtype=np.uint8)).resize((260, 260))
        for _ in range(count)
    ]
    features = mllm.encode_images(pictures)
    return [Prompt((ImagePart(features=one), TextPart("Find."))) for one in features]


def prompts(count: int) -> list[Prompt]:
    """Text queries in the builtin model's form for "which identifier?"."""
    return [Prompt((TextPart(f"Find: {query}"),)) for query in QUERIES[:count]]


def encode_texts(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of plain texts by the fast backend; control tokens that they spell stay words."""
    backend = tokenizer.backend_tokenizer
    before = backend.encode_special_tokens
    backend.encode_special_tokens = True
    try:
        encoded = backend.encode_batch_fast(list(texts), add_special_tokens=False)
    finally:
        backend.encode_special_tokens = before
    return [one.ids for one in encoded]
