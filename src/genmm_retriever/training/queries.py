"""Pseudo-queries: what the model thinks somebody would ask for an item, written once and kept."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from genmm_retriever.corpus.store.files import append_durably
from genmm_retriever.describing import clean_caption
from genmm_retriever.describing.prompts import pseudo_query_prompt
from genmm_retriever.models.base import MLLM, ImagePart, Prompt
from genmm_retriever.schema import Item
from genmm_retriever.training.corpus import Corpus
from genmm_retriever.training.storing import storing

ITEMS_AT_ONCE = 16
_TEMPERATURE = 0.7
_MAX_WORDS = 40
_SEED = 7919
"""Added to the seed, so that samples differ from those that made the identifiers."""


class QueryBook:
    """A JSONL file of pseudo-queries by item, only ever appended to.

    What was written stays written when the process is killed; a last line that was cut short
    is passed over, and its items are asked for again. Items are known by `Corpus.marks`, so
    the file serves every later training, and no other item.

    Args:
        path: The file, made when the first queries are written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._found: dict[str, list[str]] = {}
        if path.is_file():
            for line in path.read_bytes().split(b"\n"):
                mark, texts = _parsed(line)
                if mark is not None:
                    self._found[mark] = texts

    def __getitem__(self, mark: str) -> list[str]:
        """The queries of an item; empty if there are none."""
        return self._found.get(mark, [])

    def __contains__(self, mark: str) -> bool:
        """Whether an item was asked about, with or without success."""
        return mark in self._found

    def put(self, queries: Mapping[str, Sequence[str]]) -> None:
        """Keep queries of items, durably, all or, if the disk is full, none.

        Raises:
            StorageError: If they cannot be written.
        """
        lines = [json.dumps({"item": mark, "queries": list(q)}) for mark, q in queries.items()]
        with storing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # The line break before ends a line that a crash cut short.
            append_durably(self.path, "".join(f"\n{line}" for line in lines).encode())
        self._found.update({mark: list(texts) for mark, texts in queries.items()})


def _parsed(line: bytes) -> tuple[str | None, list[str]]:
    try:
        record = json.loads(line)
        return str(record["item"]), [str(text) for text in record["queries"]]
    except (ValueError, KeyError, TypeError):
        return None, []


def write_queries(
    book: QueryBook,
    model: MLLM,
    rows: Sequence[int],
    corpus: Corpus,
    *,
    per_item: int,
    seed: int,
    bar: Any = None,
) -> None:
    """Write pseudo-queries, batch by batch.

    Args:
        book: Where they are kept.
        model: Writes them.
        rows: Items that the book lacks.
        corpus: The index; of items whose picture cannot be opened none are written.
        per_item: Queries an item, at most: equal ones, and those that repeat the item's own
            descriptions, are dropped.
        seed: Of the sampling.
        bar: Progress, advanced by an item each.
    """
    for start in range(0, len(rows), ITEMS_AT_ONCE):
        batch = rows[start : start + ITEMS_AT_ONCE]
        seen = list(corpus.look(batch))
        prompts = [_prompt(model, item, image) for _, item, image in seen]
        texts = model.generate(
            prompts,
            max_new_tokens=32 if getattr(model, "prompt_style", "") == "builtin" else 64,
            num_return_sequences=per_item,
            temperature=_TEMPERATURE,
            seed=seed + _SEED,
        )
        found: dict[str, list[str]] = {corpus.marks[row]: [] for row in batch}
        for (row, _, _), written in zip(seen, texts, strict=True):
            found[corpus.marks[row]] = distinct(written, corpus.words[row])
        book.put(found)
        if bar is not None:
            bar.update(len(batch))


def _prompt(model: MLLM, item: Item, image: ImagePart | None) -> Prompt:
    if image is not None:
        return pseudo_query_prompt(model, image=image)
    return pseudo_query_prompt(model, text=item.text)


def distinct(written: Sequence[str], known: Sequence[str]) -> list[str]:
    """Cleaned texts that differ from one another and from the known ones.

    Examples:
        >>> distinct(["A dog.", "a dog", "Two dogs run."], ["two dogs run"])
        ['A dog.']
    """
    seen = {_key(text) for text in known} | {""}
    found = []
    for text in written:
        text = clean_caption(text, max_words=_MAX_WORDS)
        if _key(text) not in seen:
            seen.add(_key(text))
            found.append(text)
    return found


def _key(text: str) -> str:
    return " ".join("".join(c if c.isalnum() else " " for c in text.casefold()).split())
