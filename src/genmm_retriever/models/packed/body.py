"""A model's body whose decoder layers are packed; all else is the model's own."""

from __future__ import annotations

import copy
import os
import threading
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from genmm_retriever.models.packed.linear import PackedHead
from genmm_retriever.models.packed.unchanged import Unchanged

VARIABLE = "GENMM_PACKED"
"""Set to 0, it saves the memory of packed weights."""
MOST_BYTES = 2 * 2**30
"""Of weights that are packed, since a second copy of them is held."""
_KNOWN = {
    "LlamaDecoderLayer",
    "MistralDecoderLayer",
    "Qwen2DecoderLayer",
    "Qwen3DecoderLayer",
    "Qwen3VLTextDecoderLayer",
}
_ACTIVATIONS = ("SiLU", "SiLUActivation")
_LINEAR = {
    "self_attn": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "mlp": ("gate_proj", "up_proj", "down_proj"),
}
_ERRORS = (RuntimeError, MemoryError, ValueError, TypeError, AttributeError, KeyError, OSError)


@dataclass(frozen=True)
class _Packed:
    """What was made of a model.

    Attributes:
        unchanged: Says whether it still holds.
        state: The state of the weights that it was made of.
        body: In place of the model's; None if the model is to be used as it is.
        head: Likewise; None if the head is not used by itself.
    """

    unchanged: Unchanged
    state: Hashable
    body: Any
    head: Any


class PackedBody:
    """The body of a model and its vocabulary head, packed as long as that is the same model.

    Packed layers are used in inference alone, for bfloat16 weights on a CPU that oneDNN
    multiplies them on, where all layers are of a known form and carry no hooks or adapters.
    Weights that change are packed anew.

    Args:
        model: A causal or image-text-to-text model.
        head: Its vocabulary head, or None if it is not used by itself.

    Attributes:
        enabled: Whether packed layers are used where they can be; false from the beginning where
            the environment says GENMM_PACKED=0.
    """

    def __init__(self, model: Any, head: Any) -> None:
        self.model = model
        self.head = head
        self.enabled = os.environ.get(VARIABLE) != "0"
        self._known = is_supported() and _place_of_layers(model.base_model) is not None
        self._lock = threading.Lock()
        self._packed: _Packed | None = None

    def current(self) -> Any:
        """The body to call now: the packed one, or the model's own."""
        if self._is_wanted():
            self._now()
        return self.latest()[0]

    def latest(self) -> tuple[Any, Any]:
        """The body and the head of the weights that were looked at last.

        To look at all of them takes a millisecond: what is begun goes on without.
        """
        packed = (self._packed or self._now()) if self._is_wanted() else None
        if packed is None or packed.body is None:
            return self.model.base_model, self.head
        return packed.body, packed.head

    def _is_wanted(self) -> bool:
        inference = not (self.model.training or torch.is_grad_enabled())
        return self.enabled and inference and self._known

    def _now(self) -> _Packed:
        packed = self._packed
        if packed is None or packed.unchanged.state() != packed.state:
            with self._lock:
                packed = self._packed
                if packed is None or packed.unchanged.state() != packed.state:
                    # The former copy goes before the next one is made.
                    packed = self._packed = None
                    packed = self._packed = self._made()
        return packed

    def _made(self) -> _Packed:
        base, head = self.model.base_model, self.head
        place = _place_of_layers(base)
        *way, layers = _way_to(base, place or ())
        unchanged = Unchanged([layers], hooked=[] if head is None else [head], holders=way)
        state = unchanged.state()
        own = _Packed(unchanged, state, None, None)
        if place is None or state is None or not _may_be_packed(layers, head):
            return own
        try:
            body = _with_layers(base, place, _packed(layers))
            head = None if head is None else PackedHead(head)
            return _Packed(unchanged, state, body, head) if self._agrees(body, head) else own
        except _ERRORS:
            return own

    def _agrees(self, body: Any, head: Any) -> bool:
        """Whether a few tokens come out as the model itself has them, but for rounding."""
        size = self.model.config.get_text_config().vocab_size
        tokens = torch.tensor([[size * part // 9 for part in range(1, 8)]])
        own = self.model.base_model(input_ids=tokens, use_cache=False)[0]
        pairs = [(own, body(input_ids=tokens, use_cache=False)[0])]
        if head is not None:
            pairs.append((self.head(own), head(own)))
        return all(_near(one, two) for one, two in pairs)


def is_supported() -> bool:
    """Whether this torch packs bfloat16 weights on this processor."""
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):
        return False


def _near(one: Tensor, two: Tensor) -> bool:
    # bfloat16 keeps 8 bits; after some dozens of layers other roundings are percents.
    error = (one.float() - two.float()).norm()
    return bool(error <= 0.1 * one.float().norm())


def _place_of_layers(base: Any) -> tuple[str, ...] | None:
    """Names that lead to the one list of decoder layers of a known form."""
    found = [
        name
        for name, module in base.named_modules()
        if isinstance(module, nn.ModuleList)
        and len(module)
        and all(_is_known(type(layer)) for layer in module)
    ]
    return tuple(found[0].split(".")) if len(found) == 1 else None


def _is_known(kind: type) -> bool:
    return kind.__name__ in _KNOWN and kind.__module__.startswith("transformers.models.")


def _way_to(module: Any, place: tuple[str, ...]) -> list[Any]:
    """The modules from a body to what stands at a place in it, both included."""
    way = [module]
    for name in place:
        way.append(way[-1]._modules[name])
    return way


def _may_be_packed(layers: Any, head: Any) -> bool:
    """Whether all weights are plain, bfloat16, on a CPU, and not too many."""
    linear = [] if head is None else [head]
    for layer in layers:
        if type(layer.mlp.act_fn).__name__ not in _ACTIVATIONS:
            return False
        for block, names in _LINEAR.items():
            linear += [getattr(getattr(layer, block), name, None) for name in names]
    weights = [*layers.parameters(), *([] if head is None else head.parameters())]
    return (
        all(type(one) is nn.Linear for one in linear)
        and all(one.dtype == torch.bfloat16 and one.device.type == "cpu" for one in weights)
        and sum(one.nbytes for one in weights) <= MOST_BYTES
    )


def _packed(layers: Any) -> list[nn.Module]:
    # numba is imported for models alone that are packed.
    from genmm_retriever.models.packed.layer import PackedLayer

    return [PackedLayer(layer) for layer in layers]


def _with_layers(module: Any, place: tuple[str, ...], layers: list[nn.Module]) -> Any:
    """The same module, sharing all but what lies on the way to other layers."""
    if not place:
        return nn.ModuleList(layers)
    twin = copy.copy(module)
    # A copied module shares its dictionary of parts with the first one.
    inside = _with_layers(module._modules[place[0]], place[1:], layers)
    twin.__dict__["_modules"] = {**module._modules, place[0]: inside}
    return twin
