"""Adding and dropping a CHECK on a SQLite table without copying the table.

SQLite has no ALTER TABLE for it, and a copy loses triggers, expression indexes and collations, and its DROP
TABLE cascades to child rows. So the text of the table is edited, as "Making Other Kinds Of Table Schema
Changes" in https://sqlite.org/lang_altertable.html describes.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from sqlalchemy import text

from .errors import ColumnDefinitionError

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection

_TOKEN = re.compile(
    r"""'(?:[^']|'')*' | "(?:[^"]|"")*" | `(?:[^`]|``)*` | \[[^\]]*\] | --[^\n]* | /\*.*?\*/ | [()]""",
    re.DOTALL | re.VERBOSE,
)


def add_check(connection: Connection, schema: str | None, table: str, name: str, condition: str) -> None:
    """Add `CONSTRAINT name CHECK (condition)`. The caller holds the write lock, and rolls back on an error."""

    def edit(sql: str) -> str:
        end = _closing_parenthesis(sql, sql.index("("))
        return f'{sql[:end]}, \n\tCONSTRAINT "{name}" CHECK ({condition})\n{sql[end:]}'

    _edit_table(connection, schema, table, edit)


def drop_check(connection: Connection, schema: str | None, table: str, name: str) -> None:
    """Drop a CHECK by name. The caller holds the write lock, and rolls back on an error."""

    def edit(sql: str) -> str:
        found = re.search(rf',\s*CONSTRAINT\s+["`\[]?{re.escape(name)}["`\]]?\s+CHECK\s*\(', sql, re.IGNORECASE)
        if found is None:
            message = f"table {table!r}: no constraint {name} in the definition of the table"
            raise ColumnDefinitionError(message)
        end = _closing_parenthesis(sql, found.end() - 1)
        return sql[: found.start()] + sql[end + 1 :].removeprefix("\n")

    _edit_table(connection, schema, table, edit)


def _closing_parenthesis(sql: str, opening: int) -> int:
    depth = 0
    for token in _TOKEN.finditer(sql, opening):
        depth += {"(": 1, ")": -1}.get(token[0], 0)
        if depth == 0:
            return token.start()
    message = "the definition of this table has no closing parenthesis"
    raise ColumnDefinitionError(message)


def _edit_table(connection: Connection, schema: str | None, table: str, edit: Callable[[str], str]) -> None:
    quote = connection.dialect.identifier_preparer.quote_identifier
    database = quote(schema or "main")
    where = "type = 'table' AND lower(name) = lower(:name)"
    query = text(f"SELECT sql FROM {database}.sqlite_master WHERE {where}")  # noqa: S608 - a quoted name
    sql = connection.scalar(query, {"name": table})
    version = connection.scalar(text(f"PRAGMA {database}.schema_version"))
    connection.execute(text("PRAGMA writable_schema = ON"))
    try:
        change = text(f"UPDATE {database}.sqlite_master SET sql = :sql WHERE {where}")  # noqa: S608
        connection.execute(change, {"sql": edit(sql), "name": table})
        connection.execute(text(f"PRAGMA {database}.schema_version = {version + 1}"))
    finally:
        # OFF would leave this connection with the table as it was.
        connection.execute(text("PRAGMA writable_schema = RESET"))
    problems = connection.scalars(text(f"PRAGMA {database}.integrity_check({quote(table)})")).all()
    if problems != ["ok"]:
        message = f"table {table!r}: SQLite finds it damaged, or rows that the constraint forbids; nothing was changed"
        raise ColumnDefinitionError(message)
