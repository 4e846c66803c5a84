"""Items by their ids, from the newest generation, without waiting for a query to end."""

from __future__ import annotations

import threading
from pathlib import Path

from ...corpus.references import local_path
from ...corpus.store import IndexReader, IndexSettings
from ...corpus.store.manifest import Manifest
from ...errors import GenmmError
from ...schema import Item
from .errors import Refusal
from .schemas import ItemView


class Catalogue:
    """A reader of its own beside the retriever's, whose lock is held while a query is answered.

    Args:
        path: The index folder.

    Raises:
        IndexNotFoundError: If there is no finished index.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._reader = IndexReader.open(path)

    def close(self) -> None:
        """Let go of the files."""
        with self._lock:
            self._reader.close()

    def is_there(self) -> bool:
        """Whether the index can still be opened; costs one `stat` while nothing is published."""
        with self._lock:
            # A reader goes on with the files that it has open, also after they were removed.
            if Manifest.stat(self._path) == (0, 0, 0):
                return False
            try:
                self._newest()
            except (GenmmError, OSError):
                return False
        return True

    def item(self, item_id: str) -> Item:
        """The item of an id.

        Raises:
            Refusal: 404 if there is none.
        """
        with self._lock:
            reader = self._newest()
            return reader.item(_row(reader, item_id))

    def holds(self, item_id: str) -> bool:
        """Whether there is an item of an id."""
        with self._lock:
            return self._newest().row(item_id) is not None

    def view(self, item_id: str) -> ItemView:
        """The item of an id as it is shown, with captions and identifiers.

        Raises:
            Refusal: 404 if there is none.
        """
        with self._lock:
            reader = self._newest()
            row = _row(reader, item_id)
            item = reader.item(row)
            captions = [described.text for described in reader.descriptions([row])[0]]
            identifiers = reader.identifiers_of([row])[0]
        return ItemView.of(item, local=is_local(item), captions=captions, identifiers=identifiers)

    def counts(self) -> dict[str, int]:
        """Numbers of items, images, texts and identifiers, and the generation."""
        with self._lock:
            reader = self._newest()
            return {**reader.counts(), "generation": reader.generation}

    def settings(self) -> IndexSettings:
        """How the index was made."""
        with self._lock:
            return self._newest().settings

    def file(self, item_id: str) -> Path:
        """The file of an item's picture; nothing else on this machine is ever named.

        Raises:
            Refusal: 404 if there is no such item, it has no picture, or its picture lies on
                another machine: the service fetches nothing.
        """
        item = self.item(item_id)
        if not isinstance(item.image, str):
            raise Refusal(404, f"item {item_id!r} has no picture", "it is a text")
        path = local_path(item.image)
        if path is None:
            raise Refusal(
                404,
                f"the picture of item {item_id!r} lies elsewhere",
                "the service fetches nothing; fetch it from where the index was built from",
            )
        return path

    def _newest(self) -> IndexReader:
        if self._reader.is_stale():
            newer = IndexReader.open(self._path, previous=self._reader)
            self._reader.close()
            self._reader = newer
        return self._reader


def is_local(item: Item) -> bool:
    """Whether an item has a picture that lies on this machine."""
    return isinstance(item.image, str) and local_path(item.image) is not None


def _row(reader: IndexReader, item_id: str) -> int:
    row = reader.row(item_id)
    if row is None:
        raise Refusal(404, f"there is no item {item_id!r}", "see the ids that a search finds")
    return row
