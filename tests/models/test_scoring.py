"""Pairs scored in blocks of logits, against all logits at once."""

from __future__ import annotations

import pytest
import torch

from genmm_retriever.models import scoring
from genmm_retriever.models.scoring import score_pairs


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("states_at_once", [1, 3, 7, 8, 100])
def test_blocks_are_scored_as_the_whole_is(
    dtype: torch.dtype, states_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = torch.Generator().manual_seed(states_at_once)
    head = torch.randn((5, 300), generator=draw)
    states = torch.randn((8, 5), generator=draw)
    rows = torch.tensor([7, 0, 0, 3, 5, 5, 1])
    tokens = torch.tensor([299, 0, 4, 100, 7, 8, 250])
    keep = torch.tensor([6, 2, 7])
    monkeypatch.setitem(
        scoring._LOGITS_AT_ONCE, "cpu", states_at_once * 300 * states.to(dtype).element_size()
    )
    sizes: list[int] = []

    def logits_of(some: torch.Tensor) -> torch.Tensor:
        sizes.append(len(some))
        return (some.float() @ head).to(dtype)

    scores, logits, normaliser = score_pairs(logits_of, states.to(dtype), rows, tokens, keep, 300)
    whole = (states.to(dtype).float() @ head).to(dtype).float()
    right = whole.log_softmax(dim=-1)
    torch.testing.assert_close(scores, right[rows, tokens], rtol=1e-5, atol=1e-5)
    assert torch.equal(logits, whole[keep])
    torch.testing.assert_close(normaliser, whole[keep].logsumexp(dim=-1), rtol=1e-5, atol=1e-5)
    assert sizes == [min(states_at_once, 8 - done) for done in range(0, 8, states_at_once)]


def test_nothing_asked_is_nothing_scored() -> None:
    none = torch.zeros(0, dtype=torch.int64)
    scores, logits, normaliser = score_pairs(
        lambda some: some, torch.zeros((2, 9)), none, none, none, 9
    )
    assert scores.shape == normaliser.shape == (0,)
    assert logits.shape == (0, 9)
