"""Columns of JSON and of bytes on MariaDB and MySQL, and the clauses of ALTER TABLE that turn them into text."""

import re
from typing import Any

from sqlalchemy import Connection, func, literal, select, text

from sealchemy.errors import ColumnDefinitionError

from .mysql_catalog import column_definition, read_catalog
from .table import Target

_BINARY = {"binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob"}

_SUFFIX = "_sealchemy_old"
"""What the name of a column of bytes ends with, while a column of text takes its place."""

_TYPE = re.compile(r"^ *(`(?:[^`]|``)*`) \w+(\(\d+\))?")
"""A column's name and type, at the start of its line in SHOW CREATE TABLE."""


def to_mediumtext(definition: str) -> str:
    """Return the line of a column in SHOW CREATE TABLE, with another type."""
    return _TYPE.sub(r"\1 MEDIUMTEXT", definition)


def _columns(connection: Connection, target: Target) -> dict[str, dict[str, Any]]:
    """Return what the catalog says of each column of the table."""
    query = (
        "SELECT column_name, column_type, data_type, is_nullable, column_comment, extra"
        " FROM information_schema.columns"
        " WHERE table_name = :table AND table_schema = coalesce(:schema, database())"
    )
    names = ("column_name", "column_type", "data_type", "is_nullable", "column_comment", "extra")
    return {row[0]: dict(zip(names, row, strict=True)) for row in read_catalog(connection, target, query)}


def _json_check(connection: Connection, name: str) -> str:
    """Return the CHECK that MariaDB gives a column of JSON."""
    return f" CHECK (json_valid({connection.dialect.identifier_preparer.quote_identifier(name)}))".replace("%%", "%")


def is_json(connection: Connection, target: Target, name: str) -> bool:
    """Return whether a column is of JSON: a type of its own on MySQL, and LONGTEXT with a CHECK on MariaDB."""
    definition = column_definition(connection, target, name)
    return definition.endswith(_json_check(connection, name)) or bool(re.match(r"^ *`(?:[^`]|``)*` json\b", definition))


def columns_to_convert(connection: Connection, target: Target) -> dict[str, str]:
    """Return the columns of JSON and of bytes, and their types."""
    names = {item.name for item in target.columns}
    return {
        name: "JSON" if is_json(connection, target, name) else str(row["column_type"])
        for name, row in _columns(connection, target).items()
        if name in names and (row["data_type"].lower() in _BINARY or is_json(connection, target, name))
    }


def to_text(connection: Connection, target: Target) -> dict[str, str]:
    """Return the clauses of ALTER TABLE that turn columns of JSON and of bytes into text, by column."""
    clauses = {}
    for name in [item.name for item in target.columns]:
        if is_json(connection, target, name):
            definition = to_mediumtext(column_definition(connection, target, name))
            clauses[name] = "MODIFY " + definition.replace(_json_check(connection, name), "")
    return clauses | _bytes_to_text(connection, target)


def _bytes_to_text(connection: Connection, target: Target) -> dict[str, str]:
    """Return the clauses that replace columns of bytes by text, or that drop the replaced ones."""
    quote, columns = connection.dialect.identifier_preparer.quote_identifier, _columns(connection, target)
    clauses = {}
    for name in [item.name for item in target.columns if item.name in columns]:
        column, old = columns[name], f"{name[: 64 - len(_SUFFIX)]}{_SUFFIX}"
        is_nullable = column["is_nullable"] == "YES"
        if column["data_type"].lower() in _BINARY:
            _refuse_long_bytes(connection, target, name)
            visible = " INVISIBLE" if "INVISIBLE" in str(column["extra"]).upper() else ""
            comment = str(literal(column["column_comment"]).compile(connection, compile_kwargs={"literal_binds": True}))
            clauses[name] = (
                f"CHANGE {quote(name)} {quote(old)} {column['column_type']} NULL, ADD COLUMN {quote(name)} MEDIUMTEXT"
                f"{'' if is_nullable else ' NOT NULL'}{visible} DEFAULT (concat(0x5C78, lower(hex({quote(old)}))))"
                f" COMMENT {comment} AFTER {quote(old)}"
            )
        elif old in columns:
            default = "SET DEFAULT NULL" if is_nullable else "DROP DEFAULT"
            clauses[name] = f"DROP COLUMN {quote(old)}, ALTER COLUMN {quote(name)} {default}"
    return clauses


def _refuse_long_bytes(connection: Connection, target: Target, name: str) -> None:
    """Refuse values of which hex() would make NULL, or that do not fit."""
    longest = connection.scalar(select(func.max(func.octet_length(target.table.c[name])))) or 0
    limit = min(connection.execute(text("SELECT @@max_allowed_packet")).scalar_one(), 2**24) // 2 - 1024
    if longest > limit:
        raise ColumnDefinitionError(
            f"{target.name}.{name}: it has a value of {longest} bytes, and this server can turn {limit} into text"
        )
