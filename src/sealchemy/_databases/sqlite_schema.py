"""Add and drop a CHECK on a SQLite table without copying the table.

SQLite has no ALTER TABLE for it; a copy would lose triggers, expression indexes and collations, and its DROP TABLE
would cascade to child rows. So the text of the table is edited, as "Making Other Kinds Of Table Schema Changes" in
https://sqlite.org/lang_altertable.html describes.
"""

import re
from collections.abc import Callable, Iterator

from sqlalchemy import Connection, TextClause, text

from sealchemy.errors import ColumnDefinitionError

_TOKEN = re.compile(
    r"""'(?:[^']|'')*' | "(?:[^"]|"")*" | `(?:[^`]|``)*` | \[[^\]]*\] | --[^\n]* | /\*.*?\*/ | [()]""",
    re.DOTALL | re.VERBOSE,
)

_WHERE = "type = 'table' AND lower(name) = lower(:name)"


def add_check(connection: Connection, schema: str | None, table: str, name: str, condition: str) -> None:
    """Add `CONSTRAINT name CHECK (condition)`. The caller holds the write lock, and rolls back on an error."""

    def edit(sql: str) -> str:
        start = next(token.start() for token in _TOKEN.finditer(sql) if token[0] == "(")
        end = _closing_parenthesis(sql, start)
        return f"{sql[:end]}, \n\tCONSTRAINT {_quote(name)} CHECK ({condition})\n{sql[end:]}"

    _edit_table(connection, schema, table, edit)


def drop_check(connection: Connection, schema: str | None, table: str, name: str) -> None:
    """Drop a CHECK by name. The caller holds the write lock, and rolls back on an error."""

    def edit(sql: str) -> str:
        start, end = next((start, end) for found, start, _, end in _find_checks(sql) if found == name)
        return sql[:start] + sql[end:].removeprefix("\n")

    _edit_table(connection, schema, table, edit)


def named_checks(connection: Connection, schema: str | None, table: str) -> dict[str, str]:
    """Return the condition of each CHECK with a name, ignoring comments, strings and quoted names."""
    sql = connection.scalar(_select(connection, schema), {"name": table}) or ""
    return {name: sql[condition:end] for name, _, condition, end in _find_checks(sql)}


def _find_checks(sql: str) -> Iterator[tuple[str, int, int, int]]:
    """Yield the name of each `, CONSTRAINT name CHECK (...)`, and where it, its condition and its end are."""
    shielded = _TOKEN.sub(lambda token: token[0] if token[0] in "()" else "~" * len(token[0]), sql)
    for found in re.finditer(r",\s*CONSTRAINT\s+(~+|\w+)\s+CHECK\s*\(", shielded, re.IGNORECASE):
        name = _unquote(sql[slice(*found.span(1))])
        yield name, found.start(), found.end(), _closing_parenthesis(sql, found.end() - 1) + 1


def _unquote(name: str) -> str:
    if name[0] not in '"`[':
        return name
    return name[1:-1].replace(name[-1] * 2, name[-1])


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _closing_parenthesis(sql: str, opening: int) -> int:
    depth = 0
    for token in _TOKEN.finditer(sql, opening):
        depth += {"(": 1, ")": -1}.get(token[0], 0)
        if depth == 0:
            return token.start()
    raise ColumnDefinitionError("the definition of this table has no closing parenthesis")


def _database(connection: Connection, schema: str | None) -> str:
    return connection.dialect.identifier_preparer.quote_identifier(schema or "main")


def _select(connection: Connection, schema: str | None) -> TextClause:
    return text(f"SELECT sql FROM {_database(connection, schema)}.sqlite_master WHERE {_WHERE}")  # noqa: S608


def _edit_table(connection: Connection, schema: str | None, table: str, edit: Callable[[str], str]) -> None:
    database = _database(connection, schema)
    sql = connection.scalar(_select(connection, schema), {"name": table})
    version = connection.scalar(text(f"PRAGMA {database}.schema_version"))
    connection.execute(text("PRAGMA writable_schema = ON"))
    try:
        change = text(f"UPDATE {database}.sqlite_master SET sql = :sql WHERE {_WHERE}")  # noqa: S608 - a quoted name
        connection.execute(change, {"sql": edit(sql), "name": table})
        connection.execute(text(f"PRAGMA {database}.schema_version = {version + 1}"))
    finally:
        connection.execute(text("PRAGMA writable_schema = OFF"))
    problems = connection.exec_driver_sql(f"PRAGMA {database}.integrity_check({_quote(table)})").scalars().all()
    if problems != ["ok"]:
        raise ColumnDefinitionError(
            f"table {table!r}: SQLite finds it damaged, or rows that violate the constraint; nothing was changed"
        )
