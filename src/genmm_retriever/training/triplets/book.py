"""Triplets on disk: JSONL that is only ever appended to, and its reader."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from genmm_retriever.corpus.lines import iter_jsonl, line_error
from genmm_retriever.corpus.store.files import append_durably
from genmm_retriever.corpus.store.lock import WriterLock
from genmm_retriever.errors import IndexLockedError, InputError, SourceError
from genmm_retriever.training.storing import store_json, storing

_FIELDS = ("reference", "target", "text", "reverse", "scores", "model", "prompt_version")
_OPENING = b'{"reference": '


@dataclass(frozen=True)
class Triplet:
    """Two items of an index and what leads from the one to the other.

    Attributes:
        reference: Id of the item whose picture somebody has.
        target: Id of the item that is looked for.
        text: What leads from the reference to the target.
        reverse: What leads back, or None if no text for that passed the checks.
        scores: `fit` and `reverse_fit`, how much better the texts fit the picture they ask for
            than the other, and `similarity` of the two pictures.
        model: Who wrote, or by whose descriptions the rule wrote.
        prompt_version: Of the prompt, or of the rule.
    """

    reference: str
    target: str
    text: str
    reverse: str | None = None
    scores: dict[str, float] = field(default_factory=dict)
    model: str = ""
    prompt_version: str = ""

    def to_json(self) -> dict[str, Any]:
        """As one line of the file."""
        return asdict(self)


@dataclass(frozen=True)
class KnownTriplet:
    """A triplet whose items are in an index, by their rows."""

    reference: int
    target: int
    text: str
    reverse: str | None


def read_lines(path: str | os.PathLike[str]) -> Iterator[Triplet]:
    """The triplets of a JSONL file, one after the other.

    `reference`, `target` and `text` are needed; the other fields may be left out.

    Raises:
        SourceError: If the file cannot be read or a line is no triplet; it is named.
    """
    path = Path(path)
    for number, record in iter_jsonl(path):
        yield _triplet(record, path, number)


def _triplet(record: dict[str, Any], path: Path, number: int) -> Triplet:
    for name in record:
        if name not in _FIELDS:
            raise line_error(path, number, f"it has the unknown field `{name}`")
    for name in ("reference", "target", "text"):
        value = record.get(name)
        if not (value is None or isinstance(value, str)):
            raise line_error(path, number, f"its `{name}` is not a text")
        if value is None or not value.strip():
            raise line_error(path, number, f"it has no `{name}`")
    if record["reference"] == record["target"]:
        raise line_error(path, number, "`reference` and `target` are the same item")
    reverse = record.get("reverse")
    if reverse is not None and (not isinstance(reverse, str) or not reverse.strip()):
        raise line_error(path, number, "`reverse` is neither a text nor null")
    scores = record.get("scores") or {}
    if not isinstance(scores, dict) or not all(map(_is_number, scores.values())):
        raise line_error(path, number, "`scores` are not numbers by name")
    return Triplet(
        record["reference"],
        record["target"],
        record["text"].strip(),
        None if reverse is None else reverse.strip(),
        scores,
        str(record.get("model") or ""),
        str(record.get("prompt_version") or ""),
    )


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def read_triplets(
    paths: Sequence[str | os.PathLike[str]], row_of: Callable[[str], int | None]
) -> tuple[list[KnownTriplet], int]:
    """Triplets of files whose both items are in an index, each once.

    Args:
        paths: The files.
        row_of: The row of an id, or None.

    Returns:
        The triplets, and the number of those that were passed over because the index lacks an
        item of theirs.

    Raises:
        SourceError: If a file cannot be read or a line is no triplet; it is named.
        InputError: If nothing is left.
    """
    found: dict[KnownTriplet, None] = {}
    missing = 0
    for path in paths:
        for one in read_lines(path):
            reference, target = row_of(one.reference), row_of(one.target)
            if reference is None or target is None:
                missing += 1
            else:
                found[KnownTriplet(reference, target, one.text, one.reverse)] = None
    if paths and not found:
        names = ", ".join(repr(str(path)) for path in paths)
        raise InputError(
            f"{names}: no triplet is about items of the index ({missing} were read)",
            "give the file that `genmm triplets` wrote for this index",
        )
    return list(found), missing


class TripletBook:
    """A file of triplets and, beside it, a folder of what was dropped, for as long as it is open.

    Both are only ever appended to. What was written stays written when the process is killed; a
    last line that was cut short is removed when the book is opened again, and its pair is asked
    for again. The folder, `<path>.work`, may be removed when nothing is to be gone on with.

    Args:
        path: The file of triplets.
        options: What the triplets are a function of; kept in the folder.

    Raises:
        SourceError: If the file is not one of triplets; the line is named.
        InputError: If it was begun with other options.
        IndexLockedError: If another process writes it.
        StorageError: If the place cannot be written.
    """

    def __init__(self, path: Path, options: Mapping[str, Any]) -> None:
        self.path = path
        _mend(path)
        self.triplets = {
            (one.reference, one.target): one for one in (read_lines(path) if path.exists() else ())
        }
        folder = path.with_name(path.name + ".work")
        with storing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(folder, path)
        try:
            _check_options(folder / "options.json", path, options)
            self._dropped_path = folder / "dropped.jsonl"
            _mend(self._dropped_path)
            self._reasons: dict[tuple[str, str], str] = {}
            if self._dropped_path.exists():
                for number, record in iter_jsonl(self._dropped_path):
                    self._reasons[_drop(record, self._dropped_path, number)] = record["reason"]
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let others write; harmless when called twice."""
        self._lock.release()

    def __enter__(self) -> TripletBook:
        """The book itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def __contains__(self, pair: object) -> bool:
        """Whether a pair of ids was decided on."""
        return pair in self.triplets or pair in self._reasons

    def __len__(self) -> int:
        """Number of triplets."""
        return len(self.triplets)

    @property
    def dropped(self) -> dict[str, int]:
        """Numbers of dropped pairs by reason, the most frequent first."""
        return dict(Counter(self._reasons.values()).most_common())

    def put(self, triplets: Sequence[Triplet], dropped: Sequence[tuple[str, str, str]]) -> None:
        """Keep triplets and dropped pairs (reference, target, reason), durably.

        Raises:
            StorageError: If they cannot be written.
        """
        _append(self.path, [one.to_json() for one in triplets])
        names = ("reference", "target", "reason")
        _append(self._dropped_path, [dict(zip(names, one, strict=True)) for one in dropped])
        self.triplets.update({(one.reference, one.target): one for one in triplets})
        self._reasons.update({(a, b): reason for a, b, reason in dropped})


def _drop(record: dict[str, Any], path: Path, number: int) -> tuple[str, str]:
    if not all(isinstance(record.get(name), str) for name in ("reference", "target", "reason")):
        raise line_error(path, number, "it has not the texts `reference`, `target` and `reason`")
    return record["reference"], record["target"]


def _locked(folder: Path, path: Path) -> WriterLock:
    try:
        return WriterLock(folder)
    except IndexLockedError as error:
        raise IndexLockedError(
            f"{str(path)!r} is being written by another process", "wait until it has finished"
        ) from error


def _check_options(kept: Path, path: Path, options: Mapping[str, Any]) -> None:
    """Keep the options that a file is begun with, and refuse others later."""
    try:
        before = json.loads(kept.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        before = None
    if not isinstance(before, dict):
        store_json(kept, dict(options))
        return
    for name, value in options.items():
        if before.get(name) != value:
            raise InputError(
                f"{str(path)!r} was begun with {name} {before.get(name)!r}, not {value!r}",
                "name another file; training takes several",
            )


def _append(path: Path, records: Sequence[dict[str, Any]]) -> None:
    if not records:
        return
    lines = "".join(json.dumps(record) + "\n" for record in records)
    with storing(path):
        append_durably(path, lines.encode())


def _mend(path: Path) -> None:
    """End the last line of a file, or remove it if a kill cut it short; nothing else is touched.

    Raises:
        SourceError: If the last line is something else.
    """
    if not path.exists():
        return
    raw = path.read_bytes()
    whole, broken, last = raw.rpartition(b"\n")
    if not last.strip():
        return
    if not (last.startswith(_OPENING) or _OPENING.startswith(last)):
        raise SourceError(
            f"{str(path)!r} is there already and is no file of triplets", "name another file"
        )
    try:
        json.loads(last)
    except ValueError:
        with storing(path), path.open("rb+") as file:
            file.truncate(len(whole + broken))
    else:
        with storing(path):
            append_durably(path, b"\n")
