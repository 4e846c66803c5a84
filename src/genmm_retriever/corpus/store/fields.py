"""Fields of metadata that an index knows: a misspelt one would match nothing, silently."""

from __future__ import annotations

from collections.abc import Mapping

from genmm_retriever.corpus.store.database import Tables, encode_metadata
from genmm_retriever.errors import QueryError
from genmm_retriever.schema import Scalar, is_unicode

_SHOWN = 8
# Encoded values of a kind lie between two beginnings, the second one excluded.
_KINDS = {"texts": ('"', "#"), "numbers": ("-", ":"), "false": ("f", "g"), "true": ("t", "u")}


def check_fields(tables: Tables, filters: Mapping[str, Scalar | list[Scalar]]) -> None:
    """Refuse what can match nothing; see `IndexReader.check_fields`."""
    unknown = next((field for field in filters if not _has(tables, field)), None)
    if unknown is None:
        for field, value in filters.items():
            _check_kind(tables, field, value if isinstance(value, list) else [value])
        return
    known = _known(tables, _SHOWN + 1)
    more = ", ..." if len(known) > _SHOWN else ""
    raise QueryError(
        f"no item has the field {unknown[:80]!r}, which a filter names",
        f"there are {', '.join(known[:_SHOWN])}{more}" if known else "no item has any metadata",
    )


def _check_kind(tables: Tables, field: str, values: list[Scalar]) -> None:
    """Refuse values of a kind that a field has in no item: the text "2013" is not the number."""
    if not values or None in values:
        return  # a null matches what no kind is told of
    wanted = {kind for value in values for kind in _kinds(value)}
    held = {kind: one for kind in _KINDS if (one := _sample(tables, field, kind)) is not None}
    if held and not wanted & held.keys():
        shown = " and ".join(
            kind if kind == one else f"{kind} such as {one[:40]}" for kind, one in held.items()
        )
        raise QueryError(
            f"the field {field[:80]!r} holds {shown}; a filter asks for "
            f"{encode_metadata(values[0])[:80]}",
            "give a value of a kind that the field holds",
        )


def _kinds(value: Scalar) -> set[str]:
    """What a field must hold for a value, which is not null, to make sense."""
    if isinstance(value, bool):
        return {"true", "false"}
    return {"texts"} if isinstance(value, str) else {"numbers"}


def _sample(tables: Tables, field: str, kind: str) -> str | None:
    """An encoded value of a kind that a field has; one look into the table's index."""
    sql = "SELECT min(value) FROM metadata WHERE key=? AND value >= ? AND value < ?"
    found: tuple[str | None] = tables.run(sql, (field, *_KINDS[kind])).fetchone()
    return found[0]


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
