"""Vectors of a contrastive encoder beside the items of an index, for the fused verifier.

They lie in blocks of rows under the encoder's fingerprint. The document that names the encoder is
put when all items have theirs: until then no reader uses them, and interrupted work goes on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from genmm_retriever.corpus.images import open_image
from genmm_retriever.corpus.store import IndexReader, IndexWriter
from genmm_retriever.errors import (
    ImageError,
    IndexDamagedError,
    InputError,
    MissingExtraError,
    ModelError,
)
from genmm_retriever.models.contrastive import ContrastiveEncoder, load_contrastive
from genmm_retriever.schema import Item

DOCUMENT = "contrastive"
_PREFIX = "contrastive/"
_AT_ONCE = 16
_IN_BLOCK = 512
_MOST_BLOCKS = 16


@dataclass(frozen=True)
class EmbeddingReport:
    """What `embed_index` did.

    Attributes:
        encoder: The encoder's name, or None if vectors were taken away.
        embedded: Items that got a vector now.
        items: Items of the index.
        skipped: Ids of pictures that could not be opened, each with the reason.
    """

    encoder: str | None
    embedded: int
    items: int
    skipped: tuple[tuple[str, str], ...] = ()


def named_encoder(holder: IndexReader | IndexWriter) -> str | None:
    """The name of the encoder whose vectors an index has, or None."""
    document = _document(holder)
    return None if document is None else str(document["name"])


def fitting_encoder(
    holder: IndexReader | IndexWriter,
    encoder: ContrastiveEncoder | None,
    device: str | torch.device | None,
) -> ContrastiveEncoder | None:
    """The encoder whose vectors an index has: the given one, or the one loaded by its name.

    Args:
        holder: The index.
        encoder: The one to use, or None.
        device: Where to load it to.

    Returns:
        None if the index has no vectors.

    Raises:
        ModelError: If its weights are others, or it cannot be loaded.
        MissingExtraError: If a package is not installed.
    """
    document = _document(holder)
    if document is None:
        return None
    found = encoder or _loaded(document["name"], device)
    if document["fingerprint"] != found.fingerprint:
        what = f"the vectors of the index are of other weights than those of {found.name!r}"
        if found.name == document["name"]:
            raise ModelError(what, "they have changed since; make the vectors anew: genmm embed")
        raise ModelError(
            what,
            f"use the encoder they were made with ({document['name']!r}), or make them anew: "
            "genmm embed",
        )
    return found


def _loaded(name: str, device: str | torch.device | None) -> ContrastiveEncoder:
    """The encoder of an index; whoever never named it is told where the name comes from."""
    try:
        return load_contrastive(name, device=device)
    except MissingExtraError:
        raise
    except ModelError as error:
        raise ModelError(
            f"the index has vectors of {name!r}, which cannot be loaded: {error.message}",
            "if it moved, name its place once: genmm embed INDEX --model PLACE; to do without: "
            "--no-vectors, in Python contrastive=False; to take the vectors away: genmm embed "
            "INDEX --drop",
        ) from error


def has_vectors_of(reader: IndexReader, encoder: ContrastiveEncoder | None) -> bool:
    """Whether the vectors of an index are those of an encoder."""
    document = _document(reader)
    return (
        document is not None
        and encoder is not None
        and document["fingerprint"] == encoder.fingerprint
    )


def _document(holder: IndexReader | IndexWriter) -> Any | None:
    if isinstance(holder, IndexReader):
        return holder.find_json(DOCUMENT)
    return holder.json(DOCUMENT)


def update_vectors(
    writer: IndexWriter, encoder: ContrastiveEncoder, bar: Callable[[int, str], tqdm[Any]]
) -> tuple[int, list[tuple[str, str]]]:
    """Give the items that have none their vectors, and say whose they are.

    Pictures that cannot be opened are tried again each time.

    Each block is durable before the next one begins.

    Args:
        writer: Of an index whose items are described.
        encoder: Gives the vectors.
        bar: Makes a progress bar of a number of items and a name.

    Returns:
        How many got one, and ids of pictures that could not be opened, with the reasons.
    """
    folder = f"{_PREFIX}{hashlib.sha256(encoder.fingerprint.encode()).hexdigest()[:16]}/"
    done = _rows(writer.arrays_under(folder))
    rows = np.setdiff1d(writer.live_rows(), done)
    skipped: list[tuple[str, str]] = []
    with bar(len(rows), "embedding") as shown:
        for start in range(0, len(rows), _IN_BLOCK):
            block = rows[start : start + _IN_BLOCK]
            found = _embedded(writer, encoder, block.tolist(), skipped, shown)
            if found:
                name = f"{folder}{_next_block(writer, folder):06d}/"
                vectors = torch.stack(list(found.values())).half().numpy()
                own = np.array(list(found), dtype=np.int64)
                writer.put_arrays({name + "rows": own, name + "vectors": vectors})
    _merge(writer, folder)
    for name in {name.split("/")[1] for name in writer.arrays() if name.startswith(_PREFIX)}:
        if f"{_PREFIX}{name}/" != folder:
            writer.drop_arrays(f"{_PREFIX}{name}/")
    document = {"name": encoder.name, "fingerprint": encoder.fingerprint, "folder": folder}
    writer.put_json(DOCUMENT, document)
    return len(rows) - len(skipped), skipped


def drop_vectors(writer: IndexWriter) -> None:
    """Have the next generation without vectors."""
    writer.put_json(DOCUMENT, None)
    writer.drop_arrays(_PREFIX)


def _embedded(
    writer: IndexWriter,
    encoder: ContrastiveEncoder,
    rows: Sequence[int],
    skipped: list[tuple[str, str]],
    shown: tqdm[Any],
) -> dict[int, Tensor]:
    """Vectors by row, [d] each, of those whose picture could be opened."""
    found: dict[int, Tensor] = {}
    for start in range(0, len(rows), _AT_ONCE):
        batch = rows[start : start + _AT_ONCE]
        for places, vectors in _batch(writer, encoder, batch, skipped):
            found |= zip(places, vectors, strict=True)
        shown.update(len(batch))
    return found


def _batch(
    writer: IndexWriter,
    encoder: ContrastiveEncoder,
    rows: Sequence[int],
    skipped: list[tuple[str, str]],
) -> Iterator[tuple[list[int], Tensor]]:
    """Rows with their vectors, of those that are pictures and of those that are texts."""
    opened: dict[int, Any] = {}
    texts: dict[int, str] = {}
    for row, item in zip(rows, writer.items(rows), strict=True):
        if item.kind == "text":
            texts[row] = item.text or ""
            continue
        try:
            opened[row] = _opened(item)
        except ImageError as error:
            skipped.append((item.id, str(error)))
    if opened:
        yield list(opened), encoder.embed_pictures(list(opened.values()))
    if texts:
        yield list(texts), encoder.embed_texts(list(texts.values()))


def _opened(item: Item) -> Any:
    assert item.image is not None
    return open_image(item.image)


def _merge(writer: IndexWriter, folder: str) -> None:
    """One block in place of many: each is a file."""
    kept = writer.arrays_under(folder)
    names = sorted(name for name in kept if name.endswith("/rows"))
    if len(names) <= _MOST_BLOCKS:
        return
    live = writer.live_rows()
    rows = np.concatenate([kept[name] for name in names])
    vectors = np.concatenate([kept[name.removesuffix("rows") + "vectors"] for name in names])
    stays = np.isin(rows, live)
    name = f"{folder}{_next_block(writer, folder):06d}/"
    merged = {name + "rows": rows[stays], name + "vectors": vectors[stays]}
    writer.put_arrays(merged, replacing=(folder,))


def _next_block(writer: IndexWriter, folder: str) -> int:
    """A number that no block has."""
    names = [name for name in writer.arrays() if name.startswith(folder)]
    return 1 + max((int(name.split("/")[-2]) for name in names), default=0)


def _rows(kept: dict[str, np.ndarray]) -> np.ndarray:
    found = [array for name, array in kept.items() if name.endswith("rows")]
    return np.sort(np.concatenate(found)) if found else np.zeros(0, np.int64)


class ItemVectors:
    """The vectors of an open index.

    Args:
        reader: An index that has some.

    Raises:
        IndexDamagedError: If its arrays do not fit together.
    """

    def __init__(self, reader: IndexReader) -> None:
        kept = reader.arrays_under(reader.json(DOCUMENT)["folder"])
        names = sorted(name.removesuffix("rows") for name in kept if name.endswith("/rows"))
        self._blocks = [kept[name + "vectors"] for name in names]
        rows = [kept[name + "rows"] for name in names]
        if any(len(r) != len(v) for r, v in zip(rows, self._blocks, strict=True)):
            raise IndexDamagedError(
                f"the vectors of the index at {str(reader.path)!r} do not fit its items",
                "make them anew: genmm embed",
            )
        whole = np.concatenate([*rows, np.zeros(0, np.int64)])
        self._order = np.argsort(whole, kind="stable")
        self._sorted = whole[self._order]
        self._starts = np.cumsum([0, *(len(block) for block in rows[:-1])])

    def of(self, rows: Sequence[int]) -> Tensor:
        """Unit vectors of rows, [n, d], float32; NaN where there is none, d = 0 if none has."""
        if not self._blocks:
            return torch.zeros(len(rows), 0)
        wanted = np.asarray(rows, dtype=np.int64)
        found = np.full((len(wanted), self._blocks[0].shape[1]), np.nan, dtype=np.float32)
        places = np.searchsorted(self._sorted, wanted).clip(max=len(self._sorted) - 1)
        known = np.flatnonzero(self._sorted[places] == wanted)
        positions = self._order[places[known]]
        blocks = np.searchsorted(self._starts, positions, side="right") - 1
        for block in np.unique(blocks):
            some = blocks == block
            found[known[some]] = self._blocks[block][positions[some] - self._starts[block]]
        return torch.from_numpy(found)


def embed_index(
    path: str | Path, encoder: ContrastiveEncoder | None, *, progress: bool = True
) -> EmbeddingReport:
    """Give an index vectors, or take them away; what was interrupted goes on.

    Items that are added later get theirs by themselves.

    Args:
        path: A finished index.
        encoder: Gives them; None takes them away.
        progress: Whether to show a bar on stderr.

    Raises:
        IndexNotFoundError: If there is no finished index.
        IndexLockedError: If another writer is at work.
        InputError: If it is an index of clues.
    """

    def bar(total: int, what: str) -> tqdm[Any]:
        return tqdm(total=total, desc=what, disable=not progress or not total)

    with IndexWriter.open(path) as writer:
        if writer.settings.identifiers == "clue":
            raise InputError(
                "an index of clues is verified by words: vectors would not be asked",
                "build it with structured identifiers, the default",
            )
        embedded, skipped = 0, list[tuple[str, str]]()
        if encoder is None:
            drop_vectors(writer)
        else:
            embedded, skipped = update_vectors(writer, encoder, bar)
        items = len(writer.live_rows())
        writer.publish()
    name = None if encoder is None else encoder.name
    return EmbeddingReport(name, embedded, items, tuple(skipped))
