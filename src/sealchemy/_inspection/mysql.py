"""What the catalog of MariaDB and MySQL knows of a table that matters before its columns are rewritten."""

from collections.abc import Iterator

from sqlalchemy import Connection

from sealchemy._databases.access import database_of
from sealchemy._databases.mysql import is_versioned, read_catalog
from sealchemy._databases.sql_names import names_in
from sealchemy._databases.table import Target, inspecting

from . import findings, reflection
from .findings import Finding, Severity

_TWO_BYTES = {"ucs2", "utf16", "utf16le", "utf32"}


def inspect(connection: Connection, target: Target) -> Iterator[Finding]:
    """Yield the findings of a table."""
    name = connection.dialect.identifier_preparer.format_table(target.table)
    yield from _storage(connection, target)
    yield from _indexes(connection, target, name)
    yield from reflection.inspect(
        connection, target, lambda kind, item: f"ALTER TABLE {name} DROP {kind.replace('-', ' ').upper()} {item}"
    )
    yield from _column_checks(connection, target, name)
    for (trigger,) in read_catalog(
        connection,
        target,
        "SELECT trigger_name FROM information_schema.triggers WHERE event_manipulation = 'UPDATE'"
        " AND event_object_table = :table AND event_object_schema = coalesce(:schema, database()) ORDER BY 1",
    ):
        yield findings.trigger(trigger)
    yield from _views(connection, target)


def _storage(connection: Connection, target: Target) -> Iterator[Finding]:
    if engine := database_of(connection.dialect).storage_without_transactions(connection, target):
        yield Finding(
            "engine",
            Severity.BLOCKS,
            engine,
            f"this storage engine has no transactions, so updates of a running application would be lost;"
            f" ALTER TABLE {target.name} ENGINE=InnoDB",
        )
    if is_versioned(connection, target):
        yield Finding(
            "versioning",
            Severity.ACCEPT,
            target.table.name,
            "the table is system-versioned: its history keeps every old value in plaintext, and the run adds one for"
            f" each row. Drop the versioning, or accept versioning:{target.table.name} and delete the history",
        )
    names = {item.name for item in target.columns}
    for column, charset in read_catalog(
        connection,
        target,
        "SELECT column_name, character_set_name FROM information_schema.columns"
        " WHERE table_name = :table AND table_schema = coalesce(:schema, database())",
    ):
        if column in names and charset in _TWO_BYTES:
            yield Finding(
                "charset",
                Severity.BLOCKS,
                column,
                f"its character set is {charset}, in which a prefix cannot be tested byte by byte; use utf8mb4",
            )


def _indexes(connection: Connection, target: Target, name: str) -> Iterator[Finding]:
    columns: list[str] = [item.name for item in target.columns]
    with inspecting(connection) as inspector:
        found = inspector.get_indexes(target.table.name, schema=target.table.schema)
    for item in found:
        label = str(item["name"])
        expressions = " ".join(str(part) for part in item.get("expressions", ()))
        for column in columns:
            if column in set(item["column_names"]) or column in names_in(expressions):
                make = findings.unique if item["unique"] else findings.index
                yield make(label, column, f"ALTER TABLE {name} DROP INDEX {label}")


def _column_checks(connection: Connection, target: Target, name: str) -> Iterator[Finding]:
    """Yield the CHECKs in the definitions of columns, which reflection leaves out; a JSON column has one."""
    definition: str = connection.exec_driver_sql(f"SHOW CREATE TABLE {name}").one()[1]
    for item in target.columns:
        start = f"  {connection.dialect.identifier_preparer.quote_identifier(item.name)} "
        if any(line.startswith(start) and " CHECK (" in line for line in definition.splitlines()):
            yield findings.check(item.name, item.name)


def _views(connection: Connection, target: Target) -> Iterator[Finding]:
    for schema, view, definition in read_catalog(
        connection,
        target,
        "SELECT table_schema, table_name, view_definition FROM information_schema.views ORDER BY 1, 2",
    ):
        used = names_in(definition or "")
        if target.table.name in used:
            for item in target.columns:
                if item.name in used:
                    yield findings.view(f"{schema}.{view}", item.name)
