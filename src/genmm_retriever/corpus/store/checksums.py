"""Size and checksums of published files, and how much of them opening an index verifies.

Up to `LARGE` bytes a file is verified in whole on opening. Hashing tens of gigabytes would take
minutes, so of a larger file opening verifies the size, the first block (its header), the last
one and others drawn at random; `genmm check` reads all of it.
"""

from __future__ import annotations

import hashlib
import random
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from genmm_retriever.corpus.store.files import DAMAGED_HINT
from genmm_retriever.errors import IndexDamagedError

LARGE = 1 << 30
BLOCK = 1 << 22
SAMPLED = 16
_READ = 1 << 20


@dataclass(frozen=True)
class FileEntry:
    """What is known of a published file.

    Args:
        size: In bytes.
        sha256: Of the whole content, in hexadecimal.
        blocks: CRC-32 of every `BLOCK` bytes, eight hexadecimal digits each; empty for a file
            of up to `LARGE` bytes, which is always verified in whole.
    """

    size: int
    sha256: str
    blocks: str = ""


class Digest:
    """Computes a `FileEntry` from content that comes piece by piece."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        self._size = 0
        self._block = 0
        self._blocks: list[str] = []

    def update(self, piece: bytes | memoryview) -> None:
        """Take in the next bytes."""
        piece = memoryview(piece).cast("B")
        self._sha256.update(piece)
        while piece:
            part = piece[: BLOCK - self._size % BLOCK]
            self._block = zlib.crc32(part, self._block)
            self._size += len(part)
            if self._size % BLOCK == 0:
                self._close_block()
            piece = piece[len(part) :]

    def _close_block(self) -> None:
        self._blocks.append(f"{self._block:08x}")
        self._block = 0

    def entry(self) -> FileEntry:
        """The entry of what has been taken in; nothing may follow."""
        if self._size % BLOCK:
            self._close_block()
        blocks = "".join(self._blocks) if self._size > LARGE else ""
        return FileEntry(self._size, self._sha256.hexdigest(), blocks)


def file_entry(path: Path) -> FileEntry:
    """The entry of a file, computed from its content."""
    digest = Digest()
    with path.open("rb") as handle:
        while piece := handle.read(_READ):
            digest.update(piece)
    return digest.entry()


def verify_file(path: Path, entry: FileEntry | None, *, full: bool = False) -> Path:
    """The path of a file whose size and checksums hold.

    Args:
        path: The file.
        entry: What it must be; None if nothing is known of it, which is damage as well.
        full: Whether a file above `LARGE` bytes is read in whole too.

    Raises:
        IndexDamagedError: If it is missing, cut short or altered.
    """
    try:
        if entry is None or path.stat().st_size != entry.size:
            raise IndexDamagedError(f"{path} is cut short or altered", DAMAGED_HINT)
        if full or not entry.blocks:
            intact = _whole(path) == entry.sha256
        else:
            with path.open("rb") as handle:
                intact = _sampled(handle, entry)
    except FileNotFoundError as error:
        raise IndexDamagedError(f"{path} is missing", DAMAGED_HINT) from error
    except OSError as error:
        raise IndexDamagedError(
            f"{path} cannot be read: {error.strerror or error}", DAMAGED_HINT
        ) from error
    if not intact:
        raise IndexDamagedError(f"{path} is damaged: its checksum does not match", DAMAGED_HINT)
    return path


def _whole(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while piece := handle.read(_READ):
            digest.update(piece)
    return digest.hexdigest()


def _sampled(handle: BinaryIO, entry: FileEntry) -> bool:
    count = -(-entry.size // BLOCK)
    if len(entry.blocks) != 8 * count:
        return False
    # Drawn anew each time, so that damage anywhere is met sooner or later.
    drawn = random.sample(range(count), min(SAMPLED, count))
    for block in sorted({0, count - 1, *drawn}):
        handle.seek(block * BLOCK)
        found = zlib.crc32(handle.read(BLOCK))
        if f"{found:08x}" != entry.blocks[8 * block : 8 * block + 8]:
            return False
    return True
