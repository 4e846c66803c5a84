"""What training sees of an index: items, words, pictures and the identifiers to be learnt."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from genmm_retriever.corpus.images import open_image
from genmm_retriever.corpus.store import IdentifierRecord, IndexReader
from genmm_retriever.errors import ImageError
from genmm_retriever.models.base import ImagePart
from genmm_retriever.schema import ImageRef, Item

_AT_ONCE = 1024


class Corpus:
    """A generation of an index, read row by row.

    Args:
        reader: The open index; stays the caller's.

    Attributes:
        rows: All rows that have identifiers, ascending.
        answers: The token ids of each row's identifiers, end token included.
        words: The descriptions that each row was indexed by.
        captions: Those of the descriptions that the model wrote of each row.
        objects: The names of what a classifier saw in each row, as far as it was sure.
        marks: A hash of each row's content and the model, by which what is written is kept.
    """

    def __init__(self, reader: IndexReader) -> None:
        self.reader = reader
        self.answers: dict[int, list[tuple[int, ...]]] = {}
        self.words: dict[int, list[str]] = {}
        self.captions: dict[int, list[str]] = {}
        self.objects: dict[int, list[str]] = {}
        self.marks: dict[int, str] = {}
        self._kinds: dict[int, str] = {}
        live = reader.live_rows().tolist()
        for start in range(0, len(live), _AT_ONCE):
            rows = live[start : start + _AT_ONCE]
            for record in reader.identifiers(rows):
                self.answers.setdefault(record.row, []).append(record.tokens)
            described = reader.descriptions(rows)
            for row, item, texts in zip(rows, reader.items(rows), described, strict=True):
                self._kinds[row] = item.kind
                content = [reader.settings.model_fingerprint, item.id, str(item.image), item.text]
                self.marks[row] = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
                self.words[row] = [one.text for one in texts]
                self.captions[row] = [one.text for one in texts if one.source == "model"]
                self.objects[row] = [
                    name.strip()
                    for one in texts
                    if one.source == "objects"
                    for name in one.text.split(",")
                ]
        self.rows = sorted(self.answers)

    def records(self, rows: Sequence[int]) -> list[IdentifierRecord]:
        """Identifiers of rows."""
        return self.reader.identifiers(rows)

    def is_picture(self, row: int) -> bool:
        """Whether an item is a picture."""
        return self._kinds[row] == "image"

    def item(self, row: int) -> Item:
        """The item at a row."""
        return self.reader.item(row)

    def picture(self, row: int) -> ImagePart | None:
        """An item's picture, as kept features or opened; None if it cannot be opened."""
        features = self.reader.features([row])
        if features is not None:
            return ImagePart(features=torch.from_numpy(np.array(features[0])))
        return open_part(self.item(row).image)

    def look(self, rows: Sequence[int]) -> Iterator[tuple[int, Item, ImagePart | None]]:
        """Row, item and picture of each row; pictures that cannot be opened are left out."""
        for row, item in zip(rows, self.reader.items(rows), strict=True):
            image = self.picture(row) if item.kind == "image" else None
            if item.kind == "text" or image is not None:
                yield row, item, image


def open_part(image: ImageRef | None) -> ImagePart | None:
    """A picture for a prompt, or None if it cannot be opened."""
    if image is None:
        return None
    try:
        return ImagePart(open_image(image))
    except ImageError:
        return None
