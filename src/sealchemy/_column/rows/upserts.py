"""Which row an upsert may change: the one that it would have inserted, or another one."""

from collections.abc import Collection, Iterable
from typing import Any

from sqlalchemy import Column, Index, PrimaryKeyConstraint, Table, UniqueConstraint
from sqlalchemy.sql.elements import ColumnClause

from sealchemy._column.elements import unwrap


def is_own_value(value: Any, column: Any) -> bool:
    """Return whether a value is that of the same column, in the row that was to be inserted or the one there is."""
    element = unwrap(value)
    if not isinstance(element, ColumnClause):
        return False
    is_inserted = getattr(element.table, "name", None) in {"excluded", "inserted"}
    return hash(element) == hash(column) or (
        is_inserted and any(hash(item) == hash(column) for item in element._proxies)
    )


def is_row_fixed(clause: Any, table: Any, parts: Iterable[Any], written: Collection[str]) -> bool:
    """Return whether the row that an upsert finds has, in some columns, the values that were to be inserted.

    `written` has the keys of the columns that the INSERT names.
    """
    keys = {part.key for part in parts}
    return isinstance(table, Table) and all(keys <= unique for unique in _unique_keys(clause, table, written))


def _unique_keys(clause: Any, table: Table, written: Collection[str]) -> list[set[str]]:
    """Return the keys of the columns of each unique constraint that a row may conflict with."""
    if (target := getattr(clause, "inferred_target_elements", None)) is not None:
        by_name = {column.name: column.key for column in table.c}
        found = [item if isinstance(item, str) else getattr(unwrap(item), "name", None) for item in target]
        return [{by_name.get(item, item) for item in found if item is not None}]
    constraints: list[Any] = [item for item in (*table.constraints, *table.indexes) if _is_unique(item)]
    if (name := getattr(clause, "constraint_target", None)) is not None:
        return [_exact_keys(item) for item in constraints if item.name == name] or [set()]
    # A key that the database makes, or a function for this row, is new.
    new = {column.key for column in table.primary_key if _is_made(column, table) and column.key not in written}
    return [keys for item in constraints if not (keys := _exact_keys(item)) & new]


def _is_made(column: Column[Any], table: Table) -> bool:
    return column is table.autoincrement_column or (column.default is not None and column.default.is_callable)


def _exact_keys(item: Any) -> set[str]:
    """Return the keys of the columns that are equal, as they are, in rows that conflict."""
    expressions = getattr(item, "expressions", item.columns)
    is_exact = all(isinstance(each, Column) for each in expressions)
    has_prefix = any(item.dialect_kwargs.get(f"{dialect}_length") for dialect in ("mysql", "mariadb"))
    return {column.key for column in item.columns} if is_exact and not has_prefix else set()


def _is_unique(item: Any) -> bool:
    return isinstance(item, PrimaryKeyConstraint | UniqueConstraint) or (isinstance(item, Index) and item.unique)
