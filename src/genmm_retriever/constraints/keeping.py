"""The trie of an index and its look-up, written with each generation and opened again.

An addition writes what it added: identifiers go to the trie's overlay and to a second, small
look-up, until they are an eighth of all; only then is the base made anew.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from genmm_retriever.constraints.lookup import IdentifierLookup
from genmm_retriever.constraints.trie import TokenTrie
from genmm_retriever.corpus.store import IdentifierRecord, IndexReader, IndexWriter

TRIE_PREFIX = "trie/"
_LOOKUP = "identifiers/lookup"
_ADDED_FOLDER = "identifiers/added/"
_ADDED = _ADDED_FOLDER + "lookup"
_LARGEST_SHARE = 1 / 8


def write_trie(writer: IndexWriter, changed: Iterable[int] = ()) -> TokenTrie:
    """Bring the kept trie and look-up to the writer's identifiers.

    Args:
        writer: Has identifiers for all of its live rows.
        changed: Rows that may have other identifiers than the kept trie knows.

    Returns:
        The trie, as it will be published.
    """
    live = writer.live_rows()
    old = _kept_trie(writer)
    if old is None:
        trie = TokenTrie.build(*_columns(writer.identifiers()))
    else:
        stays = old.keep(np.setdiff1d(live, np.fromiter(changed, np.int64)))
        new = np.setdiff1d(live, stays.item_rows, assume_unique=True)
        trie = stays.add(*_columns(writer.identifiers(new.tolist())))
        if trie.overlay_share > _LARGEST_SHARE:
            trie = trie.merged()
    arrays = {TRIE_PREFIX + name: array for name, array in trie.to_arrays().items()}
    arrays |= _lookups(writer, trie, anew=old is None or not trie.shares_base(old))
    # In one step: a part of this trie beside a part of the one before would be no trie.
    writer.put_arrays(arrays, replacing=(TRIE_PREFIX, _ADDED_FOLDER))
    return trie


def _lookups(writer: IndexWriter, trie: TokenTrie, *, anew: bool) -> dict[str, np.ndarray]:
    found = {_LOOKUP: _packed(writer.identifiers())} if anew else {}
    added = trie.added_rows
    if len(added):
        found[_ADDED] = _packed(writer.identifiers(added.tolist()))
    return found


def read_trie(reader: IndexReader) -> TokenTrie:
    """The trie of an open index, in which deleted items are not found.

    Raises:
        IndexDamagedError: If its arrays do not fit together.
    """
    return TokenTrie.from_arrays(reader.arrays_under(TRIE_PREFIX)).keep(reader.live_rows())


def identifiers_starting_with(
    reader: IndexReader, prefix: str, limit: int | None = None
) -> list[tuple[str, list[str]]]:
    """Identifiers of an open index that begin so, each with the ids of its items.

    Args:
        reader: The index.
        prefix: The beginning; empty for all identifiers.
        limit: At most so many identifiers.

    Raises:
        IndexDamagedError: If the look-up is damaged.
        MissingExtraError: If `marisa-trie` is not installed.
    """
    packed = [reader.array(name) for name in (_LOOKUP, _ADDED) if name in reader.arrays()]
    lookup, live = IdentifierLookup.from_array(*packed), reader.live_rows()
    found: list[tuple[str, list[str]]] = []
    for text, rows in lookup.iterate(prefix):
        if limit is not None and len(found) >= limit:
            break
        # The look-up knows deleted items until it is made anew.
        there = np.array(rows, dtype=np.int64)
        there = there[np.isin(there, live, assume_unique=True)]
        if len(there):
            found.append((text, [item.id for item in reader.items(there.tolist())]))
    return found


def _kept_trie(writer: IndexWriter) -> TokenTrie | None:
    arrays = writer.arrays_under(TRIE_PREFIX)
    return TokenTrie.from_arrays(arrays) if arrays else None


def _columns(
    records: list[IdentifierRecord],
) -> tuple[list[tuple[int, ...]], list[int], list[tuple[float, ...]]]:
    return (
        [record.tokens for record in records],
        [record.row for record in records],
        [record.null_logprobs for record in records],
    )


def _packed(records: list[IdentifierRecord]) -> np.ndarray:
    return IdentifierLookup.build(
        (record.text for record in records), (record.row for record in records)
    )
