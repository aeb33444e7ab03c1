"""Findings that SQLAlchemy's reflection shows on any database."""

from collections.abc import Callable, Iterator
from typing import Any

from sqlalchemy import Connection

from sealchemy._databases.access import database_of
from sealchemy._databases.encryption_check import find_check
from sealchemy._databases.sql_names import names_in, only_tests_for_null
from sealchemy._databases.table import Target, inspecting

from . import findings
from .findings import Finding


def keys_and_defaults(connection: Connection, target: Target) -> Iterator[Finding]:
    """Yield the findings for a primary key with one of the columns, and for their defaults."""
    columns = [item.name for item in target.columns]
    with inspecting(connection) as inspector:
        key = inspector.get_pk_constraint(target.table.name, schema=target.table.schema)
        found = inspector.get_columns(target.table.name, schema=target.table.schema)
    for column in columns:
        if column in key["constrained_columns"]:
            yield findings.unique(key["name"] or column, column, "give the table another primary key", "primary-key")
    for item in found:
        declared = item.get("default")
        if item["name"] in columns and declared is not None and str(declared).upper() != "NULL":
            yield findings.default(item["name"])


def foreign_keys(connection: Connection, target: Target, repair: Callable[[str], str]) -> Iterator[Finding]:
    """Yield the foreign keys from and to the columns, in the schema of the table."""
    name, schema = target.table.name, target.table.schema
    columns = {item.name for item in target.columns}
    with inspecting(connection) as inspector:
        for table in inspector.get_table_names(schema=schema):
            for item in inspector.get_foreign_keys(table, schema=schema):
                if not columns.isdisjoint(_used(item, table, name, schema)):
                    label = item["name"] or f"{table}.{item['constrained_columns'][0]}"
                    yield findings.foreign_key(label, table, repair(label))


def _used(key: Any, table: str, name: str, schema: str | None) -> list[str]:
    refers_here = str(key["referred_table"]).lower() == name.lower() and key["referred_schema"] in {None, schema}
    own = key["constrained_columns"] if table == name else []
    return [*own, *(key["referred_columns"] if refers_here else [])]


def checks_and_generated(connection: Connection, target: Target) -> Iterator[Finding]:
    """Yield the CHECKs that test the values of the columns, and the columns that are generated from them."""
    columns = [item.name for item in target.columns]
    encryption_checks = database_of(connection.dialect).encryption_checks
    with inspecting(connection) as inspector:
        checks = inspector.get_check_constraints(target.table.name, schema=target.table.schema)
        found = inspector.get_columns(target.table.name, schema=target.table.schema)
    for item in checks:
        for column in columns:
            name, sql = str(item["name"] or column), item["sqltext"]
            if column not in names_in(sql) or only_tests_for_null(sql, column):
                continue
            if find_check(encryption_checks, name, sql, column) is None:
                yield findings.check(name, column)
    for field in found:
        computed = field.get("computed")
        used = names_in(computed["sqltext"]) if computed else set()
        yield from (findings.generated(field["name"], column) for column in columns if column in used)
