"""LlamaIndex metadata filters as conditions of the core, applied before decoding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llama_index.core.vector_stores.types import (
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
)

from genmm_retriever.checks import joined_filters
from genmm_retriever.errors import QueryError
from genmm_retriever.schema import Scalar

Conditions = dict[str, Scalar | list[Scalar]]

# The core compares a value with a scalar, or with any member of a list, in one way.
_ONE = (FilterOperator.EQ, FilterOperator.CONTAINS)
_ONE_OF = (FilterOperator.IN, FilterOperator.ANY)


def to_conditions(filters: MetadataFilters | Mapping[str, Any] | None) -> Conditions:
    """Conditions that must all hold, by key; a list means "one of".

    Args:
        filters: `==`, `contains`, `in` and `any` on different keys, joined by AND (also
            nested), or the core's own mapping.

    Returns:
        The core's conditions; empty if there are none.

    Raises:
        QueryError: If a filter cannot be held during decoding; it names the filter.

    Examples:
        >>> to_conditions(MetadataFilters(filters=[MetadataFilter(key="year", value=2013)]))
        {'year': 2013}
    """
    if not isinstance(filters, MetadataFilters):
        return joined_filters(filters)
    conditions: Conditions = {}
    for part in filters.filters:
        several = len(filters.filters) > 1
        if filters.condition is FilterCondition.NOT or (
            several and filters.condition is FilterCondition.OR
        ):
            raise QueryError(
                f"filters joined by {filters.condition.value!r} are not supported",
                "join them by 'and'; for one key with several values use the operator 'in'",
            )
        found = _condition(part) if isinstance(part, MetadataFilter) else to_conditions(part)
        for key, value in found.items():
            if key in conditions:
                raise QueryError(
                    f"two filters name the key {key!r}", "give one filter a key, 'in' for a choice"
                )
            conditions[key] = value
    return conditions


def _condition(part: MetadataFilter) -> Conditions:
    if part.operator in _ONE and not isinstance(part.value, list) and part.value is not None:
        return {part.key: part.value}
    if part.operator in _ONE_OF and isinstance(part.value, list):
        return {part.key: list(part.value)}
    raise QueryError(
        f"the filter {part.key!r} {part.operator.value} {part.value!r} is not supported",
        "use '==' or 'contains' with one value, 'in' or 'any' with a list",
    )
