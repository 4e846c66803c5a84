"""Dual-flow attention over the cells of a convolutional vision side."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from genmm_retriever.errors import InputError
from genmm_retriever.training.prefix.attention import (
    dual_flow_attention,
    join_heads,
    split_heads,
)
from genmm_retriever.training.prefix.projector import PrefixProjector, Seen
from genmm_retriever.training.prefix.regions import REGIONS
from genmm_retriever.training.prefix.tuning import check_sizes


class CellFlow(nn.Module):
    """A few small transformer blocks over grid features, with the regions as a second flow.

    A convolutional vision side has no attention blocks to put prompts in, so this gives it some
    (our choice, after GeMKR's idea): features go down to a smaller width, through blocks with
    dual-flow attention whose `P_l = E_l + F`, and back up onto themselves. The way back begins
    at nought, as do the gates: an untrained `CellFlow` returns its features bit for bit.

    It belongs between a vision side's features and its projector. In the builtin model that is
    `GenmmBuiltinModel.image_embeddings`: `image_features` and the pictures' region features
    (`region_features` with the mean over rows of `BuiltinMLLM.encode_images`) go in, what comes
    out takes the place of `image_features` in front of `self.projector`; `tokens`, where
    `llm_dim` is given, are three more vectors beside the projected cells.

    Args:
        dim: Width of the features and of the regions.
        cells: Rows of the features; 10 in the builtin model, nine cells and the lower layers.
        width: Of the blocks.
        heads: Of their attention.
        blocks: How many.
        regions: Rows of F.
        llm_dim: Width of the language model's embeddings; None for no extra tokens.

    Raises:
        InputError: If `heads` does not divide `width`, or `blocks` or `regions` is too small.

    References:
        Long et al., arXiv 2401.08206.
    """

    def __init__(
        self,
        dim: int,
        *,
        cells: int = 10,
        width: int = 256,
        heads: int = 8,
        blocks: int = 2,
        regions: int = REGIONS,
        llm_dim: int | None = None,
    ) -> None:
        super().__init__()
        check_sizes(blocks, regions)
        if width % heads:
            raise InputError(
                f"{heads} heads do not divide a width of {width}", "choose a multiple of the heads"
            )
        self.norm = nn.LayerNorm(dim)
        self.down = nn.Linear(dim, width)
        self.place = nn.Parameter(torch.randn(cells, width) * 0.02)
        self.prompts = nn.Parameter(torch.randn(blocks, regions, width) * 0.02)
        self.blocks = nn.ModuleList(FlowBlock(width, heads) for _ in range(blocks))
        self.up = nn.Linear(width, dim)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)
        self.projector = None if llm_dim is None else PrefixProjector(width, llm_dim)

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        """Everything by name: there is nothing frozen inside."""
        return dict(self.named_parameters())

    def forward(self, features: Tensor, regions: Tensor) -> Seen:
        """Let cells attend to each other and to regions.

        Args:
            features: Grid features, [n, cells, dim].
            regions: F, [n, regions, dim], by the same vision side.

        Returns:
            Features of the same shape and dtype, and the language model's tokens
            [n, 3, llm_dim] (the mean over cells is the picture's summary).

        Raises:
            InputError: If a shape does not fit.
        """
        wanted = (features.shape[0], self.prompts.shape[1], self.down.in_features)
        if tuple(regions.shape) != wanted:
            raise InputError(
                f"regions have shape {list(regions.shape)}, expected {list(wanted)}",
                "make them with region_features, by the vision side of the features",
            )
        if tuple(features.shape[1:]) != (self.place.shape[0], wanted[2]):
            raise InputError(
                f"features have shape {list(features.shape)}",
                f"[n, {self.place.shape[0]}, {wanted[2]}] was expected",
            )
        kind = self.down.weight.dtype
        hidden = self.down(self.norm(features.to(kind))) + self.place
        prompts = self.prompts.unsqueeze(1) + self.down(self.norm(regions.to(kind)))
        # A region that is not there is nought; the learned prompt stands alone in its row.
        absent = ~regions.any(dim=-1, keepdim=True)
        prompts = torch.where(absent, self.prompts.unsqueeze(1).to(prompts.dtype), prompts)
        for block, own in zip(self.blocks, prompts, strict=True):
            hidden = block(hidden, own)
        tokens = None
        if self.projector is not None:
            tokens = self.projector(hidden.mean(dim=1), prompts[-1])
        return Seen(features + self.up(hidden).to(features.dtype), tokens)


class FlowBlock(nn.Module):
    """A pre-norm transformer block with dual-flow attention.

    Args:
        width: d.
        heads: Of its attention.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.gate = nn.Parameter(torch.zeros(heads))
        self.mlp = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 2 * width),
            nn.GELU(),
            nn.Linear(2 * width, width),
        )

    def forward(self, hidden: Tensor, prompts: Tensor) -> Tensor:
        """[n, cells, width] and P [n, regions, width] -> [n, cells, width]."""
        normed, regions = self.norm(hidden), self.norm(prompts)
        flow = dual_flow_attention(
            split_heads(self.query(normed), self.heads),
            split_heads(self.key(normed), self.heads),
            split_heads(self.value(normed), self.heads),
            split_heads(self.key(regions), self.heads),
            split_heads(self.value(regions), self.heads),
            self.gate,
        )
        hidden = hidden + self.out(join_heads(flow))
        out: Tensor = hidden + self.mlp(hidden)
        return out
