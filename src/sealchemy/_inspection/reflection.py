"""Findings that SQLAlchemy's reflection shows on any database: indexes, constraints, generated columns, defaults."""

from collections.abc import Callable, Iterator
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.engine import Inspector

from sealchemy._databases.sql_names import names_in
from sealchemy._databases.table import Target, inspecting

from . import findings
from .findings import Finding

Repair = Callable[[str, str], str]
"""Returns the statement that drops an object, from its kind (`index`, `foreign-key`) and its name."""


def inspect(connection: Connection, target: Target, repair: Repair) -> Iterator[Finding]:
    """Yield the findings of a table."""
    name, schema = target.table.name, target.table.schema
    columns = [item.name for item in target.columns]
    with inspecting(connection) as inspector:
        yield from _keys(inspector, name, schema, columns)
        yield from _foreign_keys(inspector, name, schema, columns, repair)
        for item in inspector.get_check_constraints(name, schema=schema):
            if not findings.is_about_encryption(item["sqltext"]):
                used = [column for column in columns if column in names_in(item["sqltext"])]
                yield from (findings.check(item["name"] or column, column) for column in used)
        for column in inspector.get_columns(name, schema=schema):
            yield from _column(column, columns)


def _keys(inspector: Inspector, name: str, schema: str | None, columns: list[str]) -> Iterator[Finding]:
    key = inspector.get_pk_constraint(name, schema=schema)
    for column in columns:
        if column in key["constrained_columns"]:
            label = key["name"] or column
            yield findings.unique(label, column, "give the table another primary key", "primary-key")


def _foreign_keys(
    inspector: Inspector, name: str, schema: str | None, columns: list[str], repair: Repair
) -> Iterator[Finding]:
    for table in inspector.get_table_names(schema=schema):
        for item in inspector.get_foreign_keys(table, schema=schema):
            refers_here = item["referred_table"] == name and item["referred_schema"] in {None, schema}
            used = {*(item["constrained_columns"] if table == name else ())}
            used |= {*(item["referred_columns"] if refers_here else ())}
            if not used.isdisjoint(columns):
                label = item["name"] or f"{table}.{item['constrained_columns'][0]}"
                yield findings.foreign_key(label, table, repair("foreign-key", label))


def _column(column: Any, columns: list[str]) -> Iterator[Finding]:
    for item in columns:
        if column.get("computed") and item in names_in(column["computed"]["sqltext"]):
            yield findings.generated(column["name"], item)
    declared = column.get("default")
    if column["name"] in columns and declared is not None and str(declared).upper() != "NULL":
        yield findings.default(column["name"], "ALTER TABLE ... ALTER COLUMN ... DROP DEFAULT")
