"""What a process takes: its peak of memory, and its page faults."""

from __future__ import annotations

import gc
import os
import resource
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
    before, faults = _status("VmRSS"), resource.getrusage(resource.RUSAGE_SELF)
    yield found
    after = resource.getrusage(resource.RUSAGE_SELF)
    found.peak = _status("VmHWM") - before
    found.major_faults = after.ru_majflt - faults.ru_majflt
    found.minor_faults = after.ru_minflt - faults.ru_minflt


def _status(key: str) -> int:
    for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise Skipped(f"/proc/self/status has no {key}")


def forget(folder: Path) -> None:
    """Drop a folder's files from the system's page cache, as after a restart."""
    for path in folder.rglob("*"):
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
                os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(handle)
