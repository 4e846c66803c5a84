"""Keys and values of decoder rows: which caches can be gathered by row, and how."""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer

_BY_ROW = (DynamicLayer, DynamicSlidingWindowLayer)
_ONLY_READ = "_genmm_only_read"


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


def is_plain(cache: object) -> bool:
    """Whether every layer keeps all its tokens, so that a mask may choose among them."""
    return isinstance(cache, Cache) and all(type(layer) is DynamicLayer for layer in cache.layers)


def kept_tokens(
    cache: object, index: int, shape: tuple[int, int, int], dtype: torch.dtype
) -> int | None:
    """How many tokens a plain layer of a cache on the CPU keeps; see `of_layer`.

    Args:
        cache: Any.
        index: Of the layer.
        shape: Rows, heads and size of a head that it ought to have.
        dtype: That it ought to have.

    Returns:
        None if the layer is of another kind, shape or dtype.
    """
    if not isinstance(cache, Cache) or getattr(cache, "offloading", False):
        return None
    layer: Any = cache.layers[index] if index < len(cache.layers) else None
    if type(layer) is not DynamicLayer:
        return None
    kept: list[Any] = [layer.keys, layer.values]
    if not layer.is_initialized or not kept[0].numel():
        return 0
    length = int(kept[0].shape[-2])
    wanted = (*shape[:2], length, shape[2])
    fits = all(
        one.shape == wanted and one.dtype == dtype and one.device.type == "cpu" for one in kept
    )
    return length if fits else None


def of_layer(cache: Cache, index: int) -> tuple[Tensor, Tensor]:
    """The keys and values of a plain layer, contiguous."""
    layer: Any = cache.layers[index]
    return layer.keys.contiguous(), layer.values.contiguous()


def set_layer(cache: Cache, index: int, keys: Tensor, values: Tensor) -> None:
    """Let a plain layer keep these, [rows, heads, length, size], in place of what it has."""
    layer: Any = cache.layers[index]
    if not layer.is_initialized:
        layer.lazy_initialization(keys, values)
    layer.keys, layer.values = keys, values


def share(cache: Cache) -> Cache:
    """A second cache over the same keys and values; what one grows the other never sees."""
    # Layers grow by concatenation, never in place, so sharing the tensors is safe.
    shared = copy.copy(cache)
    shared.layers = [copy.copy(layer) for layer in cache.layers]
    return shared


def only_read(cache: Cache) -> Cache:
    """The same from which nobody goes on: layers that know of it need not grow it."""
    shared = share(cache)
    setattr(shared, _ONLY_READ, True)
    return shared


def is_only_read(cache: object) -> bool:
    """Whether `only_read` made it."""
    return getattr(cache, _ONLY_READ, False) is True


def choose_tokens(cache: Cache, rows: Tensor, tokens: Tensor) -> Cache:
    """A cache of chosen tokens of chosen rows; the given one is left as it was.

    Args:
        cache: Plain, see `is_plain`.
        rows: [m], int64.
        tokens: Tokens that each of these rows keeps, in their new order, [m, L], int64.
    """
    chosen = share(cache)
    layers: list[Any] = chosen.layers
    for layer in layers:
        if layer.is_initialized:
            index = (rows.to(layer.keys.device)[:, None], tokens.to(layer.keys.device))
            # Indexing puts the indexed dimensions first: [m, L, heads, size].
            layer.keys = layer.keys.transpose(1, 2)[index].transpose(1, 2)
            layer.values = layer.values.transpose(1, 2)[index].transpose(1, 2)
    return chosen


def gather(cache: Cache, rows: Tensor) -> Cache:
    """A cache of the chosen rows; the given one is left as it was.

    Args:
        cache: Gatherable, see `is_gatherable`.
        rows: [m], int64; repeats are allowed.
    """
    chosen = share(cache)
    layers: list[Any] = chosen.layers
    for layer in layers:
        if not layer.is_initialized:
            continue
        everything = rows.shape[0] == layer.keys.shape[0] and bool(
            torch.equal(rows, torch.arange(rows.shape[0], device=rows.device))
        )
        if everything:
            continue
        layer.keys = layer.keys.index_select(0, rows.to(layer.keys.device))
        layer.values = layer.values.index_select(0, rows.to(layer.values.device))
    return chosen


def append_rows(cache: Cache, more: Cache) -> Cache:
    """A cache of the rows of both; those of the shorter one are padded on the left.

    Args:
        cache: Gatherable, with at least as many tokens as the other.
        more: Of the same model.
    """
    joined = share(cache)
    layers: list[Any] = joined.layers
    for layer, other in zip(layers, cast("list[Any]", more.layers), strict=True):
        if layer.is_initialized:
            missing = layer.keys.shape[-2] - other.keys.shape[-2]
            layer.keys = torch.cat([layer.keys, pad(other.keys, (0, 0, missing, 0))])
            layer.values = torch.cat([layer.values, pad(other.values, (0, 0, missing, 0))])
    return joined
