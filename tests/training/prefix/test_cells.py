"""Dual-flow attention over grid features."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from genmm_retriever.errors import InputError
from genmm_retriever.training.prefix import (
    CellFlow,
    grid_regions,
    load_tuned,
    region_features,
    save_tuned,
)


def _flow(**more: int) -> CellFlow:
    torch.manual_seed(0)
    return CellFlow(24, **{"width": 16, "heads": 4, "llm_dim": 8, **more})


def _inputs(n: int = 5) -> tuple[Tensor, Tensor]:
    make = torch.Generator().manual_seed(1)
    return torch.randn(n, 10, 24, generator=make), torch.randn(n, 10, 24, generator=make)


def test_begins_as_identity() -> None:
    features, regions = _inputs()
    with torch.no_grad():
        seen = _flow()(features, regions)
        assert torch.equal(seen.features, features)
        assert seen.tokens.shape == (5, 3, 8)
        half = _flow()(features.half(), regions.half())
    assert half.features.dtype == torch.float16
    assert torch.equal(half.features, features.half())


def test_no_tokens_without_a_language_model() -> None:
    flow = CellFlow(24, width=16, heads=4)
    assert flow(*_inputs()).tokens is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_learns_what_only_the_regions_know(dtype: torch.dtype) -> None:
    """The target is in a region alone; it can come through the gates and nothing else."""
    flow = _flow()
    features, regions = _inputs(32)
    target = regions[:, 0].sign()
    optimiser = torch.optim.AdamW(flow.trainable_parameters().values(), lr=1e-2)
    losses = []
    for _ in range(40):
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            seen = flow(features, regions)
            loss = (seen.features.float().mean(dim=1) - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[1] < losses[0]
    with torch.no_grad():
        learned = (flow(features, regions).features.mean(dim=1) - target).square().mean()
        swapped = flow(features, regions.roll(1, dims=0)).features.mean(dim=1)
    assert (swapped - target).square().mean() > learned * 1.05
    assert all(bool(block.gate.any()) for block in flow.blocks)


def test_absent_regions_leave_the_learned_prompts() -> None:
    flow = _flow()
    features, regions = _inputs()
    regions[:, 1:] = 0
    with torch.no_grad():
        flow.up.weight.normal_()
        for block in flow.blocks:
            block.gate.fill_(1)
        before = flow(features, regions)
        flow.norm.bias.add_(1.0)  # moves what stands in present rows and cells only
        after = flow(features, regions)
        first = flow.projector.maps[2](flow.projector.norms[2](flow.prompts[-1][1]))
    torch.testing.assert_close(before.tokens[:, 2], first.expand(5, -1))
    torch.testing.assert_close(after.tokens[:, 2], before.tokens[:, 2])
    assert not torch.allclose(after.tokens[:, 1], before.tokens[:, 1], atol=1e-3)


def test_saving_and_loading(tmp_path: Path) -> None:
    flow = _flow()
    with torch.no_grad():
        for value in flow.parameters():
            value.normal_()
    save_tuned(flow, tmp_path / "cells.safetensors")
    other = _flow()
    load_tuned(other, tmp_path / "cells.safetensors")
    with torch.no_grad():
        assert torch.equal(other(*_inputs()).features, flow(*_inputs()).features)


def test_in_front_of_the_builtin_projector(tiny_builtin, noise) -> None:
    """Where its documentation says that it belongs: between features and projector."""
    pictures = [noise(seed=1), noise(50, 70, seed=2)]
    features = tiny_builtin.encode_images(pictures)
    regions = region_features(pictures, lambda crops: tiny_builtin.encode_images(crops).mean(1))
    assert regions.shape == (2, 10, 1280)
    whole = regions[:, 0].float() - tiny_builtin.encode_images(
        [picture.crop(grid_regions(*picture.size, 1)[0]) for picture in pictures]
    ).float().mean(1)
    assert whole.abs().max() < 0.05
    torch.manual_seed(0)
    flow = CellFlow(1280, cells=features.shape[1], width=16, heads=4, llm_dim=32)
    core = tiny_builtin.model.model
    with torch.no_grad():
        seen = flow(features, regions)
        same = core.image_embeddings(seen.features)
        assert torch.equal(same, core.image_embeddings(features))
        flow.up.weight.normal_()
        changed = core.image_embeddings(flow(features, regions).features)
    assert not torch.allclose(changed, same, atol=1e-3)
    assert seen.tokens.shape == (2, 3, 32)


def test_unfit_shapes() -> None:
    features, regions = _inputs()
    with pytest.raises(InputError, match=r"regions have shape \[5, 9, 24\]"):
        _flow()(features, regions[:, :9])
    with pytest.raises(InputError, match=r"features have shape \[5, 8, 24\]"):
        _flow()(features[:, :8], regions)
    with pytest.raises(InputError, match="3 heads do not divide a width of 16"):
        _flow(heads=3)
