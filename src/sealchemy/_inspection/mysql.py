"""What the catalog of MariaDB and MySQL knows of a table that matters before its columns are rewritten."""

from collections.abc import Iterator

from sqlalchemy import Connection

from sealchemy._databases.access import database_of
from sealchemy._databases.mysql_catalog import column_check, is_versioned, read_catalog
from sealchemy._databases.mysql_conversion import is_json
from sealchemy._databases.sql_names import only_tests_for_null, quoted_names_in
from sealchemy._databases.table import Target, inspecting
from sealchemy._values.codecs import JSON

from . import findings, reflection
from .findings import Finding, Severity

_TWO_BYTES = {"ucs2", "utf16", "utf16le", "utf32"}


def inspect(connection: Connection, target: Target) -> Iterator[Finding]:
    """Yield the findings of a table."""
    name = connection.dialect.identifier_preparer.format_table(target.table).replace("%%", "%")
    yield from _storage(connection, target)
    yield from _indexes(connection, target, name)
    yield from reflection.keys_and_defaults(connection, target)
    yield from reflection.checks_and_generated(connection, target)
    yield from _foreign_keys(connection, target)
    yield from _column_checks(connection, target)
    for (trigger,) in read_catalog(
        connection,
        target,
        "SELECT trigger_name FROM information_schema.triggers WHERE event_manipulation = 'UPDATE'"
        " AND event_object_table = :table AND event_object_schema = coalesce(:schema, database()) ORDER BY 1",
    ):
        yield findings.trigger(trigger)
    yield from _views(connection, target)


def _foreign_keys(connection: Connection, target: Target) -> Iterator[Finding]:
    """Yield the foreign keys from and to the columns; those to them may be in another database."""
    columns = {item.name for item in target.columns}
    query = (
        "SELECT constraint_name, table_schema, table_name, column_name, NULL FROM information_schema.key_column_usage"
        " WHERE table_name = :table AND table_schema = coalesce(:schema, database())"
        " AND referenced_table_name IS NOT NULL UNION"
        " SELECT constraint_name, table_schema, table_name, NULL, referenced_column_name"
        " FROM information_schema.key_column_usage"
        " WHERE referenced_table_name = :table AND referenced_table_schema = coalesce(:schema, database())"
    )
    quote = connection.dialect.identifier_preparer.quote_identifier
    for label, schema, table, *used in read_catalog(connection, target, query):
        if not columns.isdisjoint(used):
            repair = f"ALTER TABLE {quote(schema)}.{quote(table)} DROP FOREIGN KEY {quote(label)}"
            yield findings.foreign_key(label, table, repair)


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
    if reason := database_of(connection.dialect).cuts_silently(connection):
        yield Finding(
            "sql-mode",
            Severity.BLOCKS,
            target.table.name,
            f"{reason}, so the server cuts a value that is too long instead of refusing it; the application's sessions"
            " need STRICT_TRANS_TABLES",
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
    quote = connection.dialect.identifier_preparer.quote_identifier
    with inspecting(connection) as inspector:
        found = inspector.get_indexes(target.table.name, schema=target.table.schema)
    for item in found:
        label = str(item["name"])
        expressions = " ".join(str(part) for part in item.get("expressions", ()))
        for column in columns:
            if column in set(item["column_names"]) or column in quoted_names_in(expressions):
                make = findings.unique if item["unique"] else findings.index
                yield make(label, column, f"ALTER TABLE {name} DROP INDEX {quote(label)}")


def _column_checks(connection: Connection, target: Target) -> Iterator[Finding]:
    """Yield the CHECKs in the definitions of columns, which reflection leaves out; a JSON column has one."""
    names = {item.name for item in target.columns}
    for column in target.table.c:
        condition = column_check(connection, target, column.name) or ""
        for name in sorted(names & quoted_names_in(condition)):
            if column.name == name and is_json(connection, target, name):
                if target.kinds[[item.name for item in target.columns].index(name)] is not JSON:
                    advice = "a JSON column is not text: declare it as EncryptedJSON, or turn it into text first"
                    yield Finding("json", Severity.BLOCKS, name, advice)
            elif not only_tests_for_null(condition, name):
                yield findings.check(column.name, name)


def _views(connection: Connection, target: Target) -> Iterator[Finding]:
    here = connection.engine.url.database
    for schema, view, definition in read_catalog(
        connection,
        target,
        "SELECT table_schema, table_name, view_definition FROM information_schema.views ORDER BY 1, 2",
    ):
        used = quoted_names_in(definition or "")
        if {target.table.name, target.table.schema or here} <= used:
            for item in target.columns:
                if item.name in used:
                    yield findings.view(f"{schema}.{view}", item.name)
