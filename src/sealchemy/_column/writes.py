"""What INSERT and UPDATE may write to an encrypted column: values that are encrypted, or will be when they are bound.

An SQL expression brings a type of its own, so `values(token=func.coalesce(table.c.token, "ya29..."))` would silently
store the text in clear. Accepted are plain values and NULL, parameters of the column's context, and columns that hold
encrypted values of that context.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NoReturn

from sqlalchemy.sql import visitors
from sqlalchemy.sql.elements import (
    BindParameter,
    Cast,
    ClauseElement,
    ColumnClause,
    Grouping,
    Label,
    Null,
    TextClause,
    TypeCoerce,
)
from sqlalchemy.sql.selectable import CompoundSelect, FromClause, Join, ScalarSelect, TableClause, Values

from sealchemy.errors import UnsupportedOperationError

from .encrypted_type import context_of


def accepted_values(state: Any) -> list[object]:
    """Return the columns and subqueries among the values of an INSERT or UPDATE, all of which are acceptable.

    Raises:
        UnsupportedOperationError: a value for an encrypted column would be stored in clear, or a key could be one.
    """
    statement = state.statement
    tables = [*_tables(statement.table), *getattr(state, "_extra_froms", ())]
    if not any(context_of(column) for table in tables for column in table.c):
        return []
    accepted: list[object] = []
    for key, value in _assignments(statement, state):
        contexts = [context for column in _targets(key, tables) if (context := context_of(column)) is not None]
        for context in contexts:
            if not _is_encrypted(value, context):
                _refuse(context, "an SQL expression as the value of an encrypted column")
        if contexts:
            accepted.append(unwrap(value))
    for key, value in _conflict_assignments(statement):
        column = _column_of_table(key, statement.table)
        context = context_of(column)
        if context is not None and not _is_encrypted(value, context):
            _refuse(context, "an SQL expression as the value of an encrypted column")
        if context is not None:
            accepted.append(unwrap(value))
    if getattr(statement, "select", None) is not None:
        _require_same_contexts(statement)
    return [item for item in accepted if isinstance(item, ColumnClause | ScalarSelect)]


def unwrap(element: Any) -> Any:
    """Return an expression without its labels, parentheses and ORM attribute."""
    if hasattr(element, "__clause_element__"):
        element = element.__clause_element__()
    while isinstance(element, Label | Grouping) or type(element).__name__ == "_CompileLabel":
        element = element.element
    return element


def is_null(element: Any) -> bool:
    """Return whether an unwrapped expression is NULL, with or without a type."""
    if isinstance(element, Cast | TypeCoerce):
        element = unwrap(element.clause)
    return isinstance(element, Null)


def outputs(selectable: Any) -> list[list[Any]]:
    """Return the columns of each SELECT in a subquery or compound; an empty list for anything else."""
    while isinstance(selectable, Grouping | ScalarSelect) or (
        hasattr(selectable, "element") and not hasattr(selectable, "selected_columns")
    ):
        selectable = selectable.element
    if isinstance(selectable, CompoundSelect):
        return [row for item in selectable.selects for row in outputs(item)]
    columns = getattr(selectable, "selected_columns", None)
    return [] if columns is None else [list(columns)]


def has_primary_key_of(column: Any, columns: list[Any]) -> bool:
    """Return whether the primary key of a column's table is among some columns."""
    table = getattr(column, "table", None)
    key = list(table.primary_key) if isinstance(table, FromClause) else []
    return bool(key) and all(any(item.shares_lineage(unwrap(other)) for other in columns) for item in key)


def require_plain_rows(values: Any) -> None:
    """Refuse VALUES with expressions for encrypted columns."""
    contexts = [context_of(column) for column in values._column_args]
    if not any(contexts):
        return
    for rows in values._data:
        for row in rows:
            for context, value in zip(contexts, row, strict=False):
                if context is not None and not _is_encrypted(value, context):
                    _refuse(context, "an SQL expression in VALUES")


def _tables(table: Any) -> Iterator[FromClause]:
    """Yield the tables of a target, which may be a join."""
    for item in visitors.iterate(table):
        if isinstance(item, FromClause) and not isinstance(item, Join):
            yield item


