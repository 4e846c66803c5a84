"""The loss that makes each query likeliest under its own picture."""

from __future__ import annotations

import math

import pytest
import torch

from genmm_retriever.training.builtin.losses import discriminative_loss


def test_golden_value():
    # One group; rows are pictures, columns are queries.
    scores = torch.tensor([[[-1.0, -3.0], [-2.0, -4.0]]])
    nll = torch.tensor(2.0)
    loss, accuracy = discriminative_loss(scores, nll)
    first = -math.log(math.exp(-1) / (math.exp(-1) + math.exp(-2)))
    second = -math.log(math.exp(-4) / (math.exp(-3) + math.exp(-4)))
    assert float(loss) == pytest.approx((first + second) / 2 + 0.5 * 2.0, rel=1e-6)
    assert float(accuracy) == 0.5


def test_the_softmax_is_over_pictures_never_over_queries():
    # Adding a constant to one query's column (a likely sentence) must change nothing.
    torch.manual_seed(0)
    scores = torch.randn(3, 4, 4)
    shifted = scores.clone()
    shifted[:, :, 2] += 5
    nll = torch.tensor(0.0)
    torch.testing.assert_close(
        discriminative_loss(scores, nll)[0], discriminative_loss(shifted, nll)[0]
    )


def test_gradient_raises_the_own_picture_and_lowers_the_others():
    scores = torch.zeros(2, 3, 3, requires_grad=True)
    loss, accuracy = discriminative_loss(scores, scores.new_zeros(()), nll_weight=0.0)
    loss.backward()
    own = torch.eye(3, dtype=torch.bool).expand(2, 3, 3)
    assert bool((scores.grad[own] < 0).all())
    assert bool((scores.grad[~own] > 0).all())
    assert not accuracy.requires_grad
