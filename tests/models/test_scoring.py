"""Pairs scored in blocks of logits, against all logits at once."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from genmm_retriever.models import scoring
from genmm_retriever.models.scoring import Stretch, score_pairs


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bounds", [[0, 300], [0, 100, 300], [0, 5, 8, 9, 250, 299, 300]])
@pytest.mark.parametrize("states_at_once", [1, 3, 7, 8, 100])
def test_blocks_are_scored_as_the_whole_is(
    dtype: torch.dtype, bounds: list[int], states_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = torch.Generator().manual_seed(states_at_once)
    head = torch.randn((5, 300), generator=draw)
    states = torch.randn((8, 5), generator=draw).to(dtype)
    rows = torch.tensor([7, 0, 0, 3, 5, 5, 1])
    tokens = torch.tensor([299, 0, 4, 100, 7, 8, 250])
    keep = torch.tensor([6, 2, 7])
    sizes: list[int] = []

    def stretch(first: int, end: int) -> Stretch:
        def logits_of(some: torch.Tensor) -> torch.Tensor:
            sizes.append(len(some))
            return (some.float() @ head[:, first:end]).to(dtype)

        return Stretch(first, end, logits_of)

    vocabulary = [stretch(*pair) for pair in pairwise(bounds)]
    widest = max(one.end - one.first for one in vocabulary)
    most = states_at_once * widest * states.element_size()
    monkeypatch.setitem(scoring._LOGITS_AT_ONCE, "cpu", most)

    scores, logits, normaliser = score_pairs(vocabulary, states, rows, tokens, keep)
    whole = (states.float() @ head).to(dtype).float()
    right = whole.log_softmax(dim=-1)
    torch.testing.assert_close(scores, right[rows, tokens], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits, whole[keep], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(normaliser, whole[keep].logsumexp(dim=-1), rtol=1e-5, atol=1e-5)
    blocks = [min(states_at_once, 8 - done) for done in range(0, 8, states_at_once)]
    assert sizes == [block for block in blocks for _ in vocabulary]


@pytest.mark.parametrize("states", [0, 2])
def test_nothing_asked_is_nothing_scored(states: int) -> None:
    none = torch.zeros(0, dtype=torch.int64)
    vocabulary = [Stretch(0, 4, lambda some: some[:, :4]), Stretch(4, 9, lambda some: some[:, 4:])]
    scores, logits, normaliser = score_pairs(vocabulary, torch.zeros((states, 9)), none, none, none)
    assert scores.shape == normaliser.shape == (0,)
    assert logits.shape == (0, 9)
