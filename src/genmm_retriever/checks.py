"""What callers give, checked before anything costly is done."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from reprlib import repr as shortened
from typing import Any, Literal, TypeGuard

from pydantic import ValidationError

from genmm_retriever.errors import InputError, QueryError, first_problem
from genmm_retriever.schema import GivenImage, Kind, Query, Scalar

VERIFIERS: tuple[str, ...] = ("likelihood", "choice", "yesno", "off")
MAX_K = 10_000
MAX_ROUNDS = 8
_LOOPS = {"expand": 3, "reason": 3}
ADAPTERS: tuple[str, ...] = ("resolve", "rewrite", "compose", *_LOOPS, "consistency")
"""Names of what can be done to a query, in the order in which it is done."""


def as_query(
    query: str | Query | None,
    *,
    image: GivenImage | None = None,
    filters: dict[str, Scalar | list[Scalar]] | None = None,
    kind: Kind | None = None,
) -> Query:
    """A whole query of what a caller gave; what is given beside a `Query` overrides it.

    Raises:
        QueryError: If it is empty or cannot be asked.
    """
    given = {"image": image, "filters": filters, "kind": kind}
    changes: dict[str, Any] = {k: v for k, v in given.items() if v is not None}
    if isinstance(query, Query):
        changes = {**dict(query), **changes}
    elif query is not None and not isinstance(query, str):
        raise QueryError(f"a query of type {type(query).__name__}", "give a str or a Query")
    elif image is None and not (query and query.strip()):
        raise QueryError("the query is empty", "give some words, a picture, or both")
    else:
        changes["text"] = query
    try:
        return Query.model_validate(changes)
    except ValidationError as error:
        raise _refused(changes, error) from error


def as_queries(queries: Iterable[str | Query]) -> list[Query]:
    """Whole queries of those that a caller gave.

    Raises:
        QueryError: If it is a single one, whose letters would be asked, or as `as_query`.
    """
    if isinstance(queries, (str, Query)):
        raise QueryError("the queries are a single one", "give a list of queries")
    if isinstance(queries, Mapping) or not isinstance(queries, Iterable):
        raise QueryError(f"the queries are {shortened(queries)}", "give a list of queries")
    return [as_query(query) for query in queries]


def joined_filters(*given: Mapping[str, Any] | None) -> dict[str, Any]:
    """The filters of several givers together; of two on the same field, the last one's holds.

    Raises:
        QueryError: If some are no mapping.

    Examples:
        >>> joined_filters({"year": 2012, "kind": "a"}, None, {"year": 2013})
        {'year': 2013, 'kind': 'a'}
    """
    joined: dict[str, Any] = {}
    for filters in given:
        if filters is None:
            continue
        if not isinstance(filters, Mapping):
            raise _no_filters(filters)
        joined.update(filters)
    return joined


def _no_filters(given: object) -> QueryError:
    hint = 'give fields with a value or a list of values, such as {"year": [2012, 2013]}'
    return QueryError(f"filters is {shortened(given)}", hint)


def _refused(given: Mapping[str, Any], error: ValidationError) -> QueryError:
    """What is wrong with a query, in words of whoever asks it."""
    place = error.errors()[0]["loc"]
    value = given.get(str(place[0])) if place else None
    if place[:1] == ("kind",):
        return QueryError(f"kind is {value!r}", "use 'image' or 'text'")
    if place[:1] == ("filters",) and not isinstance(value, dict):
        return _no_filters(value)
    fields = value if isinstance(value, dict) else {}
    name = next((name for name in fields if not _fits(fields[name])), None)
    if name is not None:
        return QueryError(
            f"the filter {name!r} is {shortened(fields[name])}",
            "give a text, a number, true or false, or a list of such, one of which must hold",
        )
    return QueryError(f"the query cannot be asked: {first_problem(error)}")


def _fits(value: object) -> bool:
    """Whether it may be a filter's value."""
    if isinstance(value, list):
        return not any(isinstance(one, list) or not _fits(one) for one in value)
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, (str, int))


