"""Tiny random-weight vision towers of true architectures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

_SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
    "initializer_range": 0.3,
}


class _Block(nn.Module):
    """With the module names of an open-clip block."""

    def __init__(self, width: int, heads: int, batch_first: bool) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=batch_first)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        normed = self.ln_1(x)
        x = x + self.attn(normed, normed, normed, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class _Transformer(nn.Module):
    def __init__(self, width: int, heads: int, batch_first: bool) -> None:
        super().__init__()
        self.batch_first = batch_first
        self.resblocks = nn.ModuleList(_Block(width, heads, batch_first) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.batch_first else x.transpose(0, 1)
        for block in self.resblocks:
            x = block(x)
        return x if self.batch_first else x.transpose(0, 1)


class OpenClipShaped(nn.Module):
    """A ViT with the module structure of open-clip's `visual`; it returns a projected CLS."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 14, 14, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(16))
        self.positional_embedding = nn.Parameter(torch.randn(5, 16))
        self.ln_pre = nn.LayerNorm(16)
        self.transformer = _Transformer(16, 2, batch_first)
        self.ln_post = nn.LayerNorm(16)
        self.proj = nn.Parameter(torch.randn(16, 8))

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.conv1(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], dim=1)
        x = self.transformer(self.ln_pre(x + self.positional_embedding))
        return self.ln_post(x[:, 0]) @ self.proj


def _tower(kind: str) -> nn.Module:
    from transformers import (
        CLIPVisionConfig,
        CLIPVisionModel,
        SiglipVisionConfig,
        SiglipVisionModel,
    )

    torch.manual_seed(3)
    if kind.startswith("clip"):
        model: Any = CLIPVisionModel(CLIPVisionConfig(**_SIZES))
        model.set_attn_implementation(kind.removeprefix("clip-"))
    elif kind == "siglip":
        model = SiglipVisionModel(SiglipVisionConfig(**_SIZES))
    elif kind == "siglip-headless":
        model = SiglipVisionModel(SiglipVisionConfig(**_SIZES, vision_use_head=False))
    else:
        model = OpenClipShaped(batch_first=kind == "open-clip")
    return model.float().eval()


KINDS = ["clip-sdpa", "clip-eager", "siglip", "siglip-headless", "open-clip", "open-clip-old"]


@pytest.fixture(params=KINDS)
def tower(request: pytest.FixtureRequest) -> nn.Module:
    """Each kind of vision tower in turn."""
    return _tower(request.param)


@pytest.fixture
def build_tower() -> Callable[[str], nn.Module]:
    """A tower by its kind."""
    return _tower
