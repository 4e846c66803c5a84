"""Published data sets written as the two files that this package reads."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import StorageError
from ..schema import Item
from .composed import ComposedSet
from .datasets import EvalQuery
from .metrics import write_lines

ITEMS_FILE, QUERIES_FILE = "items.jsonl", "queries.jsonl"


def write_composed(
    composed: ComposedSet, folder: str | Path, *, overwrite: bool = False
) -> tuple[Path, Path]:
    """Write `items.jsonl`, to be indexed, and `queries.jsonl`, to be evaluated.

    Pictures are named by their absolute paths.

    Returns:
        Both files.

    Raises:
        StorageError: If one is there and not to be overwritten, or cannot be written.
    """
    files = Path(folder) / ITEMS_FILE, Path(folder) / QUERIES_FILE
    for path in files:
        if path.exists() and not overwrite:
            raise StorageError(f"{path} is there already", "name another folder, or --overwrite")
    made = [path for path in files if not path.exists()]
    try:
        write_lines(files[0], (_line(_item_fields(item)) for item in composed.items))
        write_lines(files[1], (_line(_query_fields(query)) for query in composed.queries))
    except StorageError:
        # One without the other is of no use, and would stand in the way of the next try.
        for path in made:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
        raise
    return files


def _item_fields(item: Item) -> dict[str, Any]:
    return {"id": item.id, "image": item.image, "metadata": item.metadata}


def _query_fields(query: EvalQuery) -> dict[str, Any]:
    return {
        "id": query.id,
        "text": query.query.text,
        "image": query.query.image,
        "relevant": sorted(query.relevant),
        "reference": query.reference,
        "subset": sorted(query.subset),
        "filters": query.query.filters,
        "group": query.group,
    }


def _line(fields: Mapping[str, Any]) -> str:
    return json.dumps({name: value for name, value in fields.items() if value}) + "\n"
