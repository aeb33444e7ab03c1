"""SQLAlchemy's elements: what is inside them, and where they belong."""

from typing import Any

from sqlalchemy.sql.elements import Cast, ClauseElement, CollectionAggregate, Grouping, Label, Null, TypeCoerce
from sqlalchemy.sql.selectable import (
    CompoundSelect,
    FromClause,
    ScalarSelect,
    SelectBase,
    SelectStatementGrouping,
)

PERMIT = "sealchemy permit"
"""The annotation of an element that may be rendered; see `ProtectedCompiler`."""

ALWAYS = object()
"""The permit of a stored value that may be rendered anywhere, as its text is not taken for the secret."""


class Permitted(TypeCoerce[Any]):
    """A column that may be rendered, with another type; also once SQLAlchemy has put that of an alias in its place."""

    inherit_cache = True

    @property
    def typed_expression(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride] # theirs is memoized
        """What is rendered."""
        return self.clause


def unwrap(element: Any) -> Any:
    """Return an expression without its labels, parentheses and ORM attribute."""
    inner: Any = element
    if not isinstance(element, ClauseElement) and hasattr(element, "__clause_element__"):
        inner = element.__clause_element__()
    while isinstance(inner, Label | Grouping) or type(inner).__name__ == "_CompileLabel":
        inner = inner.element
    return inner


def is_null(element: Any) -> bool:
    """Return whether an unwrapped expression is NULL, with or without a type."""
    if isinstance(element, Cast | TypeCoerce):
        element = unwrap(element.clause)
    return isinstance(element, Null)


def outputs(selectable: Any) -> list[list[Any]]:
    """Return the columns of each SELECT in a subquery or compound; an empty list for anything else."""
    while isinstance(selectable, Grouping | ScalarSelect | SelectStatementGrouping | CollectionAggregate):
        selectable = selectable.element
    if isinstance(selectable, CompoundSelect):
        return [row for item in selectable.selects for row in outputs(item)]
    columns = selectable.selected_columns if isinstance(selectable, SelectBase) else None
    return [] if columns is None else [list(columns)]


def has_primary_key_of(column: Any, columns: list[Any]) -> bool:
    """Return whether the primary key of a column's table is among some columns."""
    table = getattr(column, "table", None)
    key = {item.key for item in table.primary_key} if isinstance(table, FromClause) else set()
    others = [unwrap(other) for other in columns]
    return bool(key) and key <= {other.key for other in others if getattr(other, "table", None) is table}


def column_of(key: Any, tables: list[FromClause]) -> Any:
    """Return the column that a key of `values()` is, or names in the first table; None if there is none."""
    key = unwrap(key)
    if isinstance(key, str):
        return tables[0].c.get(key)
    return next((column for table in tables for column in table.c if hash(column) == hash(key)), None)
