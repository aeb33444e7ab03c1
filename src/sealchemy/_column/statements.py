"""Refuse INSERT and UPDATE statements that would store anything other than an encrypted value.

SQLAlchemy encrypts the values that it binds with the column's type. An SQL expression brings a type of its own, and
`values(token=func.coalesce(table.c.token, "ya29..."))` would silently store the text in clear.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from sqlalchemy import Insert, Update, text
from sqlalchemy.sql.elements import BindParameter, ColumnClause, Null
from sqlalchemy.types import TypeDecorator

from sealchemy.errors import UnsupportedOperationError


class EncryptedType:
    """Marks the types whose columns are protected."""

    context: str


def encrypted_type(type_: object) -> EncryptedType | None:
    """Return the encrypted type of a column, also where a `TypeDecorator` wraps it; None if there is none."""
    while not isinstance(type_, EncryptedType):
        if not isinstance(type_, TypeDecorator):
            return None
        type_ = type_.impl_instance
    return type_


def refuse_expressions(_connection: object, statement: Any, *_parameters: object) -> None:
    """Raise `UnsupportedOperationError` if an encrypted column is given an expression: listens to `before_execute`."""
    if not isinstance(statement, Insert | Update):
        return
    context = _find_expression(statement)
    if context is not None:
        statement, _parameters = type(statement), ()  # error trackers print the variables of a frame
        raise UnsupportedOperationError(
            f"{context}: an SQL expression cannot be the value of an encrypted column, because it would be stored in"
            " clear; compute the value in Python, or assign NULL or a column of the same context; in the set_ of an"
            " upsert, name the column by its key"
        )


def _find_expression(statement: Any) -> str | None:
    """Return the context of a column that would be given an expression."""
    for column, value in _assignments(statement):
        type_ = encrypted_type(getattr(column, "type", None))
        if type_ is not None and not _is_encrypted(value, type_.context):
            return type_.context
    return None


def _assignments(statement: Any) -> Iterator[tuple[Any, Any]]:
    columns = statement.table.c
    yield from _pairs(columns, (statement._values or {}).items())  # noqa: SLF001 - there is no public way to them
    yield from _pairs(columns, getattr(statement, "_ordered_values", None) or ())
    for several in getattr(statement, "_multi_values", ()):
        for row in several:
            yield from _pairs(columns, row.items() if isinstance(row, dict) else zip(columns, row, strict=False))
    conflict = getattr(statement, "_post_values_clause", None)
    update = getattr(conflict, "update_values_to_set", None) or getattr(conflict, "update", None) or ()
    yield from _pairs(columns, update.items() if isinstance(update, dict) else update)
    for key in update if isinstance(update, dict) else [item[0] for item in update]:
        if isinstance(key, str) and key not in columns:
            # SQLAlchemy takes it for the name of an unknown column, and binds the value as it is.
            yield from ((column, text("")) for column in columns if column.name.casefold() == key.casefold())
    if getattr(statement, "select", None) is not None:
        names = statement._select_names or columns.keys()  # noqa: SLF001
        selected = list(statement.select.selected_columns)
        if len(selected) != len(names):  # it has text(), which is not in that list
            selected = [statement.select] * len(names)
        yield from _pairs(columns, zip(names, selected, strict=True))


def _pairs(columns: Any, items: Iterable[tuple[Any, Any]]) -> Iterator[tuple[Any, Any]]:
    for key, value in items:
        yield (columns.get(key) if isinstance(key, str) else key), value


def _is_encrypted(value: Any, context: str) -> bool:
    """Return whether a value is NULL, encrypted for this context, or encrypted when it is bound."""
    if not hasattr(value, "_propagate_attrs") and not hasattr(value, "__clause_element__"):
        return True  # a plain value: it is bound with the column's type
    element = value.__clause_element__() if hasattr(value, "__clause_element__") else value
    if isinstance(element, Null):
        return True
    if isinstance(element, BindParameter):
        return element.type._isnull or _is_of(element, context)  # noqa: SLF001 - no type yet: it gets the column's
    return isinstance(element, ColumnClause) and _is_of(element, context)


def _is_of(element: Any, context: str) -> bool:
    return isinstance(element.type, EncryptedType) and element.type.context == context
