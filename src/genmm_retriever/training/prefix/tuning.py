"""Prefix tuning of a frozen vision tower."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from genmm_retriever.errors import InputError
from genmm_retriever.training.prefix.attention import join_heads, prompt_flow, split_heads
from genmm_retriever.training.prefix.projector import SHOWN_PROMPTS, PrefixProjector, Seen
from genmm_retriever.training.prefix.regions import REGIONS
from genmm_retriever.training.prefix.towers import Block, Tower, adapt_tower


class PrefixTuning(nn.Module):
    """A frozen vision tower whose last blocks attend to prompts about a picture's regions.

    In block l, `P_l = E_l + F`: F are features of up to ten regions by the same tower, E_l is
    learned. Prompts pass the block's own norm and its key and value projections (that norm is our
    choice; the source does not say). Gates begin at nought, where the tower's features are its
    own, bit for bit; the tower itself is never changed and stays in evaluation mode.

    Args:
        tower: From `adapt_tower`, or a vision model that it takes.
        llm_dim: Width of the language model's embeddings.
        blocks: How many of the last blocks have prompts, at most all; 20 in the paper.
        regions: Rows of F; 10 in the paper.

    Attributes:
        prompts: E, [blocks, regions, d].
        gates: g, [blocks, heads].
        projector: The three visual tokens.

    Raises:
        InputError: If `blocks` is below one, or `regions` below two.
        ModelError: If the vision model's blocks are of an unknown kind.

    References:
        Long et al., "Generative Multi-Modal Knowledge Retrieval with Large Language Models",
        AAAI 2024 (arXiv 2401.08206).
    """

    def __init__(
        self,
        tower: Tower | nn.Module,
        llm_dim: int,
        *,
        blocks: int = 20,
        regions: int = REGIONS,
    ) -> None:
        super().__init__()
        check_sizes(blocks, regions)
        self._tower = tower if isinstance(tower, Tower) else adapt_tower(tower)
        self.vision = self._tower.module.requires_grad_(False).eval()
        self._tuned = list(self._tower.blocks)[-blocks:]
        width = self._tower.width
        self.prompts = nn.Parameter(torch.randn(len(self._tuned), regions, width) * 0.02)
        self.gates = nn.Parameter(torch.zeros(len(self._tuned), self._tower.heads))
        self.projector = PrefixProjector(width, llm_dim)

    def train(self, mode: bool = True) -> PrefixTuning:
        """As `nn.Module.train`, but the frozen tower stays in evaluation mode."""
        super().train(mode)
        self.vision.eval()
        return self

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        """Prompts, gates and projector by name: all that is learned, saved and loaded."""
        return {
            name: value for name, value in self.named_parameters() if not name.startswith("vision.")
        }

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """Summaries of pictures by the frozen tower alone, as F needs them of crops.

        Args:
            pixels: [m, 3, h, w], as the tower's processor makes them.

        Returns:
            [m, d].
        """
        return self._tower.see(pixels)[1]

    def forward(self, pixels: Tensor, regions: Tensor) -> Seen:
        """See pictures with their regions.

        Args:
            pixels: [n, 3, h, w], as the tower's processor makes them.
            regions: F, [n, regions, d], from `region_features`.

        Returns:
            The tower's last features [n, tokens, d] and the language model's tokens
            [n, 3, llm_dim].

        Raises:
            InputError: If the regions do not fit the pictures or the prompts.
        """
        expected = (pixels.shape[0], *self.prompts.shape[1:])
        if tuple(regions.shape) != expected:
            raise InputError(
                f"regions have shape {list(regions.shape)}, expected {list(expected)}",
                "make them with region_features, by this tower's `encode`",
            )
        prompts = self.prompts.unsqueeze(1) + regions.to(self.prompts.dtype)
        with self._flowing(prompts):
            features, summary = self._tower.see(pixels)
        return Seen(features, self.projector(summary, prompts[-1]))

    @contextmanager
    def _flowing(self, prompts: Tensor) -> Iterator[None]:
        """For the while, the tuned blocks attend to P [blocks, n, regions, d] too."""
        with ExitStack() as stack:
            for block, own, gate in zip(self._tuned, prompts, self.gates, strict=True):
                hook = _second_flow(block, own, gate, self._tower.heads)
                handle = block.attention.register_forward_hook(hook, with_kwargs=True)
                stack.callback(handle.remove)
            yield


def check_sizes(blocks: int, regions: int) -> None:
    """Refuse numbers of blocks and regions that leave nothing to tune or to show."""
    if blocks < 1:
        raise InputError(f"{blocks} blocks cannot be tuned", "give at least 1")
    if regions < SHOWN_PROMPTS:
        raise InputError(
            f"{regions} regions are too few", f"the language model sees {SHOWN_PROMPTS} of them"
        )


def _second_flow(block: Block, prompts: Tensor, gate: Tensor, heads: int) -> Any:
    """A hook that adds the prompts' flow to the output of a block's attention."""

    def hook(_: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
        hidden = args[0] if args else kwargs["hidden_states"]
        if not block.batch_first:
            hidden = hidden.transpose(0, 1)
        normed = block.norm(prompts.to(hidden.dtype))
        flow = prompt_flow(
            split_heads(block.query(hidden), heads),
            split_heads(block.key(normed), heads),
            split_heads(block.value(normed), heads),
            gate,
        )
        added = block.out(join_heads(flow))
        if not block.batch_first:
            added = added.transpose(0, 1)
        return (output[0] + added.to(output[0].dtype), *output[1:])

    return hook
