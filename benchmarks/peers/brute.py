"""The plain ways: score every identifier, scan every token. Slow and beyond doubt."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.corpora.identifiers import Identifiers
from genmm_retriever.models.base import Prompt


def score_all(mllm: Any, prompt: Prompt, identifiers: Identifiers) -> NDArray[np.float32]:
    """Every identifier's log p(identifier | prompt), [n]; the prompt is run once."""
    state = mllm.prefill([prompt])
    parents = torch.zeros(len(identifiers), dtype=torch.int64)
    scored = mllm.score_from(state, parents, identifiers.lists())
    total: NDArray[np.float32] = torch.stack([one.sum() for one in scored]).cpu().numpy()
    return total


def next_counts(
    tokens: NDArray[np.uint32], offsets: NDArray[np.int64], query: list[int]
) -> dict[int, int]:
    """Next tokens with their counts by a scan of the whole text; never across passages."""
    found = np.ones(len(tokens), dtype=bool)
    for place, token in enumerate(query):
        found[: len(tokens) - place] &= tokens[place:] == token
    last = len(tokens) - len(query)
    starts = np.flatnonzero(found[: max(0, last)])
    # The token that follows lies in the passage in which the query begins.
    passage = np.searchsorted(offsets, starts, side="right") - 1
    starts = starts[starts + len(query) < offsets[passage + 1]]
    values, counts = np.unique(tokens[starts + len(query)], return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))
