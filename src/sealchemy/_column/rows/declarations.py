"""Refuse a `bind_to` that would lose data, and find the columns that it names."""

import re
from typing import Any, NoReturn

from sqlalchemy import Column, ForeignKey, Table, event
from sqlalchemy.orm import Mapper

from sealchemy._column.encrypted_type import bound_columns, encrypted_type, require_encrypted
from sealchemy.errors import ColumnDefinitionError

from .parts import COLUMN_KEYS, part_keys, part_kind

_CASE_INSENSITIVE = re.compile(r"nocase|rtrim|.*_[ca]i(_.*)?", re.IGNORECASE)


@event.listens_for(Mapper, "after_mapper_constructed")
def _find_columns(mapper: Mapper[Any], _class: type) -> None:
    """Keep the keys of the columns that `bind_to` names by their attributes."""
    table = mapper.local_table
    if not isinstance(table, Table):
        return
    attributes = {mapper._columntoproperty[column].key: column for column in table.c if _is_mapped(mapper, column)}
    for column in bound_columns(table.c):
        if not _is_mapped(mapper, column):  # another class of the same table has it
            continue
        names = require_encrypted(column.type).bind_to
        found = [attributes.get(name, table.c.get(name)) for name in names]
        for name, part in zip(names, found, strict=True):
            if part is None:
                _refuse(
                    column, f"table {table.name!r} has no column for {name!r}; it takes attributes of the same table"
                )
            if not _is_mapped(mapper, part):
                _refuse(column, f"{name!r} is not mapped, so a flush would not know its value")
        keys = tuple(part.key for part in found if part is not None)
        if column.info.get(COLUMN_KEYS, keys) != keys:
            _refuse(column, f"another class binds it to {column.info[COLUMN_KEYS]}, and this one to {keys}")
        column.info = {**column.info, COLUMN_KEYS: keys}  # the mapping may be shared with other columns
        _check_column(column)


def _is_mapped(mapper: Mapper[Any], column: Column[Any]) -> bool:
    return column in mapper._columntoproperty


@event.listens_for(Table, "after_parent_attach")
def _check_table(table: Table, _metadata: object) -> None:
    for column in bound_columns(table.c):
        _check_column(column)


def _check_column(column: Column[Any]) -> None:
    if column.default is not None or column.onupdate is not None:
        _refuse(column, "a default in Python comes too late for a statement to know its row; assign the value")
    names = require_encrypted(column.type).bind_to
    for key in part_keys(column, names):
        part = column.table.c.get(key)
        if part is not None and (problem := _find_problem(part)):
            _refuse(column, f"{key}: {problem}")


def _find_problem(part: Column[Any]) -> str | None:
    if encrypted_type(part.type) is not None or part_kind(part.type) is None:
        return f"a value can be bound to Integer, String and Uuid as SQLAlchemy has them, not to {part.type!r}"
    if part.nullable and not part.primary_key:
        return "it may be NULL; declare it with nullable=False"
    collation = getattr(part.type, "collation", None)
    if collation is not None and _CASE_INSENSITIVE.fullmatch(collation):
        return f"its collation {collation} treats different texts as equal; use a binary one"
    actions = {str(action).upper() for key in part.foreign_keys for action in (key.onupdate, key.ondelete)}
    is_changed = any(item is not None for item in (part.onupdate, part.server_onupdate, part.computed))
    if is_changed or actions & {"SET DEFAULT", "SET NULL"} or any(_cascades(key) for key in part.foreign_keys):
        return "a default or the database changes it by itself, and values bound to it could not be read any more"
    return None


def _cascades(key: ForeignKey) -> bool:
    return str(key.onupdate).upper() == "CASCADE"


def _refuse(column: Column[Any], problem: str) -> NoReturn:
    raise ColumnDefinitionError(f"{column.type!r} on column {column.name!r}: {problem}")
