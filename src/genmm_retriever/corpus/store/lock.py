"""One writer at a time: an advisory lock that ends with its process."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from genmm_retriever.corpus.store.files import LOCK
from genmm_retriever.errors import IndexLockedError

LOCK_MAGIC = b"genmm-index writer lock, pid "
# On Windows the locked byte cannot be read by others, so it lies behind the text.
_LOCKED_BYTE = 1024


def _acquire(handle: int) -> None:
    if sys.platform == "win32":
        import msvcrt

        os.lseek(handle, _LOCKED_BYTE, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


class WriterLock:
    """The lock of an index folder; held from construction to `release`.

    The kernel drops it when the process ends, however it ends, so that no stale lock is left.

    Args:
        folder: The index folder, or one inside it, which exists.
        busy: What somebody else who holds it does; None for writing the index.

    Raises:
        IndexLockedError: If a writer holds it, in this process or another.
        OSError: If the lock file cannot be created.
    """

    def __init__(self, folder: Path, *, busy: str | None = None) -> None:
        self._path = folder / LOCK
        self._handle = os.open(self._path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0))
        try:
            _acquire(self._handle)
        except OSError as error:
            owner = self._owner()
            os.close(self._handle)
            self._handle = -1
            raise IndexLockedError(
                f"{busy or f'the index {str(folder)!r} is being written'} by {owner}",
                "wait until it has finished, or end it",
            ) from error
        try:
            os.lseek(self._handle, 0, os.SEEK_SET)
            os.ftruncate(self._handle, 0)
            os.write(self._handle, LOCK_MAGIC + str(os.getpid()).encode())
        except OSError:
            self.release()
            raise

    def _owner(self) -> str:
        os.lseek(self._handle, 0, os.SEEK_SET)
        content = os.read(self._handle, 128)
        pid = content[len(LOCK_MAGIC) :].decode("ascii", "replace")
        return f"process {pid}" if content.startswith(LOCK_MAGIC) and pid else "another process"

    def release(self) -> None:
        """Let the next writer in; harmless when called twice."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