def check_options(
    *,
    k: int = 1,
    verify: str | bool = "off",
    num_beams: int | None = None,
    candidates: int = 1,
    budget: int | Literal["auto"] | None = "auto",
    budget_ms: float | None = None,
    cascade: bool | None = None,
) -> None:
    """Refuse options that are out of range, before anything costly is done."""
    checked_k(k)
    checked_verify(verify)
    for name, value in (("num_beams", num_beams), ("candidates", candidates), ("budget", budget)):
        if (name != "candidates" and value is None) or (name == "budget" and value == "auto"):
            continue
        if not _is_whole(value) or value < 1:
            raise InputError(f"{name} is {value!r}", "give a whole number of at least 1")
    if budget_ms is not None and not (
        isinstance(budget_ms, (int, float))
        and not isinstance(budget_ms, bool)
        and 0 < budget_ms < math.inf
    ):
        raise InputError(f"budget_ms is {budget_ms!r}", "give milliseconds above 0, or None")
    if cascade not in (None, True, False):
        raise InputError(f"cascade is {cascade!r}", "give True, False or None")


def checked_k(k: int) -> int:
    """The number of hits, if it is one.

    Raises:
        QueryError: If it is out of range.
    """
    if not _is_whole(k) or not 1 <= k <= MAX_K:
        raise QueryError(f"k is {k!r}", f"give a whole number from 1 to {MAX_K}")
    return int(k)


def _is_whole(value: Any) -> TypeGuard[int]:
    """Whether it is an integer, of Python or NumPy; True and False are none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def checked_verify(verify: str | bool) -> str:
    """The name of a verifier, or `"off"`.

    Raises:
        InputError: If there is none of that name.
    """
    if isinstance(verify, bool):
        return "likelihood" if verify else "off"
    if verify not in VERIFIERS:
        raise InputError(f"there is no verifier {verify!r}", f"one of {', '.join(VERIFIERS)}")
    return verify


def check_threshold(threshold: float | None, verify: str | bool | None) -> None:
    """Refuse a least probability where nothing is verified, which would let everything pass.

    Args:
        threshold: Least probability; None or 0 lets everything pass anyway.
        verify: How candidates are checked; None if that is not known.

    Raises:
        InputError: If there is a threshold and no verification, or no such verifier.
    """
    if threshold and verify is not None and checked_verify(verify) == "off":
        raise InputError(
            f"a threshold of {threshold:g} needs verification, which is off",
            "leave the threshold out, or verify by likelihood",
        )


def check_adapters(names: Sequence[str]) -> None:
    """Refuse names of query adapters that are none.

    Raises:
        InputError: If there is no such adapter, its number is out of range, or one is named twice.

    Examples:
        >>> check_adapters(["rewrite", "expand:5"])
    """
    kinds = [read_adapter(name)[0] for name in names]
    for kind in kinds:
        if kinds.count(kind) > 1:
            raise InputError(f"the query adapter {kind!r} is named twice", "name each once")


def read_adapter(name: str) -> tuple[str, int]:
    """A query adapter's name and its number, which counts for those that have one.

    Raises:
        InputError: As `check_adapters`.

    Examples:
        >>> read_adapter("expand:5"), read_adapter("reason")
        (('expand', 5), ('reason', 3))
    """
    kind, colon, number = name.partition(":")
    if kind not in ADAPTERS:
        raise InputError(f"there is no query adapter {kind!r}", f"one of {', '.join(ADAPTERS)}")
    if not colon:
        return kind, _LOOPS.get(kind, 0)
    digits = number.isascii() and number.isdigit() and len(number) < 3
    if kind not in _LOOPS or not digits or not 1 <= int(number) <= MAX_ROUNDS:
        hint = f"write for example expand:3 or reason:2; {MAX_ROUNDS} at most"
        raise InputError(f"{name!r} is no query adapter", hint)
    return kind, int(number)
