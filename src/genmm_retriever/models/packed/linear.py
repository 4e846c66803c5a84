"""Linear layers whose weights stand in the layout that oneDNN multiplies in."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

_ROWS = 64
"""Rows of input that the layout is chosen for; it serves any number of them."""


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
    """A vocabulary head, packed.

    Args:
        head: Its hooks are this one's, too.
    """

    def __init__(self, head: nn.Linear) -> None:
        super().__init__()
        self.__dict__.update({name: held for name, held in vars(head).items() if "hooks" in name})
        self.packed = PackedLinear([head])

    def forward(self, states: Tensor) -> Tensor:
        """Logits [..., V] of states [..., H]."""
        flat = self.packed(states.reshape(-1, states.shape[-1]))
        return flat.view(*states.shape[:-1], -1)
