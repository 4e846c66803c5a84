"""Linear layers whose weights stand in the layout that oneDNN multiplies in."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from genmm_retriever.models.packed.unchanged import is_hooked_everywhere
from genmm_retriever.models.scoring import Stretch

_ROWS = 64
"""Rows of input that the layout is chosen for; it serves any number of them."""
_STRETCH, _BLOCK = 3072, 64
"""Tokens of the vocabulary whose logits for the rows of a search, a few hundred, fit a core's
second cache; and the multiples in which oneDNN's layouts come."""


class PackedLinear:
    """One or more `nn.Linear` of the same input as a single one, packed.

    Args:
        parts: Their outputs follow each other in its output.

    Raises:
        ValueError: If some of them have a bias and others have none.
    """

    def __init__(self, parts: Sequence[nn.Linear]) -> None:
        weight = torch.cat([part.weight.detach() for part in parts])
        biases = [part.bias.detach() for part in parts if part.bias is not None]
        if biases and len(biases) < len(parts):
            raise ValueError("some of the linear layers have a bias, others have none")
        self.bias = torch.cat(biases) if biases else None
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), _ROWS)

    def __call__(self, inputs: Tensor) -> Tensor:
        """The product [n, out] of inputs [n, in]."""
        product = torch.ops.mkldnn._linear_pointwise.default
        made: Tensor = product(inputs, self.weight, self.bias, "none", [], "")
        return made

    def plus(self, inputs: Tensor, other: Tensor) -> Tensor:
        """The product and another [n, out] added up, rounded once."""
        product = torch.ops.mkldnn._linear_pointwise.binary
        made: Tensor = product(inputs, other, self.weight, self.bias, "add")
        return made


class PackedHead(nn.Module):
    """A vocabulary head, packed in stretches whose logits stay in a cache while they are read.

    Args:
        head: Its hooks are this one's, too.

    Attributes:
        stretches: Of the vocabulary; what they compute passes by the hooks.
    """

    def __init__(self, head: nn.Linear) -> None:
        super().__init__()
        self.__dict__.update({name: held for name, held in vars(head).items() if "hooks" in name})
        self.stretches: list[Stretch] = []
        for first in range(0, head.out_features, _stretch_of(head.out_features)):
            end = min(first + _stretch_of(head.out_features), head.out_features)
            self.stretches.append(Stretch(first, end, PackedLinear([_part(head, first, end)])))

    @property
    def is_hooked(self) -> bool:
        """Whether somebody wants to see what comes in or goes out."""
        return bool(self._forward_hooks or self._forward_pre_hooks) or is_hooked_everywhere()

    def forward(self, states: Tensor) -> Tensor:
        """Logits [..., V] of states [..., H]."""
        flat = states.reshape(-1, states.shape[-1])
        logits = torch.cat([stretch.head(flat) for stretch in self.stretches], dim=1)
        return logits.view(*states.shape[:-1], -1)


def _stretch_of(tokens: int) -> int:
    """Tokens of a stretch: about `_STRETCH`, and whole blocks of oneDNN's."""
    parts = max(1, round(tokens / _STRETCH))
    return -(-tokens // (parts * _BLOCK)) * _BLOCK


def _part(head: nn.Linear, first: int, end: int) -> nn.Linear:
    """Some of the outputs of a head, sharing its memory."""
    part = nn.Linear(head.in_features, end - first, bias=head.bias is not None, device="meta")
    part.weight = nn.Parameter(head.weight.detach()[first:end], requires_grad=False)
    if head.bias is not None:
        part.bias = nn.Parameter(head.bias.detach()[first:end], requires_grad=False)
    return part
