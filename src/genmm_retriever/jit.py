"""Compiled loops: numba, kept on disk, with arrays passed by address."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from genmm_retriever.errors import MissingExtraError

try:
    numba: Any = import_module("numba")
    _intrinsic: Any = import_module("numba.extending").intrinsic
except ImportError as error:
    raise MissingExtraError("numba", "models") from error

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

_REORDERED = {"contract", "reassoc", "arcp", "nsz", "afn"}
"""Of what compilers call fast arithmetic, all but that nothing is infinite or NaN."""


@cache
def _sources(folder: Path) -> int:
    """A checksum of everything that the kernels of a folder are made of."""
    total = 0
    for path in [Path(__file__), *sorted(folder.glob("*.py"))]:
        total = zlib.crc32(path.read_bytes(), total)
    return total


def kernel(function: FunctionT) -> FunctionT:
    """Compile at the first call, without the GIL; kept on disk where a folder can be written."""
    return _compiled(function)


def helper(function: FunctionT) -> FunctionT:
    """The same for what only kernels call: it takes less long to compile."""
    return _compiled(function, no_cpython_wrapper=True, no_cfunc_wrapper=True)


def vectorised(function: FunctionT) -> FunctionT:
    """A kernel whose sums of floating-point numbers may be reordered, so that lanes share them."""
    return _compiled(function, fastmath=_REORDERED)


def vectorised_helper(function: FunctionT) -> FunctionT:
    """The same for what only kernels call."""
    hidden = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True, "forceinline": True}
    return _compiled(function, fastmath=_REORDERED, **hidden)


def _compiled(function: FunctionT, **more: Any) -> FunctionT:
    # numba looks at the age of a function's own file alone; its cache is to be new when any
    # helper is.
    folder = Path(function.__code__.co_filename).parent
    function.__qualname__ += f"_{_sources(folder):08x}"
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", **more}
    try:
        compiled: FunctionT = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # numba finds no folder for its cache
        compiled = numba.njit(**options)(function)
    else:
        _keep_if_possible(compiled)
    return compiled


def _keep_if_possible(compiled: Any) -> None:
    """Let a full disk cost the next start some seconds, not this one a search."""
    kept = getattr(compiled, "_cache", None)
    save = getattr(kept, "save_overload", None)
    if kept is None or save is None:
        return

    def save_overload(*given: Any) -> None:
        with suppress(OSError):
            save(*given)

    kept.save_overload = save_overload


def _as_pointer(typing: Any, address: Any) -> Any:
    """An address as a pointer."""
    signature = numba.types.voidptr(address)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return signature, generate


_pointer: Any = _intrinsic(_as_pointer)
_carray: Any = numba.carray


# One type for every array, whether it is mapped read-only or not, and any number of shards in
# one call: a kernel gets a table of addresses. Whoever calls it holds the arrays meanwhile.
@helper
def as_u32(address: int, size: int) -> NDArray[np.uint32]:
    """The array of uint32 at an address."""
    found: NDArray[np.uint32] = _carray(_pointer(address), (size,), np.uint32)
    return found


@helper
def as_i32(address: int, size: int) -> NDArray[np.int32]:
    """The array of int32 at an address."""
    found: NDArray[np.int32] = _carray(_pointer(address), (size,), np.int32)
    return found


@helper
def as_i64(address: int, size: int) -> NDArray[np.int64]:
    """The array of int64 at an address."""
    found: NDArray[np.int64] = _carray(_pointer(address), (size,), np.int64)
    return found


@helper
def as_u64(address: int, size: int) -> NDArray[np.uint64]:
    """The array of uint64 at an address."""
    found: NDArray[np.uint64] = _carray(_pointer(address), (size,), np.uint64)
    return found


@helper
def as_u16(address: int, shape: tuple[int, ...]) -> NDArray[np.uint16]:
    """The array of uint16 at an address."""
    found: NDArray[np.uint16] = _carray(_pointer(address), shape, np.uint16)
    return found


@helper
def as_i16(address: int, shape: tuple[int, ...]) -> NDArray[np.int16]:
    """The array of int16 at an address."""
    found: NDArray[np.int16] = _carray(_pointer(address), shape, np.int16)
    return found


@helper
def as_f32(address: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The array of float32 at an address."""
    found: NDArray[np.float32] = _carray(_pointer(address), shape, np.float32)
    return found
