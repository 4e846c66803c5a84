"""Photos with human captions, and the records that are made of them."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genmm_retriever.corpus.lines import captions_of, iter_jsonl, line_error, record_id

Record = dict[str, Any]


@dataclass(frozen=True)
class Photo:
    """A photo and what people said of it.

    Attributes:
        id: Of the item.
        image: Its file.
        captions: By people; queries are made of them, an index never is.
    """

    id: str
    image: Path
    captions: tuple[str, ...]

    def words(self) -> frozenset[str]:
        """Every word of its captions."""
        return frozenset(word for caption in self.captions for word in words_of(caption))


@dataclass
class Made:
    """A test set.

    Attributes:
        records: Query lines, or source lines where a set consists of items.
        dropped: Why candidates were dropped, and how many for each reason.
        twins: The same under the plain condition, in the same order with the same ids, if the set
            is to be compared with one.
        queries: Query lines of a set of items.
        items: Source lines of what is to be indexed, where that is not all photos.
        sources: The same with captions, where they can be trained on.
        deleted: Ids of items to delete from the index before the set is asked.
    """

    records: list[Record] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    twins: list[Record] = field(default_factory=list)
    queries: list[Record] = field(default_factory=list)
    items: list[Record] = field(default_factory=list)
    sources: list[Record] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)


def words_of(text: str) -> list[str]:
    """Lower-case words without punctuation.

    Examples:
        >>> words_of("A man 's T-shirt , torn .")
        ['a', 'man', 's', 't-shirt', 'torn']
    """
    return re.findall(r"[a-z]+(?:-[a-z]+)*", text.lower())


def read_photos(path: Path) -> list[Photo]:
    """The lines of captioned-images JSONL that have a picture and captions.

    Raises:
        SourceError: If the file cannot be read or a line is broken.
    """
    found: list[Photo] = []
    for number, line in iter_jsonl(path):
        captions = tuple(one.strip() for one in captions_of(line, path, number) if one.strip())
        image = line.get("image")
        if not isinstance(image, str) or not captions:
            raise line_error(path, number, "it is no photo with captions")
        found.append(Photo(record_id(line, path, number), path.parent / image, captions))
    return found


def write_records(path: Path, records: Iterable[Mapping[str, Any]]) -> int:
    """Write JSONL; pictures are named relative to the file. Returns the number of lines."""
    lines = [json.dumps(_relative(record, path), ensure_ascii=False) + "\n" for record in records]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(lines), encoding="utf-8")
    return len(lines)


def _relative(record: Mapping[str, Any], path: Path) -> Record:
    image = record.get("image")
    if image is None:
        return dict(record)
    return {**record, "image": Path(os.path.relpath(image, path.parent)).as_posix()}


def overlap(some: frozenset[str], others: frozenset[str]) -> float:
    """Jaccard overlap of two sets of words.

    Examples:
        >>> overlap(frozenset("ab"), frozenset("bc"))
        0.3333333333333333
    """
    union = some | others
    return len(some & others) / len(union) if union else 0.0
