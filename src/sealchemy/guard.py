"""Refusing INSERT and UPDATE statements that would store something else than an encrypted value.

SQLAlchemy encrypts what it binds with the column's type. A SQL expression brings a type of its own, and
`values(token=func.coalesce(table.c.token, "ya29..."))` would store the text in clear without a word.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from sqlalchemy import Insert, Update, text
from sqlalchemy.sql.elements import BindParameter, ColumnClause, Null
from sqlalchemy.types import TypeDecorator

from .errors import UnsupportedOperationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class EncryptedType:
    """Marks the types whose columns are guarded."""

    context: str


def encrypted_type(type_: object) -> EncryptedType | None:
    """Return what encrypts a column of this type, which may be wrapped in types of the user; None if nothing does."""
    while not isinstance(type_, EncryptedType):
        if not isinstance(type_, TypeDecorator):
            return None
        type_ = type_.impl_instance
    return type_


def refuse_expressions(_connection: object, statement: Any, *_parameters: object) -> None:
    """Raise `UnsupportedOperationError` if an encrypted column is given an expression: listens to `before_execute`."""
    if not isinstance(statement, Insert | Update):
        return
    for column, value in _assignments(statement):
        type_ = encrypted_type(getattr(column, "type", None))
        if type_ is not None and not _is_encrypted(value, type_.context):
            del statement, value, _parameters  # error trackers print the variables of a frame
            _refuse(type_.context)


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
            # SQLAlchemy takes it for the name of a column that it does not know, and binds the value as it is.
            yield from ((column, text("")) for column in columns if column.name.casefold() == key.casefold())
    if getattr(statement, "select", None) is not None:
        names = statement._select_names or columns.keys()  # noqa: SLF001
        selected = list(statement.select.selected_columns)
        if len(selected) != len(names):  # text() among them, which has no place in that list
            selected = [statement.select] * len(names)
        yield from _pairs(columns, zip(names, selected, strict=True))


def _pairs(columns: Any, items: Iterable[tuple[Any, Any]]) -> Iterator[tuple[Any, Any]]:
    for key, value in items:
        yield (columns.get(key) if isinstance(key, str) else key), value


def _is_encrypted(value: Any, context: str) -> bool:
    """Return whether what is stored is NULL, encrypted for this context, or encrypted when it is bound."""
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


def _refuse(context: str) -> NoReturn:
    message = (
        f"{context}: an SQL expression is refused as the value of an encrypted column, it would be stored in clear;"
        " compute the value in Python, or assign NULL or a column of the same context; and in the set_ of an upsert,"
        " name the column by its key"
    )
    raise UnsupportedOperationError(message)
