"""Features of pictures, kept in memory for the next time that the picture is looked at."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Hashable

from torch import Tensor

from genmm_retriever.corpus.references import local_path
from genmm_retriever.schema import ImageRef


class KeptFeatures:
    """The features of the pictures used last, by picture; not for several threads at once.

    Args:
        most_bytes: What they may take together; those not used for longest go first.
    """

    def __init__(self, most_bytes: int = 64 * 2**20) -> None:
        self._most = most_bytes
        self._kept: OrderedDict[Hashable, Tensor] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self._kept)

    def get(self, key: Hashable) -> Tensor | None:
        """The features kept under a key, or None."""
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
        return found

    def put(self, key: Hashable, features: Tensor) -> None:
        """Keep one picture's features; they are copied, so that their batch is not held."""
        if key in self._kept or features.nbytes > self._most:
            return
        self._kept[key] = features.clone()
        self._bytes += features.nbytes
        while self._bytes > self._most:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes


def picture_key(reference: ImageRef) -> Hashable:
    """What tells a picture from others: for a file its path, size and time of change too."""
    if isinstance(reference, bytes):
        return hashlib.sha256(reference).digest()
    path = local_path(reference)
    if path is not None:
        try:
            status = path.stat()
        except (OSError, ValueError):
            return reference  # whoever opens it is told what is wrong
        return str(path), status.st_mtime_ns, status.st_size
    # A data: URI may be long.
    return hashlib.sha256(reference.encode("utf-8", "surrogatepass")).digest()
