"""Vision towers behind one face: where their blocks, projections and summaries are.

Nothing of a tower is changed: the second flow is added to the output of its attention modules
from outside. The output projection is linear, so adding the projected prompt flow is the same
as adding the flow before it, and with a closed gate the sum is the tower's own output.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from genmm_retriever.errors import MissingExtraError, ModelError

Linear = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Block:
    """One block of a vision transformer.

    Attributes:
        attention: Its attention module; its output is a tuple whose first is [n, tokens, d].
        norm: The norm in front of it.
        query: The query projection, [..., d] -> [..., d].
        key: Likewise.
        value: Likewise.
        out: The output projection without its bias.
        batch_first: False where the attention's input and output are [tokens, n, d].
    """

    attention: nn.Module
    norm: nn.Module
    query: Linear
    key: Linear
    value: Linear
    out: Linear
    batch_first: bool = True


@dataclass(frozen=True)
class Tower:
    """A vision transformer.

    Attributes:
        module: The tower itself.
        blocks: First to last.
        width: d.
        heads: Heads of attention in each block.
        see: Pixels [n, 3, h, w] -> features [n, tokens, d] and summary [n, d].
    """

    module: nn.Module
    blocks: Sequence[Block]
    width: int
    heads: int
    see: Callable[[Tensor], tuple[Tensor, Tensor]]


def adapt_tower(vision: nn.Module) -> Tower:
    """The face of a vision tower of transformers (CLIP, SigLIP and their kin) or of open-clip.

    Args:
        vision: A `CLIPVisionModel`, `SiglipVisionModel` or a model whose blocks are built the
            same; or the `visual` of an open-clip model with a ViT.

    Raises:
        ModelError: If its blocks are of another kind.
    """
    layers = getattr(getattr(vision, "encoder", None), "layers", None)
    if layers is not None and all(_is_clip_like(layer) for layer in layers):
        return _transformers_tower(vision, layers)
    blocks = getattr(getattr(vision, "transformer", None), "resblocks", None)
    if blocks is not None and all(_is_open_clip(block) for block in blocks):
        return _open_clip_tower(vision, blocks)
    raise ModelError(
        f"{type(vision).__name__} has no blocks that prefix tuning knows",
        "give a CLIP-like vision tower of transformers, the `visual` of an open-clip ViT, or use "
        "CellFlow over the features of a convolutional one",
    )


def open_clip_tower(name: str, pretrained: str | None = None, **options: Any) -> tuple[Tower, Any]:
    """An open-clip ViT and its picture transform.

    Args:
        name: Architecture, such as `ViT-B-32`.
        pretrained: Weights, a tag of open-clip or a local file; None for random ones.
        options: For `open_clip.create_model_and_transforms`.

    Returns:
        The tower, and the transform from an RGB picture to pixels [3, h, w].

    Raises:
        MissingExtraError: If open-clip is not installed.
        ModelError: If the architecture has no ViT.
    """
    try:
        import open_clip
    except ImportError as error:
        raise MissingExtraError("open-clip-torch", "clip") from error
    model, _, transform = open_clip.create_model_and_transforms(
        name, pretrained=pretrained, **options
    )
    return adapt_tower(model.visual), transform


def _is_clip_like(layer: nn.Module) -> bool:
    attention = getattr(layer, "self_attn", None)
    parts = ("q_proj", "k_proj", "v_proj", "out_proj", "num_heads")
    return hasattr(layer, "layer_norm1") and all(hasattr(attention, part) for part in parts)


def _transformers_tower(vision: nn.Module, layers: Any) -> Tower:
    blocks = [
        Block(
            attention=layer.self_attn,
            norm=layer.layer_norm1,
            query=layer.self_attn.q_proj,
            key=layer.self_attn.k_proj,
            value=layer.self_attn.v_proj,
            out=_without_bias(layer.self_attn.out_proj),
        )
        for layer in layers
    ]

    def see(pixels: Tensor) -> tuple[Tensor, Tensor]:
        output = vision(pixel_values=pixels)
        features = output.last_hidden_state
        # CLIP's first token is CLS; SigLIP has none and pools by attention instead.
        if hasattr(getattr(vision, "embeddings", None), "class_embedding"):
            return features, features[:, 0]
        pooled = output.pooler_output
        return features, features.mean(dim=1) if pooled is None else pooled

    attention: Any = blocks[0].attention
    return Tower(vision, blocks, attention.embed_dim, attention.num_heads, see)


def _is_open_clip(block: nn.Module) -> bool:
    attention = getattr(block, "attn", None)
    packed = isinstance(attention, nn.MultiheadAttention) and attention._qkv_same_embed_dim
    return packed and hasattr(block, "ln_1")


def _open_clip_tower(visual: nn.Module, resblocks: Any) -> Tower:
    blocks = [
        Block(
            attention=block.attn,
            norm=block.ln_1,
            query=_packed(block.attn, 0),
            key=_packed(block.attn, 1),
            value=_packed(block.attn, 2),
            out=_without_bias(block.attn.out_proj),
            batch_first=block.attn.batch_first,
        )
        for block in resblocks
    ]
    transformer: Any = visual.transformer

    def see(pixels: Tensor) -> tuple[Tensor, Tensor]:
        # The tower returns a projected vector; CLS before it is the first of the blocks' tokens.
        kept: list[Tensor] = []
        handle = transformer.register_forward_hook(lambda *call: kept.append(call[2]))
        try:
            visual(pixels)
        finally:
            handle.remove()
        return kept[-1], kept[-1][:, 0]

    attention = blocks[0].attention
    assert isinstance(attention, nn.MultiheadAttention)
    return Tower(visual, blocks, attention.embed_dim, attention.num_heads, see)


def _packed(attention: nn.MultiheadAttention, part: int) -> Linear:
    """Queries, keys or values out of a packed projection."""

    def project(hidden: Tensor) -> Tensor:
        weight = attention.in_proj_weight.chunk(3)[part]
        bias = None if attention.in_proj_bias is None else attention.in_proj_bias.chunk(3)[part]
        return torch.nn.functional.linear(hidden, weight, bias)

    return project


def _without_bias(layer: nn.Linear) -> Linear:
    # The tower's own flow has added the bias already.
    return lambda hidden: torch.nn.functional.linear(hidden, layer.weight)
