"""Fields of metadata that an index knows: a misspelt one would match nothing, silently."""

from __future__ import annotations

from collections.abc import Iterable

from genmm_retriever.corpus.store.database import Tables
from genmm_retriever.errors import QueryError
from genmm_retriever.schema import is_unicode

_SHOWN = 8


def check_fields(tables: Tables, fields: Iterable[str]) -> None:
    """Refuse a field that no item has; see `IndexReader.check_fields`."""
    unknown = next((field for field in fields if not _has(tables, field)), None)
    if unknown is None:
        return
    known = _known(tables, _SHOWN + 1)
    more = ", ..." if len(known) > _SHOWN else ""
    raise QueryError(
        f"no item has the field {unknown[:80]!r}, which a filter names",
        f"there are {', '.join(known[:_SHOWN])}{more}" if known else "no item has any metadata",
    )


def _has(tables: Tables, field: str) -> bool:
    """Whether any item has a field; one look into the table's index."""
    if not is_unicode(field):
        return False
    sql = "SELECT 1 FROM metadata WHERE key=? LIMIT 1"
    return tables.run(sql, (field,)).fetchone() is not None


def _known(tables: Tables, most: int) -> list[str]:
    """The first so many fields, sorted; as many looks into the index, however large it is."""
    found: list[str] = []
    (field,) = tables.run("SELECT min(key) FROM metadata").fetchone()
    while field is not None and len(found) < most:
        found.append(field)
        (field,) = tables.run("SELECT min(key) FROM metadata WHERE key > ?", (field,)).fetchone()
    return found
