"""Arrays that kernels write on, kept between calls."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from genmm_retriever.constraints.clues.choosing import Room as NextRoom


class Room(threading.local):
    """Arrays that kernels leave as they found them, for each thread."""

    def __init__(self) -> None:
        self.next: dict[tuple[int, int], NextRoom] = {}
        self.passages = np.zeros(1, np.uint64)

    def for_next(self, size: int, wanted: int) -> NextRoom:
        """Room for `choosing.next_tokens`."""
        from genmm_retriever.constraints.clues import ranking

        if (size, wanted) not in self.next:
            blocks = -(-size // ranking.BLOCK)
            if len(self.next) > 8:
                self.next.clear()
            self.next[size, wanted] = (
                np.zeros(size + 1, np.int64),
                np.zeros(size + 2, np.int64),
                np.zeros(size // 64 + 1, np.uint64),
                np.zeros(wanted + 1, np.int64),
                np.zeros(blocks, np.int32),
                np.zeros(-(-blocks // ranking.GROUP), np.int32),
                np.zeros(size + 1, np.int64),
            )
        return self.next[size, wanted]

    def for_passages(self, most: int) -> NDArray[np.uint64]:
        """A zero bit for each passage of the largest shard."""
        if len(self.passages) <= most // 64:
            self.passages = np.zeros(most // 64 + 1, np.uint64)
        return self.passages

    def spoil(self) -> None:
        """Forget them after a kernel that broke off."""
        self.next.clear()
        self.passages = np.zeros(1, np.uint64)


ROOM = Room()
"""That of the present thread."""
