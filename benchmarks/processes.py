"""What a process takes: its peak of memory, and its page faults."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import Skipped

_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")


@dataclass
class Usage:
    """Filled at the end of the block.

    Attributes:
        peak: Most resident bytes above those at the beginning.
        major_faults: Pages that had to be read from disk.
        minor_faults: Pages that were in memory already.
    """

    peak: int = 0
    major_faults: int = 0
    minor_faults: int = 0


@contextmanager
def usage() -> Iterator[Usage]:
    """Measure what happens inside.

    Raises:
        Skipped: If the system does not let a process reset its peak (Linux does).
    """
    found = Usage()
    gc.collect()
    try:
        _RESET.write_text("5", encoding="ascii")
    except OSError as error:
        raise Skipped("a process's peak of memory can only be measured on Linux") from error
    before, (major, minor) = _status("VmRSS"), _faults()
    yield found
    after = _faults()
    found.peak = _status("VmHWM") - before
    found.major_faults, found.minor_faults = after[0] - major, after[1] - minor


def _faults() -> tuple[int, int]:
    """Major and minor page faults of this process so far."""
    import resource  # absent on Windows, where `usage` is skipped before

    counts = resource.getrusage(resource.RUSAGE_SELF)
    return counts.ru_majflt, counts.ru_minflt


def _status(key: str) -> int:
    for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise Skipped(f"/proc/self/status has no {key}")


def forget(folder: Path) -> None:
    """Drop a folder's files from the system's page cache, as after a restart.

    Raises:
        Skipped: If the system cannot be asked to.
    """
    if not hasattr(os, "posix_fadvise"):
        raise Skipped("the page cache can only be emptied on Linux")
    for path in folder.rglob("*"):
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
                os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(handle)
