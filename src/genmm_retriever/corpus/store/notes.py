"""Notes that a model wrote about items: kept beside the originals, in a file of their own.

The file is only ever appended to, a line a note, and belongs to no generation: it is written
without the index's lock, while items come and go. A note is known by its item's mark, which is
another one as soon as the item's content is, so that no note outlives what it was written of.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from genmm_retriever.corpus.store import files
from genmm_retriever.corpus.store.database import checksum
from genmm_retriever.corpus.store.lock import WriterLock

if TYPE_CHECKING:
    from genmm_retriever.corpus.store.reader import IndexReader

NoteKind = Literal["dense", "refined", "knowledge"]
NOTE_KINDS: tuple[NoteKind, ...] = get_args(NoteKind)
NOTES_VERSION = "1"
"""Of the prompts that notes are asked for with; see `describing.prompts.notes`."""

_ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class NoteVersion:
    """What a note was written with.

    Args:
        prompts: The `NOTES_VERSION` of then.
        model: Name of the model.
        fingerprint: Of its weights; empty where it gives none.
    """

    prompts: str
    model: str
    fingerprint: str

    @property
    def is_outdated(self) -> bool:
        """Whether the prompts have changed since."""
        return self.prompts != NOTES_VERSION


@dataclass(frozen=True)
class Note:
    """What a model wrote about an item; never a word of a person.

    Args:
        item: Id of the item.
        mark: Of the item's content; see `IndexReader.marks`.
        kind: `"dense"`: a caption of its picture; `"refined"`: its text, made precise by its
            picture; `"knowledge"`: background about what it names or shows.
        text: The words; empty if the model wrote nothing that could be used.
        version: What it was written with.
        reason: Why there are no words.
    """

    item: str
    mark: str
    kind: NoteKind
    text: str
    version: NoteVersion
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """As `genmm describe --show --json` prints it."""
        return {
            "id": self.item,
            "kind": self.kind,
            "text": self.text,
            "outdated": self.version.is_outdated,
            "written_by": asdict(self.version),
        }


class NoteBook:
    """The notes of an index, as they are in its file now.

    A last line without its end was cut short by a kill, and is passed over; so are damaged
    ones, whose numbers are in `damaged`. To write, open the book by `writing`.

    Args:
        index: Folder of the index.
    """

    def __init__(self, index: Path) -> None:
        self.path = index / files.NOTES
        self.damaged: list[int] = []
        self._index = index
        self._notes: dict[tuple[str, NoteKind], Note] = {}
        self._failed: dict[tuple[str, NoteKind], list[Note]] = {}
        self._lines = 0
        with files.storage_errors(index):
            content = self.path.read_bytes() if self.path.is_file() else b""
        *lines, self._cut = content.split(b"\n")
        for number, line in enumerate(lines, start=1):
            note = _parsed(line)
            if note is None:
                self.damaged.append(number)
            else:
                self._take(note)
        self._lines += len(self.damaged)

    @classmethod
    @contextlib.contextmanager
    def writing(cls, index: Path, marks: Container[str]) -> Iterator[NoteBook]:
        """Open the book to be written, without what is of no use any more.

        Args:
            index: Folder of the index.
            marks: Of the items that the index has; notes of others are dropped, as are those
                that were written anew, and damaged lines.

        Raises:
            IndexLockedError: If another process writes notes.
            StorageError: If the disk is full or the place cannot be written.
        """
        folder = (index / files.NOTES).parent
        with files.storage_errors(index):
            folder.mkdir(exist_ok=True)
            lock = WriterLock(folder)
        try:
            book = cls(index)
            book._tidy(marks)
            yield book
        finally:
            lock.release()

    def note(self, mark: str, kind: NoteKind) -> Note | None:
        """The newest note of a kind about the item of a mark, or None."""
        return self._notes.get((mark, kind))

    def failed(self, mark: str, kind: NoteKind, version: NoteVersion) -> bool:
        """Whether a model was asked in this very way and wrote nothing that could be used."""
        return any(note.version == version for note in self._failed.get((mark, kind), ()))

    def put(self, notes: Sequence[Note]) -> None:
        """Keep notes durably, all or, if the disk is full, none.

        Raises:
            StorageError: If they cannot be written.
        """
        lines = b"".join(_line(note) for note in notes)
        with files.storage_errors(self._index):
            files.append_durably(self.path, lines)
        for note in notes:
            self._take(note)

    def _take(self, note: Note) -> None:
        self._lines += 1
        if note.text:
            self._notes[note.mark, note.kind] = note
        else:
            self._failed.setdefault((note.mark, note.kind), []).append(note)

    def _kept(self, marks: Container[str]) -> Iterator[Note]:
        failed = (note for notes in self._failed.values() for note in notes)
        for note in (*self._notes.values(), *failed):
            if note.mark in marks:
                yield note

    def _tidy(self, marks: Container[str]) -> None:
        kept = list(self._kept(marks))
        with files.storage_errors(self._index):
            if len(kept) != self._lines or self._cut:
                files.write_atomically(
                    self.path, lambda file: file.writelines(_line(note) for note in kept)
                )
            elif not self.path.exists():
                self.path.touch()
                files.sync_folder(self.path.parent)
        self._cut, self._lines, self.damaged = b"", 0, []
        self._notes, self._failed = {}, {}
        for note in kept:
            self._take(note)


def marks_by_row(reader: IndexReader) -> Iterator[tuple[int, str]]:
    """Each row of an index with the mark of its content."""
    rows = reader.live_rows().tolist()
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        batch = rows[start : start + _ROWS_AT_ONCE]
        yield from zip(batch, reader.marks(batch), strict=True)


def notes_by_row(reader: IndexReader) -> dict[int, list[Note]]:
    """The notes of the items as they are now, for each row that has any, in order of kinds."""
    if not (reader.path / files.NOTES).is_file():
        return {}
    book = NoteBook(reader.path)
    found: dict[int, list[Note]] = {}
    for row, mark in marks_by_row(reader):
        notes = [book.note(mark, kind) for kind in NOTE_KINDS]
        if any(notes):
            found[row] = [note for note in notes if note is not None]
    return found


def count_notes(notes: Iterable[Note]) -> dict[str, int]:
    """How many there are of each kind.

    Examples:
        >>> count_notes([Note("a", "0f", "dense", "A red bus.", NoteVersion("1", "m", "f"))])
        {'dense': 1, 'refined': 0, 'knowledge': 0}
    """
    counts: dict[str, int] = dict.fromkeys(NOTE_KINDS, 0)
    for note in notes:
        counts[note.kind] += 1
    return counts


def _line(note: Note) -> bytes:
    payload = json.dumps(asdict(note), sort_keys=True)
    return f'{{"crc": {checksum(payload)}, "note": {payload}}}\n'.encode()


def _parsed(line: bytes) -> Note | None:
    try:
        record = json.loads(line)
        fields = record["note"]
        if checksum(json.dumps(fields, sort_keys=True)) != record["crc"]:
            return None
        return Note(**{**fields, "version": NoteVersion(**fields["version"])})
    except (ValueError, KeyError, TypeError):
        return None
