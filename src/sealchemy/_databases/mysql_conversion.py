"""Columns of JSON and of bytes on MariaDB and MySQL, and the clauses of ALTER TABLE that turn them into text."""

import hashlib
import re
from typing import Any

from sqlalchemy import ColumnClause, Connection, column, func, select, text

from sealchemy.errors import ColumnDefinitionError

from .mysql_catalog import column_definition, read_catalog
from .table import Target

_BINARY = {"binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob"}

_NAME = r"(`(?:[^`]|``)*`|\"(?:[^\"]|\"\")*\")"  # quoted as sql_mode says
_TYPE = re.compile(rf"^ *{_NAME} \w+(\(\d+\))?")
"""A column's name and type, at the start of its line in SHOW CREATE TABLE."""


def with_type(definition: str, type_: str) -> str:
    """Return the line of a column in SHOW CREATE TABLE, with another type."""
    return _TYPE.sub(rf"\1 {type_}", definition)


def _columns(connection: Connection, target: Target) -> dict[str, dict[str, Any]]:
    """Return what the catalog says of each column of the table."""
    columns = "column_name, column_type, data_type, is_nullable, column_comment, extra, column_default"
    query = f"SELECT {columns} FROM information_schema.columns WHERE table_name = :table"  # noqa: S608 - a constant
    rows = read_catalog(connection, target, f"{query} AND table_schema = coalesce(:schema, database())")
    return {row[0]: dict(zip(columns.split(", "), row, strict=True)) for row in rows}


def _json_check(connection: Connection, name: str) -> str:
    """Return the CHECK that MariaDB gives a column of JSON."""
    return f" CHECK (json_valid({connection.dialect.identifier_preparer.quote_identifier(name)}))".replace("%%", "%")


def is_json(connection: Connection, target: Target, name: str) -> bool:
    """Return whether a column is of JSON: a type of its own on MySQL, and LONGTEXT with a CHECK on MariaDB."""
    definition = column_definition(connection, target, name)
    return definition.endswith(_json_check(connection, name)) or bool(re.match(rf"^ *{_NAME} json\b", definition))


def columns_to_convert(connection: Connection, target: Target) -> dict[str, str]:
    """Return the JSON and binary columns, and those with an unfinished conversion, with their types."""
    columns, found = _columns(connection, target), {}
    for name in [item.name for item in target.columns if item.name in columns]:
        if is_json(connection, target, name):
            found[name] = "JSON"
        elif columns[name]["data_type"].lower() in _BINARY:
            found[name] = str(columns[name]["column_type"])
        elif _is_replaced(columns, name):
            found[name] = f"text, but {_replaced_name(name)} still has the bytes of its old values"
    return found


def to_text(connection: Connection, target: Target) -> dict[str, str]:
    """Return the clauses of ALTER TABLE that turn columns of JSON and of bytes into text, by column.

    They become LONGTEXT, so that no value is cut. ALTER TABLE cannot convert bytes to hex digits, so a new column
    replaces the old one, which is marked by its comment and dropped by the next call.
    """
    clauses, columns = {}, _columns(connection, target)
    quote = connection.dialect.identifier_preparer.quote_identifier
    for name in columns_to_convert(connection, target):
        if is_json(connection, target, name):
            definition = with_type(column_definition(connection, target, name), "LONGTEXT")
            clauses[name] = "MODIFY " + definition.replace(_json_check(connection, name), "")
        elif columns[name]["data_type"].lower() in _BINARY:
            clauses[name] = _replace_bytes(connection, target, name, columns[name])
        else:
            _require_complete(connection, target, name)
            default = "SET DEFAULT NULL" if columns[name]["is_nullable"] == "YES" else "DROP DEFAULT"
            clauses[name] = f"DROP COLUMN {quote(_replaced_name(name))}, ALTER COLUMN {quote(name)} {default}"
    return {name: clause.replace("%%", "%") for name, clause in clauses.items()}


def _replace_bytes(connection: Connection, target: Target, name: str, column: dict[str, Any]) -> str:
    _refuse_long_bytes(connection, target, name)
    if str(column["column_default"]).upper() not in {"NONE", "NULL"}:
        raise ColumnDefinitionError(f"{target.name}.{name}: drop its default first; the new column would not have it")
    quote = connection.dialect.identifier_preparer.quote_identifier
    old, null = quote(_replaced_name(name)), "" if column["is_nullable"] == "YES" else " NOT NULL"
    visible = " INVISIBLE" if "INVISIBLE" in str(column["extra"]).upper() else ""
    return (
        f"CHANGE {quote(name)} {old} {column['column_type']} NULL COMMENT {_literal(_mark(name))},"
        f" ADD COLUMN {quote(name)} LONGTEXT CHARACTER SET utf8mb4{null}{visible}"
        f" DEFAULT (concat(convert(0x5C78 USING utf8mb4), lower(hex({old}))))"
        f" COMMENT {_literal(column['column_comment'])} AFTER {old}"
    )


def _replaced_name(name: str) -> str:
    digest = hashlib.sha256(name.encode()).hexdigest()[:12]
    return f"sealchemy_{digest}_old"


def _mark(name: str) -> str:
    """Return the comment that marks a replaced column."""
    return f"sealchemy: old bytes of {name}"


def _is_replaced(columns: dict[str, dict[str, Any]], name: str) -> bool:
    return columns.get(_replaced_name(name), {}).get("column_comment") == _mark(name)


def _literal(text_: str) -> str:
    """Return a literal for a session whose sql_mode has no NO_BACKSLASH_ESCAPES, which `MySQL.session` sees to."""
    return "'" + text_.replace("\\", "\\\\").replace("'", "''") + "'"


def _require_complete(connection: Connection, target: Target, name: str) -> None:
    """Refuse to drop bytes that were not copied: without a strict sql_mode, a value that is too long becomes NULL."""
    old: ColumnClause[bytes] = column(_replaced_name(name))
    is_missing = func.coalesce(target.table.c[name], "") == ""  # the text of no bytes has a backslash and an x
    missing = select(func.count()).select_from(target.table).where(is_missing, old.is_not(None))
    if count := connection.scalar(missing):
        raise ColumnDefinitionError(
            f"{target.name}: {count} rows have nothing in {name}, but bytes in {old.name}, its old column: they were"
            f" too long, or {name} has been emptied since. Copy or delete them, then run it again"
        )


def _refuse_long_bytes(connection: Connection, target: Target, name: str) -> None:
    """Refuse values that are too long for hex(), which would return NULL."""
    longest = connection.scalar(select(func.max(func.octet_length(target.table.c[name])))) or 0
    limit = connection.execute(text("SELECT @@max_allowed_packet")).scalar_one() // 2 - 1024
    if longest > limit:
        raise ColumnDefinitionError(
            f"{target.name}.{name}: it has a value of {longest} bytes, and this server can convert {limit} at most"
            " (max_allowed_packet)"
        )
