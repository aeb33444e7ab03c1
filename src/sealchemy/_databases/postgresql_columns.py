"""Columns of PostgreSQL: what their types hold, and how they become text and back."""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import BYTEA, CITEXT, JSON, JSONB
from sqlalchemy.types import TypeEngine

from sealchemy._values import codecs
from sealchemy._values.codecs import Plaintext

from .table import Target, inspecting

_KINDS: dict[type, Plaintext] = {
    **dict.fromkeys((sa.TEXT, sa.VARCHAR, sa.CHAR, CITEXT), codecs.TEXT),
    **dict.fromkeys((JSON, JSONB), codecs.JSON),
    BYTEA: codecs.BYTES,
}


def kind_of(type_: TypeEngine[Any]) -> Plaintext | None:
    """Return what a column of this type holds; not by `isinstance`, since enum, name and "char" pass for text."""
    return _KINDS.get(type(type_))


def types_of(connection: sa.Connection, target: Target) -> dict[str, Any]:
    """Return the types of the columns that are worked on, by name."""
    with inspecting(connection) as inspector:
        found = inspector.get_columns(target.table.name, schema=target.table.schema)
    names = {column.name for column in target.columns}
    return {item["name"]: item["type"] for item in found if item["name"] in names}


def to_text(connection: sa.Connection, target: Target, name: str, type_: TypeEngine[Any]) -> str:
    """Return the clause of ALTER TABLE that makes a column TEXT; its collation stays."""
    column, using = connection.dialect.identifier_preparer.quote(name), ""
    if kind_of(type_) is codecs.BYTES:  # a cast would write them as `bytea_output` says
        using = f" USING chr(92) || 'x' || encode({column}, 'hex')"
    return f"ALTER COLUMN {column} TYPE TEXT{_collate(connection, target, name)}{using}"


def _collate(connection: sa.Connection, target: Target, name: str) -> str:
    """Return the COLLATE clause of a column that has one; changing the type would reset it."""
    query = sa.text(
        "SELECT quote_ident(nspname) || '.' || quote_ident(collname) FROM pg_attribute"
        " JOIN pg_collation ON pg_collation.oid = attcollation JOIN pg_namespace n ON n.oid = collnamespace"
        " WHERE attrelid = to_regclass(:table) AND attname = :column AND collname <> 'default'"
    )
    found = connection.scalar(query, {"table": quoted_name(connection, target), "column": name})
    return f" COLLATE {found}".replace("%", "%%") if found else ""


def quoted_name(connection: sa.Connection, target: Target) -> str:
    """Return the name of a table for to_regclass; drivers want `%` doubled in SQL, but not in parameters."""
    return connection.dialect.identifier_preparer.format_table(target.table).replace("%%", "%")
