"""The index on disk: one writer, any number of readers, nothing half-written ever served.

A published file never changes. `manifest.json` names the files of the present generation with
their checksums and is replaced atomically; what is being made lies in `staging/` and survives
the death of its process::

    manifest.json                          settings, counts, files with size and SHA-256
    generations/000007/items.sqlite        items, metadata, descriptions, identifiers
    arrays/000007-trie%2fbase.safetensors  named arrays of a group that generation 7 changed
    features/seg-000007.npy                picture features that generation 7 brought
    blobs/<sha256>                         pictures that were given as bytes
    notes/notes.jsonl                      what models wrote about items, beside all generations
    adapter/<digest>/                      a trained adapter (PEFT), if there is one
    staging/                               durable work in progress
    writer.lock                            the writer's lock
"""

from __future__ import annotations

from genmm_retriever.corpus.store.adapters import StoredAdapter
from genmm_retriever.corpus.store.beforehand import check_place
from genmm_retriever.corpus.store.check import check_index
from genmm_retriever.corpus.store.manifest import SCHEMA_VERSION, is_index_folder
from genmm_retriever.corpus.store.notes import (
    NOTE_KINDS,
    NOTES_VERSION,
    Note,
    NoteBook,
    NoteKind,
    NoteVersion,
    count_notes,
    marks_by_row,
    notes_by_row,
)
from genmm_retriever.corpus.store.reader import IndexReader, settings_of
from genmm_retriever.corpus.store.records import (
    Changes,
    Description,
    IdentifierRecord,
    IndexSettings,
    Problem,
    Stage,
    StageReport,
)
from genmm_retriever.corpus.store.writer import IndexWriter

__all__ = [
    "NOTES_VERSION",
    "NOTE_KINDS",
    "SCHEMA_VERSION",
    "Changes",
    "Description",
    "IdentifierRecord",
    "IndexReader",
    "IndexSettings",
    "IndexWriter",
    "Note",
    "NoteBook",
    "NoteKind",
    "NoteVersion",
    "Problem",
    "Stage",
    "StageReport",
    "StoredAdapter",
    "check_index",
    "check_place",
    "count_notes",
    "is_index_folder",
    "marks_by_row",
    "notes_by_row",
    "settings_of",
]