def _assignments(statement: Any, state: Any) -> Iterator[tuple[Any, Any]]:
    if getattr(statement, "select", None) is None:
        yield from (state._dict_parameters or {}).items()
        yield from getattr(state, "_ordered_values", None) or ()
        for row in getattr(state, "_multi_parameters", None) or ():
            yield from row.items()


def _conflict_assignments(statement: Any) -> Iterator[tuple[Any, Any]]:
    conflict = getattr(statement, "_post_values_clause", None)
    update = getattr(conflict, "update_values_to_set", None) or getattr(conflict, "update", None) or ()
    yield from update.items() if isinstance(update, dict) else update


def _targets(key: Any, tables: Iterable[FromClause]) -> list[Any]:
    """Return the columns that a key may name; SQLAlchemy goes by the name of a column alone."""
    key = unwrap(key)
    if not isinstance(key, str | ColumnClause):
        context = next(context for table in tables for column in table.c if (context := context_of(column)))
        _refuse(context, "an SQL expression in place of a column")
    names = {key} if isinstance(key, str) else {key.key, key.name}
    found = [column for table in tables for column in table.c if not names.isdisjoint({column.key, column.name})]
    return found if isinstance(key, str) else [*found, key]


def _column_of_table(key: Any, table: Any) -> Any:
    """Return the column that a key of an upsert names; SQLAlchemy stores the value of an unknown one as it is."""
    key = unwrap(key)
    column = table.c.get(key) if isinstance(key, str) else next((item for item in table.c if item is key), None)
    if column is None and isinstance(key, ColumnClause):
        column = next((item for item in table.c if hash(item) == hash(key)), None)
    if column is None:
        context = next(context for item in table.c if (context := context_of(item)))
        _refuse(context, "in the set_ of an upsert, anything but a column of the table by its key")
    return column


def _require_same_contexts(statement: Any) -> None:
    """Refuse INSERT ... SELECT between columns of different contexts."""
    names = list(statement._select_names or statement.table.c.keys())
    targets = [context_of(statement.table.c.get(name)) for name in names]
    for row in outputs(statement.select) or [[]]:
        sources = row if len(row) == len(targets) else [TextClause("")] * len(targets)
        for target, source in zip(targets, sources, strict=True):
            if target is not None and not _is_encrypted(source, target, is_typed=True):
                _refuse(target, "a column that does not hold its encrypted values, in INSERT ... SELECT")
            source_context = context_of(source)
            if target is None and source_context is not None:
                _refuse(source_context, "copying ciphertext to another column, in INSERT ... SELECT")


def _is_encrypted(value: Any, context: str, *, is_typed: bool = False) -> bool:
    """Return whether a value is NULL, will be encrypted when it is bound, or comes from such a column.

    `is_typed` says that nothing gives a parameter the type of the column.
    """
    if not isinstance(value, ClauseElement) and not hasattr(value, "__clause_element__"):
        return True  # a plain value: it is bound with the column's type
    element = unwrap(value)
    if is_null(element):
        return True
    if isinstance(element, BindParameter):
        return context_of(element) == context or (bool(element.type._isnull) and not is_typed)
    if isinstance(element, ScalarSelect):
        rows = outputs(element)
        return bool(rows) and all(len(row) == 1 and _is_encrypted(row[0], context, is_typed=True) for row in rows)
    return _is_stored(element, context)


def _is_stored(element: Any, context: str) -> bool:
    """Return whether a column, through all subqueries, is one of a table."""
    if not isinstance(element, ColumnClause) or element.is_literal or context_of(element) != context:
        return False
    if element._proxies:
        return all(_is_encrypted(proxy, context, is_typed=True) for proxy in element._proxies)
    return isinstance(element.table, TableClause | Values)


def _refuse(context: str, what: str) -> NoReturn:
    raise UnsupportedOperationError(
        f"{context}: {what} is not supported, because the text would be stored in clear; compute the value in Python,"
        " or assign NULL or a column of the same context; to store a token in clear on purpose, in a column that is"
        " not encrypted, pass str(token)"
    )
