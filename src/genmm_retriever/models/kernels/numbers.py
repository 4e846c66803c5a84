"""Numbers of the loops: bfloat16 by its bits, and the exponential function; compiled."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from genmm_retriever.jit import vectorised_helper

F32: TypeAlias = NDArray[np.float32]
I32: TypeAlias = NDArray[np.int32]
U16: TypeAlias = NDArray[np.uint16]
Number: TypeAlias = Any
"""A number of the type that its name or its maker says: compiled, it has no other."""

_PER_E = np.float32(1.4426950408889634)
_ZERO, _HALF, _ONE = np.float32(0), np.float32(0.5), np.float32(1)
_LEAST, _TOO_LARGE, _MOST = np.float32(-126), np.float32(128), np.float32(np.inf)
# 2 ** f for f in [-0.5, 0.5] by least squares of the relative error, below 2e-6.
_C1, _C2, _C3 = np.float32(6.9314718e-1), np.float32(2.4022651e-1), np.float32(5.5504109e-2)
_C4, _C5, _C6 = np.float32(9.6181291e-3), np.float32(1.3333558e-3), np.float32(1.5403530e-4)


@vectorised_helper
def wide(bits: Number) -> Number:
    """The float32 of a bfloat16's bits."""
    return np.uint32(np.uint32(bits) << np.uint32(16)).view(np.float32)


@vectorised_helper
def short(value: Number) -> Number:
    """The bits of the bfloat16 nearest to a float32; ties, one in 65,536, away from zero."""
    bits = np.float32(value).view(np.uint32)
    return np.uint16(np.uint32(np.uint32(bits + np.uint32(0x8000)) >> np.uint32(16)))


@vectorised_helper
def exponential(value: Number) -> Number:
    """Power of e, within 2e-6 of itself; 0 below 2 ** -126, infinite from 2 ** 128."""
    power = np.float32(value * _PER_E)
    whole = np.floor(power + _HALF)
    part = power - whole
    found = ((_C6 * part + _C5) * part + _C4) * part + _C3
    found = ((found * part + _C2) * part + _C1) * part + _ONE
    # Adding to a float's exponent multiplies it by a power of two.
    shift = np.int32(np.int32(whole) << np.int32(23))
    found = np.int32(np.float32(found).view(np.int32) + shift).view(np.float32)
    found = _ZERO if power < _LEAST else found
    return _MOST if power >= _TOO_LARGE else found
