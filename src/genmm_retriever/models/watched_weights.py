"""Whether weights are still what they were when something was computed with them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

_SAMPLES = 8
"""Entries of a weight that are looked at: `weight.data += change` is counted nowhere."""
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class WatchedWeights:
    """Weights and a cheap account of their state.

    Args:
        weights: Of a model.
    """

    def __init__(self, weights: Sequence[Tensor]) -> None:
        self.weights = list(weights)
        # Tensors made in inference mode count no changes.
        self._versioned = [one for one in self.weights if not one.is_inference()]
        in_memory = [one for one in self.weights if one.device.type == "cpu"]
        self._samples = [_sample(one) for one in in_memory if one.is_contiguous() and one.numel()]

    def state(self) -> Hashable:
        """Changes with the weights: where they are, how often they changed, a sample of each."""
        return (
            tuple([weight.data_ptr() for weight in self.weights]),
            tuple([weight._version for weight in self._versioned]),
            b"".join([sample.tobytes() for sample in self._samples]),
        )


def _sample(weight: Tensor) -> NDArray[Any]:
    """Some entries of a weight, in its own memory."""
    entries = weight.detach().view(-1)
    entries = entries[:: max(1, len(entries) // _SAMPLES)]
    return entries.view(_INTEGERS[entries.element_size()]).numpy()
