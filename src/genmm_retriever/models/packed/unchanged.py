"""Whether modules are still what they were when something was made of their weights."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any

from torch import Tensor, nn

from genmm_retriever.models.watched_weights import WatchedWeights

_EVERYWHERE = ("_global_forward_hooks", "_global_forward_pre_hooks")


def is_hooked_everywhere() -> bool:
    """Whether there are hooks on all modules."""
    return any(getattr(nn.modules.module, name, None) for name in _EVERYWHERE)


class Unchanged:
    """Modules, all that is inside of them, and their weights.

    Args:
        modules: Neither they nor their parts have hooks or a replaced `forward`.
        hooked: More of them, which may have hooks: what stands in for them runs these, too.
        holders: Modules of which only the parts are watched, not what is inside of these.
    """

    def __init__(
        self,
        modules: Iterable[nn.Module],
        hooked: Iterable[nn.Module] = (),
        holders: Iterable[nn.Module] = (),
    ) -> None:
        unhooked = [part for module in modules for part in module.modules()]
        inside = [*unhooked, *(part for module in hooked for part in module.modules())]
        self._places: list[tuple[dict[str, Any], str, object]] = []
        for part in inside:
            slots: tuple[dict[str, Any], ...] = (part._modules, part._parameters)
            self._places += [(some, name, some[name]) for some in slots for name in some]
        self._weights = WatchedWeights([one for *_, one in self._places if isinstance(one, Tensor)])
        for part in holders:
            self._places += [(part._modules, name, held) for name, held in part._modules.items()]
        self._insides = [part.__dict__ for part in inside]
        self._unhooked = [part.__dict__ for part in unhooked]

    def state(self) -> Hashable:
        """Changes with the weights; None once anything else has changed."""
        if is_hooked_everywhere():
            return None
        for slots, name, held in self._places:
            if slots.get(name) is not held:
                return None
        if any("forward" in inside for inside in self._insides):
            return None
        for inside in self._unhooked:
            if inside["_forward_hooks"] or inside["_forward_pre_hooks"]:
                return None
        return self._weights.state()
