"""Arrays on disk: feature segments (`.npy`) and containers of named arrays (safetensors)."""

from __future__ import annotations

import errno
import json
import math
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from genmm_retriever.corpus.store.checksums import Digest, FileEntry
from genmm_retriever.corpus.store.files import DAMAGED_HINT
from genmm_retriever.errors import IndexDamagedError, InputError

HEADER_SIZE = 128
FEATURE_DTYPE = np.dtype("<f2")
_LARGEST_HEADER = 1 << 24
_PIECE = 1 << 22
_TO_CODE = {
    "<f8": "F64", "<f4": "F32", "<f2": "F16", "<i8": "I64", "<i4": "I32", "<i2": "I16",
    "|i1": "I8", "<u8": "U64", "<u4": "U32", "<u2": "U16", "|u1": "U8", "|b1": "BOOL",
}  # fmt: skip
_FROM_CODE = {code: np.dtype(text) for text, code in _TO_CODE.items()}


def segment_header(rows: int, shape: Sequence[int]) -> bytes:
    """The 128 bytes before the data of a feature segment: a plain version 1.0 npy header.

    Its size does not depend on the number of rows, so that a growing file needs no shifting.
    """
    full = (rows, *(int(size) for size in shape))
    text = f"{{'descr': '<f2', 'fortran_order': False, 'shape': {full!r}, }}"
    if len(text) > HEADER_SIZE - 11:
        raise InputError(f"features of shape {tuple(shape)} have too many dimensions")
    body = text.ljust(HEADER_SIZE - 11) + "\n"
    return b"\x93NUMPY\x01\x00" + (HEADER_SIZE - 10).to_bytes(2, "little") + body.encode()


def row_bytes(shape: Sequence[int]) -> int:
    """Bytes of one row of features."""
    return int(np.prod(shape, dtype=np.int64)) * FEATURE_DTYPE.itemsize


def write_rows(path: Path, position: int, rows: np.ndarray) -> list[int]:
    """Write feature rows at a position of a segment, durably.

    Args:
        path: The segment, created if absent.
        position: Row number in the segment; what lies behind it is overwritten, so that what
            a crash left there does no harm.
        rows: `[n, *shape]` half precision.

    Returns:
        CRC-32 of each row.
    """
    rows = np.ascontiguousarray(rows, dtype=FEATURE_DTYPE)
    created = not path.exists()
    with path.open("w+b" if created else "r+b") as handle:
        if created:
            handle.write(b"\0" * HEADER_SIZE)
        handle.seek(HEADER_SIZE + position * row_bytes(rows.shape[1:]))
        handle.truncate()
        handle.write(rows.tobytes())
        handle.flush()
        os.fsync(handle.fileno())
    return [zlib.crc32(row.tobytes()) for row in rows]


def finish_segment(path: Path, rows: int, shape: Sequence[int]) -> None:
    """Give a segment its header and its exact size."""
    with path.open("r+b") as handle:
        handle.write(segment_header(rows, shape))
        handle.truncate(HEADER_SIZE + rows * row_bytes(shape))
        handle.flush()
        os.fsync(handle.fileno())


def map_segment(path: Path, shape: Sequence[int]) -> np.ndarray:
    """Map a segment's rows, finished or growing.

    Raises:
        IndexDamagedError: If the file is missing.
    """
    try:
        size = path.stat().st_size
        each = row_bytes(shape)
        rows = max(0, size - HEADER_SIZE) // each if each else 0
        if rows == 0:
            return np.zeros((0, *shape), dtype=FEATURE_DTYPE)
        return np.memmap(path, FEATURE_DTYPE, "r", offset=HEADER_SIZE, shape=(rows, *shape))
    except OSError as error:
        raise IndexDamagedError(f"{path} is missing", DAMAGED_HINT) from error


