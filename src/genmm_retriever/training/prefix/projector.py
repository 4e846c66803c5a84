"""What the language model sees of a picture: its summary and the first prompts, projected."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

SHOWN_PROMPTS = 2
"""Rows of the last P that the language model sees, as in GeMKR."""


@dataclass(frozen=True)
class Seen:
    """What a tuned vision side makes of n pictures.

    Attributes:
        features: Of the patches or cells (and of CLS where there is one), [n, tokens, d].
        tokens: For the language model, [n, 3, llm_dim]; None without a projector.
    """

    features: Tensor
    tokens: Tensor | None


class PrefixProjector(nn.Module):
    """The picture's summary and the first two rows of the last P, each LayerNorm -> Linear.

    Args:
        width: d, of the vision side.
        llm_dim: Width of the language model's embeddings.
    """

    def __init__(self, width: int, llm_dim: int) -> None:
        super().__init__()
        seen = 1 + SHOWN_PROMPTS
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(seen))
        self.maps = nn.ModuleList(nn.Linear(width, llm_dim) for _ in range(seen))

    def forward(self, summary: Tensor, prompts: Tensor) -> Tensor:
        """[n, d] and [n, regions, d] -> [n, 3, llm_dim]."""
        rows = [summary, *prompts[:, :SHOWN_PROMPTS].unbind(dim=1)]
        kind = next(self.norms.parameters()).dtype
        tokens = [
            project(norm(row.to(kind)))
            for row, norm, project in zip(rows, self.norms, self.maps, strict=True)
        ]
        return torch.stack(tokens, dim=1)
