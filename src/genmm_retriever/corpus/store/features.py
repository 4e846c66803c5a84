"""The writer's picture features: rows appended to segments, each with its checksum."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from genmm_retriever.corpus.store import files
from genmm_retriever.corpus.store.arrays import gather, map_segment, write_rows
from genmm_retriever.corpus.store.staging import Staging
from genmm_retriever.errors import InputError

_COMPACT_AT = 32


class Features:
    """Features of the rows of a work database.

    Args:
        staging: The open work database.
    """

    def __init__(self, staging: Staging) -> None:
        self._staging = staging
        self._segments: dict[str, np.ndarray] = {}

    def forget(self) -> None:
        """Let go of the mapped segments."""
        self._segments.clear()

    def put(self, rows: Sequence[int], array: np.ndarray) -> None:
        """See `IndexWriter.put_features`; the rows exist."""
        with np.errstate(over="ignore"):
            array = np.asarray(array).astype(np.float16)
        if array.ndim < 2 or len(array) != len(rows) or 0 in array.shape[1:]:
            raise InputError(f"{len(rows)} rows cannot have features of shape {array.shape}")
        if not len(rows):
            return
        if not np.isfinite(array).all():
            raise InputError("features must be finite numbers within half precision")
        staging, name = self._staging, files.segment_name(self._staging.base + 1)
        shape = list(array.shape[1:])
        with staging.transaction() as tables:
            before = json.loads(tables.meta("feature_shape") or "null")
            if before not in (None, shape):
                raise InputError(f"features have the shape {shape} a row, those before {before}")
            path = staging.folder / name
            path.parent.mkdir(exist_ok=True)
            sql = "SELECT max(position) + 1 FROM features WHERE segment=?"
            position = tables.run(sql, (name,)).fetchone()[0] or 0
            crcs = write_rows(path, position, array)
            entries = enumerate(zip(rows, crcs, strict=True), start=position)
            tables.connection.executemany(
                "INSERT OR REPLACE INTO features VALUES(?, ?, ?, ?)",
                [(int(row), name, place, crc) for place, (row, crc) in entries],
            )
            staging.set_meta("feature_shape", json.dumps(shape))
        self._segments.pop(name, None)

    def get(self, rows: Sequence[int]) -> np.ndarray | None:
        """See `IndexWriter.features`."""
        tables, folder = self._staging.tables, self._staging.folder
        with self._staging.errors():
            places = tables.feature_places(rows)
            shape = json.loads(tables.meta("feature_shape") or "null")
        if shape is None or not all(int(row) in places for row in rows):
            return None
        for name in {places[int(row)][0] for row in rows} - set(self._segments):
            self._segments[name] = map_segment(folder / name, shape)
        return gather(folder, self._segments, [places[int(row)] for row in rows], shape)

    def compact(self) -> None:
        """Gather many small segments in one, so that readers keep few files open."""
        staging = self._staging
        with staging.errors():
            sql = "SELECT segment FROM features GROUP BY segment ORDER BY count(*)"
            segments = [name for (name,) in staging.tables.run(sql)]
        if len(segments) <= _COMPACT_AT or not staging.number("changes"):
            return
        current = files.segment_name(staging.base + 1)
        for name in segments[: _COMPACT_AT * 3 // 4]:
            if name != current:
                self._move(name)

    def _move(self, name: str) -> None:
        sql = "SELECT row FROM features WHERE segment=? ORDER BY position"
        with self._staging.errors():
            rows = [row for (row,) in self._staging.tables.run(sql, (name,))]
        for start in range(0, len(rows), 256):
            part = rows[start : start + 256]
            array = self.get(part)
            if array is not None:
                self.put(part, array)