def gather(
    folder: Path,
    segments: Mapping[str, np.ndarray],
    places: Sequence[tuple[str, int, int]],
    shape: Sequence[int],
) -> np.ndarray:
    """Copy feature rows out of their segments, each verified.

    Returns:
        `[n, *shape]` half precision.

    Raises:
        IndexDamagedError: If a row is missing or its checksum does not match.
    """
    result = np.empty((len(places), *shape), dtype=FEATURE_DTYPE)
    for n, (segment, position, crc) in enumerate(places):
        rows = segments.get(segment)
        if rows is None or position >= len(rows):
            raise IndexDamagedError(f"{folder / segment} is cut short", DAMAGED_HINT)
        result[n] = rows[position]
        if zlib.crc32(result[n].tobytes()) != crc:
            raise IndexDamagedError(
                f"{folder / segment} is damaged: the checksum of row {position} does not match",
                DAMAGED_HINT,
            )
    return result


def check_array(name: str, array: np.ndarray) -> np.ndarray:
    """An array in the byte order and layout of the container.

    Raises:
        InputError: If its type is none that safetensors knows.
    """
    array = np.asarray(array)
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    if little.dtype.str not in _TO_CODE:
        raise InputError(f"array {name!r} has type {array.dtype}, which cannot be kept")
    return little if little.flags.c_contiguous else little.copy(order="C")


def write_container(handle: BinaryIO, arrays: Mapping[str, np.ndarray]) -> FileEntry:
    """Write arrays as one safetensors file, without holding them twice.

    Returns:
        Size and checksums of what was written, which need not be read again for them.
    """
    # Wide types first keeps every array aligned; the name makes the file reproducible.
    names = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))
    header: dict[str, object] = {}
    offset = 0
    for name in names:
        array = arrays[name]
        header[name] = {
            "dtype": _TO_CODE[array.dtype.str],
            "shape": list(array.shape),
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
    text = json.dumps(header).encode()
    text = text.ljust(-(-(len(text) + 8) // 64) * 64 - 8)
    digest = Digest()
    for piece in _pieces(len(text).to_bytes(8, "little") + text, [arrays[n] for n in names]):
        handle.write(piece)
        digest.update(piece)
    return digest.entry()


def _pieces(header: bytes, arrays: Sequence[np.ndarray]) -> Iterator[bytes | memoryview]:
    yield header
    for array in arrays:
        if array.nbytes:
            flat = array.reshape(-1).view(np.uint8)
            for start in range(0, len(flat), _PIECE):
                yield flat[start : start + _PIECE].data


def map_container(path: Path, *, writeable: bool = True) -> dict[str, np.ndarray]:
    """Map the arrays of a safetensors file.

    Args:
        path: The file; it never changes.
        writeable: Whether a caller may write into the maps, which changes this process's copy
            only. An array for which the system will not promise so much memory is mapped
            read-only all the same.

    Raises:
        IndexDamagedError: If the file is missing or not what it should be.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as handle:
            length = int.from_bytes(handle.read(8), "little")
            if length > min(_LARGEST_HEADER, size):
                raise ValueError("header length")
            header = json.loads(handle.read(length))
        header.pop("__metadata__", None)
        places = {name: _Place.parse(entry, 8 + length, size) for name, entry in header.items()}
        return {name: place.map(path, writeable=writeable) for name, place in places.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise IndexDamagedError(f"{path} is damaged or missing", DAMAGED_HINT) from error


@dataclass(frozen=True)
class _Place:
    """Where an array lies in its file."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    start: int

    @classmethod
    def parse(cls, entry: dict[str, Any], start: int, size: int) -> _Place:
        dtype = _FROM_CODE[str(entry["dtype"])]
        shape = tuple(int(length) for length in entry["shape"])
        first, last = (int(offset) for offset in entry["data_offsets"])
        if last - first != math.prod(shape) * dtype.itemsize or first < 0 or start + last > size:
            raise ValueError("data offsets")
        return cls(dtype, shape, start + first)

    def map(self, path: Path, *, writeable: bool) -> np.ndarray:
        if 0 in self.shape:
            return np.zeros(self.shape, self.dtype)
        try:
            return self._map(path, "c" if writeable else "r")
        except OSError as error:
            # Copy-on-write takes as much of the memory that may be promised as it maps.
            if error.errno != errno.ENOMEM or not writeable:
                raise
            return self._map(path, "r")

    def _map(self, path: Path, mode: Literal["c", "r"]) -> np.ndarray:
        return np.memmap(path, self.dtype, mode, offset=self.start, shape=self.shape)
