"""Keys and values of decoder rows: which caches can be gathered by row, and how."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer

_BY_ROW = (DynamicLayer, DynamicSlidingWindowLayer)


def is_gatherable(cache: object, length: int) -> bool:
    """Whether every layer keeps plain keys and values [rows, heads, length, size].

    Recurrent states, quantised or static caches, and cross-attention over pictures are not
    of this kind; models with them are recomputed from full sequences.

    Args:
        cache: What the model returned as `past_key_values`, or None.
        length: Tokens that the model has seen, padding included.
    """
    if not isinstance(cache, Cache) or len(cache.layers) == 0:
        return False
    if getattr(cache, "offloading", False):
        return False
    layers: list[Any] = cache.layers
    for layer in layers:
        kind = type(layer)
        if kind not in _BY_ROW:
            return False
        if kind is DynamicLayer and layer.is_initialized and layer.keys.shape[-2] != length:
            return False
    return any(layer.is_initialized for layer in layers)


def gather(cache: Cache, rows: Tensor) -> Cache:
    """A cache of the chosen rows; the given one is left as it was.

    Args:
        cache: Gatherable, see `is_gatherable`.
        rows: [m], int64; repeats are allowed.
    """
    chosen = copy.copy(cache)
    layers: list[Any] = [copy.copy(layer) for layer in cache.layers]
    chosen.layers = layers
    for layer in layers:
        if not layer.is_initialized:
            continue
        everything = rows.shape[0] == layer.keys.shape[0] and bool(
            torch.equal(rows, torch.arange(rows.shape[0], device=rows.device))
        )
        if everything:
            # Layers grow by concatenation, never in place, so sharing the tensors is safe.
            continue
        layer.keys = layer.keys.index_select(0, rows.to(layer.keys.device))
        layer.values = layer.values.index_select(0, rows.to(layer.values.device))
    return chosen
