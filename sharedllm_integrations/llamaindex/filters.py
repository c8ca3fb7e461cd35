"""LlamaIndex's metadata filters -> those of a memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llama_index.core.vector_stores.types import (
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
)

from sharedllm_integrations.errors import SetupError

OPERATORS = {
    FilterOperator.GT: "gt",
    FilterOperator.GTE: "gte",
    FilterOperator.LT: "lt",
    FilterOperator.LTE: "lte",
    FilterOperator.NE: "ne",
    FilterOperator.IN: "in",
}


def where(filters: MetadataFilters | Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """The filter as ``TreeMemory.search`` takes it.

    Raises
    ------
    SetupError
        If a memory cannot filter like this.
    """
    if filters is None or isinstance(filters, Mapping):
        return filters
    if filters.condition not in (None, FilterCondition.AND) and len(filters.filters) > 1:
        raise SetupError(
            f"filters are joined by {filters.condition!r}; a memory joins them by 'and' only. "
            "Retrieve once for each, or use the operator 'in'"
        )
    out: dict[str, Any] = {}
    for one in filters.filters:
        if not isinstance(one, MetadataFilter):
            raise SetupError("filters are nested; give one list of MetadataFilter")
        held = out.setdefault(one.key, {})
        operator = "in" if one.operator == FilterOperator.EQ else OPERATORS.get(one.operator)
        if operator is None or operator in held:
            allowed = ", ".join(f"{o.value!r}" for o in (FilterOperator.EQ, *OPERATORS))
            raise SetupError(
                f"the filter of {one.key!r} has the operator {one.operator.value!r}"
                f"{' twice' if operator else ''}; allowed, once each: {allowed}"
            )
        held[operator] = [one.value] if one.operator == FilterOperator.EQ else one.value
    return out
