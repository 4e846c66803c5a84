"""`genmm describe`: notes about the items of an index, batch by batch, each of them durable."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from genmm_retriever.corpus.images import open_image
from genmm_retriever.corpus.store import (
    NOTE_KINDS,
    IndexReader,
    Note,
    NoteBook,
    NoteKind,
    marks_by_row,
)
from genmm_retriever.describing.notes import Subject, applies, version_of, write_notes
from genmm_retriever.describing.prompts.notes import (
    check_kind,
    kinds_of,
    sees,
)
from genmm_retriever.errors import ImageError, InputError
from genmm_retriever.models.base import Generator, ImagePart
from genmm_retriever.models.loading import load_model
from genmm_retriever.schema import Item

ITEMS_AT_ONCE = 16


@dataclass
class NotesReport:
    """What `describe_index` did.

    Args:
        items: Items of the index.
        written: Notes of each kind that were written.
        dropped: Notes of each kind that could not be used; the item stays as it is.
        kept: Notes of each kind that were there already.
        outdated: Those of `kept` that another version of the prompts or another model wrote.
        reasons: Why notes were dropped, with how many were for that.
        left: Items that still lack a note, for `limit` was reached.
        skipped: Id and reason of each item whose picture could not be opened.
    """

    items: int
    written: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    kept: dict[str, int] = field(default_factory=dict)
    outdated: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)
    left: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """As `genmm describe --json` prints it."""
        skipped = [{"id": name, "reason": reason} for name, reason in self.skipped]
        return asdict(self) | {"skipped": skipped}


def describe_index(
    path: str | os.PathLike[str],
    *,
    kinds: Sequence[NoteKind] | None = None,
    model: Generator | str | None = None,
    limit: int | None = None,
    rewrite: bool = False,
    device: str | None = None,
    progress: bool = True,
) -> NotesReport:
    """Have a model write notes about the items of an index, beside the originals.

    Notes are kept in the index's folder and change neither its items nor its identifiers;
    `genmm train` learns from them. Each batch is durable before the next one begins, so that a
    call that was interrupted goes on where it was when it is made again. What was written of
    items that were replaced or deleted since is dropped.

    Args:
        path: A finished index; it may be searched and changed meanwhile.
        kinds: Which notes; None for all that the model can write.
        model: A model that generates, or its name; None for the one that the index was built
            with, as it was before any training.
        limit: Most items to write about now.
        rewrite: Also write anew what another version of the prompts, or another model, wrote.
        device: Such as `"cuda:0"`; by default a GPU if there is one.
        progress: Show a bar on stderr.

    Raises:
        IndexNotFoundError: If there is no finished index at `path`.
        InputError: If an option is out of range.
        CapabilityError: If the model cannot write a kind that is asked for.
        ModelError: If the model cannot be loaded.
        IndexLockedError: If another process writes notes.
        StorageError: If the disk is full or cannot be written.

    Examples:
        A larger model writes what the index's own does not know::

            from genmm_retriever.describing import describe_index

            describe_index("photos.genmm", model="Qwen/Qwen3-VL-4B-Instruct")
    """
    for kind in kinds or ():
        if kind not in NOTE_KINDS:
            raise InputError(
                f"there is no kind of notes {kind!r}", f"one of {', '.join(NOTE_KINDS)}"
            )
    if limit is not None and limit < 1:
        raise InputError(f"limit is {limit!r}", "give a whole number of at least 1")
    with IndexReader.open(Path(path)) as reader:
        named = model or reader.settings.model
        loaded: Generator = load_model(named, device=device) if isinstance(named, str) else named
        wanted = tuple(dict.fromkeys(kinds or kinds_of(loaded)))
        for kind in wanted:
            check_kind(kind, loaded)
        marks = dict(marks_by_row(reader))
        with NoteBook.writing(reader.path, set(marks.values())) as book:
            return _Noting(reader, loaded, book, marks).run(wanted, limit, rewrite, progress)


class _Noting:
    """One call of `describe_index`."""

    def __init__(
        self, reader: IndexReader, model: Generator, book: NoteBook, marks: dict[int, str]
    ) -> None:
        self.reader, self.model, self.book, self.marks = reader, model, book, marks
        self.version = version_of(model)
        # Kept features are of the very model that the index was built with.
        self.own = self.version.fingerprint == reader.settings.model_fingerprint
        self.report = NotesReport(len(reader))

    def run(
        self, kinds: Sequence[NoteKind], limit: int | None, rewrite: bool, progress: bool
    ) -> NotesReport:
        """Write what is missing."""
        report = self.report
        for counts in (report.written, report.dropped, report.kept, report.outdated):
            counts.update(dict.fromkeys(kinds, 0))
        missing = self._missing(kinds, rewrite)
        rows = list(missing)[:limit]
        report.left = len(missing) - len(rows)
        with tqdm(total=len(rows), desc="writing notes", disable=not progress or not rows) as bar:
            for start in range(0, len(rows), ITEMS_AT_ONCE):
                batch = rows[start : start + ITEMS_AT_ONCE]
                subjects = dict(self._subjects(batch))
                for kind in kinds:
                    asked = {r: s for r, s in subjects.items() if kind in missing[r]}
                    self._write(kind, asked)
                bar.update(len(batch))
        return report

    def _missing(self, kinds: Sequence[NoteKind], rewrite: bool) -> dict[int, list[NoteKind]]:
        """The kinds to be written of each row that lacks any."""
        found: dict[int, list[NoteKind]] = {}
        rows = list(self.marks)
        for start in range(0, len(rows), 64 * ITEMS_AT_ONCE):
            batch = rows[start : start + 64 * ITEMS_AT_ONCE]
            for row, item in zip(batch, self.reader.items(batch), strict=True):
                lacking = [
                    kind
                    for kind in kinds
                    if applies(kind, item, self.model) and self._lacks(row, kind, rewrite)
                ]
                if lacking:
                    found[row] = lacking
        return found

    def _lacks(self, row: int, kind: NoteKind, rewrite: bool) -> bool:
        note = self.book.note(self.marks[row], kind)
        older = note is not None and note.version != self.version
        asked = note is None or (older and rewrite)
        if asked and not self.book.failed(self.marks[row], kind, self.version):
            return True
        self.report.kept[kind] += note is not None
        self.report.outdated[kind] += older
        return False

    def _subjects(self, rows: Sequence[int]) -> Iterator[tuple[int, Subject]]:
        described = self.reader.descriptions(rows)
        for row, item, words in zip(rows, self.reader.items(rows), described, strict=True):
            image = None
            if item.kind == "image" and sees(self.model):
                try:
                    image = self._picture(row, item)
                except ImageError as error:
                    self.report.skipped.append((item.id, str(error)))
                    continue
            yield row, Subject(item, image, tuple(one.text for one in words))

    def _picture(self, row: int, item: Item) -> ImagePart:
        features = self.reader.features([row]) if self.own else None
        if features is not None:
            return ImagePart(features=torch.from_numpy(np.array(features[0])))
        assert item.image is not None
        return ImagePart(image=open_image(item.image))

    def _write(self, kind: NoteKind, subjects: dict[int, Subject]) -> None:
        if not subjects:
            return
        written = write_notes(
            self.model, kind, list(subjects.values()), seed=self.reader.settings.seed
        )
        notes = [
            Note(one.item.id, self.marks[row], kind, text, self.version, reason)
            for (row, one), (text, reason) in zip(subjects.items(), written, strict=True)
        ]
        self.book.put(notes)
        self.report.written[kind] += sum(bool(note.text) for note in notes)
        for reason in (note.reason for note in notes if not note.text):
            self.report.dropped[kind] += 1
            self.report.reasons[reason] = self.report.reasons.get(reason, 0) + 1
