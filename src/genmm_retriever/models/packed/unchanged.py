"""Whether modules are still what they were when something was made of their weights."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any

from torch import Tensor, nn


class Unchanged:
    """Modules, all that is inside of them, and their weights.

    Args:
        modules: Neither they nor their parts have hooks or a replaced `forward`.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        inside = [part for module in modules for part in module.modules()]
        self._places: list[tuple[dict[str, Any], str, object]] = []
        for part in inside:
            holders: tuple[dict[str, Any], ...] = (part._modules, part._parameters)
            self._places += [(slots, name, slots[name]) for slots in holders for name in slots]
        self._insides = [part.__dict__ for part in inside]
        self._weights = [held for *_, held in self._places if isinstance(held, Tensor)]
        self._versioned = [one for one in self._weights if not one.is_inference()]

    def state(self) -> Hashable:
        """Changes with the weights; None once anything else has changed."""
        for slots, name, held in self._places:
            if slots.get(name) is not held:
                return None
        for inside in self._insides:
            if inside["_forward_hooks"] or inside["_forward_pre_hooks"] or "forward" in inside:
                return None
        return (
            tuple([weight.data_ptr() for weight in self._weights]),
            # Tensors made in inference mode count no changes.
            tuple([weight._version for weight in self._versioned]),
        )
