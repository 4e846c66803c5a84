"""The clue index of a store: every text of every item, in passages of tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from genmm_retriever.corpus.store import Description, IdentifierRecord, IndexWriter
from genmm_retriever.identifiers.passages import (
    HEADING_TOKENS,
    OVERLAP_TOKENS,
    PASSAGE_TOKENS,
    Tokenizer,
    heading,
    split,
    text_tokens,
)
from genmm_retriever.models.base import MLLM
from genmm_retriever.schema import Item

if TYPE_CHECKING:
    from genmm_retriever.constraints.clues import ClueIndex

CLUE_PREFIX = "clues/"
_AT_ONCE = 512


def clue_texts(item: Item, described: Sequence[Description]) -> list[str]:
    """The texts of an item that clues may be found in: its own, and what was seen in it.

    Examples:
        >>> clue_texts(Item(id="a", image="a.png", text="Rex, 2013."),
        ...            [Description("A dog runs."), Description("Rex, 2013.", "text")])
        ['Rex, 2013.', 'A dog runs.']
    """
    own = [item.text] if item.text and item.text.strip() else []
    seen = [one.text for one in described if one.source != "text"]
    return list(dict.fromkeys([*own, *seen]))


@dataclass(frozen=True)
class Cut:
    """How texts become passages; an index keeps to what it was begun with.

    Attributes:
        longest: Tokens of a passage, its heading included.
        overlap: Tokens of the text that neighbouring passages share.
        heading: Tokens of a heading at most; 0 in indexes from before there were any.
    """

    longest: int = PASSAGE_TOKENS
    overlap: int = OVERLAP_TOKENS
    heading: int = HEADING_TOKENS

    @classmethod
    def of(cls, settings: Mapping[str, int]) -> Cut:
        """As an index has kept it."""
        return cls(settings["passage"], settings["overlap"], settings.get("heading", 0))

    def settings(self) -> dict[str, int]:
        """To be kept in an index."""
        return {"passage": self.longest, "overlap": self.overlap, "heading": self.heading}


def heading_of(item: Item, cut: Cut) -> str:
    """The title and the `names` of a passage, which stand before each piece of its text.

    Those of a picture are found only where `use_text` asks for them: a file's name as a title
    says little, and what evaluation knows must not leak into the index.

    Examples:
        >>> item = Item(id="n", text="freshwater fish", title="tench",
        ...             metadata={"names": ["tench", "Tinca tinca"]})
        >>> heading_of(item, Cut())
        '| tench | Tinca tinca |'
    """
    if not cut.heading or item.kind != "text":
        return ""
    names = item.metadata.get("names")
    return heading(item.title, names if isinstance(names, list) else [names])


def passages_of(
    model: Tokenizer, texts: Sequence[str], cut: Cut, head: str = ""
) -> Iterator[tuple[int, int, list[int]]]:
    """Passages of an item's texts: number of the text, first token in it, tokens.

    Args:
        model: Whose tokens they are.
        texts: From `clue_texts`.
        cut: How long they are; see `identifiers.passages.split`.
        head: From `heading_of`; its tokens come first in each passage.
    """
    first = heading_tokens(model, head, cut)
    longest = cut.longest - len(first)
    for number, text in enumerate(texts):
        tokens = text_tokens(model, text)
        for start, end in split(len(tokens), longest=longest, overlap=cut.overlap):
            yield number, start, [*first, *tokens[start:end]]


def heading_tokens(model: Tokenizer, head: str, cut: Cut) -> list[int]:
    """The tokens of a heading, none if it is empty."""
    return text_tokens(model, head)[: cut.heading] if head else []


def mark_described(writer: IndexWriter) -> None:
    """Mark the described items as complete: their texts are all the identifiers they need."""
    rows = writer.pending("identifiers")
    for start in range(0, len(rows), _AT_ONCE):
        batch = rows[start : start + _AT_ONCE]
        described = writer.descriptions(batch)
        writer.put_identifiers(
            [IdentifierRecord(row, "", ()) for row, d in zip(batch, described, strict=True) if d]
        )


def update_clues(writer: IndexWriter, model: MLLM, bar: Callable[[int, str], Any]) -> None:
    """Bring the clue index to the items that the next generation has.

    New items become a small shard, those that are gone are marked; many small shards, or many
    marks, are merged. It may be broken off anywhere: the arrays are put all at once, and what
    the list of shards does not name counts for nothing until the next call drops it.

    Args:
        writer: Holds the items, each with a text or a description.
        model: Whose tokens are indexed.
        bar: Makes a progress bar from a number of items and what is done with them.
    """
    from genmm_retriever.constraints.clues import ClueIndex

    index = staged_clues(writer)
    live = writer.live_rows()
    if index is None:
        writer.put_json("clues", Cut().settings())
        index = ClueIndex.build([], [0], [], vocab_size=model.vocab_size)
    present = index.item_rows
    gone, new = np.setdiff1d(present, live), np.setdiff1d(live, present)
    if len(gone):
        index = index.delete(gone)
    if len(new):
        index = index.add(*_tokens(writer, model, new, bar))
    if index.needs_merge:
        index = index.merged(below=index.shard_tokens // 8)
    arrays = {CLUE_PREFIX + name: array for name, array in index.to_arrays().items()}
    writer.put_arrays(arrays)
    for name in writer.arrays():
        if name.startswith(CLUE_PREFIX) and name not in arrays:
            writer.drop_arrays(name)


def staged_clues(writer: IndexWriter) -> ClueIndex | None:
    """The clue index as the next generation would have it, or None."""
    from genmm_retriever.constraints.clues import ClueIndex

    arrays = writer.arrays_under(CLUE_PREFIX)
    return ClueIndex.from_arrays(arrays) if "shards" in arrays else None


def _tokens(
    writer: IndexWriter, model: MLLM, rows: NDArray[np.int64], bar: Callable[[int, str], Any]
) -> tuple[NDArray[np.uint32], NDArray[np.int64], NDArray[np.int64]]:
    """Tokens, offsets and rows of the passages of items; an item has one passage at least."""
    settings = writer.json("clues")
    assert settings is not None
    cut = Cut.of(settings)
    pieces: list[NDArray[np.uint32]] = [np.empty(0, dtype=np.uint32)]
    lengths: list[int] = []
    items: list[int] = []
    with bar(len(rows), "tokenising") as shown:
        for start in range(0, len(rows), _AT_ONCE):
            batch = rows[start : start + _AT_ONCE].tolist()
            columns = zip(batch, writer.items(batch), writer.descriptions(batch), strict=True)
            for row, item, described in columns:
                texts = clue_texts(item, described)
                for _, _, tokens in passages_of(model, texts, cut, heading_of(item, cut)):
                    pieces.append(np.array(tokens, dtype=np.uint32))
                    lengths.append(len(tokens))
                    items.append(row)
            shown.update(len(batch))
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return np.concatenate(pieces), offsets, np.array(items, dtype=np.int64)
