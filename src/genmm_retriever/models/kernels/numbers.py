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

USUAL = 64
"""Size of a head in most models."""
_PER_E = np.float32(1.4426950408889634)
_HALF, _ONE = np.float32(0.5), np.float32(1)
_LEAST, _MOST = np.float32(-127), np.float32(128)
# 2 ** f for f in [-0.5, 0.5], within 3e-6 of itself, the best that four terms can do.
_C1, _C2 = np.float32(6.9312418e-1), np.float32(2.4024099e-1)
_C3, _C4 = np.float32(5.5906426e-2), np.float32(9.5828520e-3)


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
    """Power of e, within 1e-5 of itself; 0 below 2 ** -127, infinite from 2 ** 128."""
    power = np.float32(value * _PER_E)
    # Written so that what is no number stays none.
    power = _LEAST if power < _LEAST else power
    power = _MOST if power > _MOST else power
    whole = np.floor(power + _HALF)
    part = power - whole
    found = (((_C4 * part + _C3) * part + _C2) * part + _C1) * part + _ONE
    # Adding to a float's exponent multiplies it by a power of two; at both ends part is 0.
    shift = np.int32(np.int32(whole) << np.int32(23))
    return np.int32(np.float32(found).view(np.int32) + shift).view(np.float32)


# A loop whose rounds are known beforehand needs none to end on: hence one for the size of a head
# in most models.
@vectorised_helper
def widen(given: U16, made: F32) -> None:
    """Write the float32 of bfloat16's bits."""
    if len(made) == USUAL:
        for i in range(USUAL):
            made[i] = wide(given[i])
    else:
        for i in range(len(made)):
            made[i] = wide(given[i])


@vectorised_helper
def narrow(given: F32, made: U16) -> None:
    """Write the bits of the nearest bfloat16."""
    if len(made) == USUAL:
        for i in range(USUAL):
            made[i] = short(given[i])
    else:
        for i in range(len(made)):
            made[i] = short(given[i])


@vectorised_helper
def copied(given: U16, made: U16) -> None:
    """Write the same; faster than an assignment of slices, which looks for overlaps."""
    for i in range(len(made)):
        made[i] = given[i]


@vectorised_helper
def over_root_mean(total: Number, size: int, epsilon: Number) -> Number:
    """One over the root of the mean of squares, which are so much in all."""
    return _ONE / np.sqrt(total / np.float32(size) + np.float32(epsilon))
