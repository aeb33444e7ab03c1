"""What the schema of a SQLite database knows of a table that matters before its columns are rewritten."""

import re
from collections.abc import Iterator

from sqlalchemy import Connection, text

from sealchemy._databases.sql_names import names_in, only_tests_for_null
from sealchemy._databases.table import Target

from . import findings, reflection
from .findings import Finding

_UPDATE = re.compile(r"\bUPDATE\b(?:\s+OF\s+(?P<columns>.*?))?\s+ON\s", re.IGNORECASE | re.DOTALL)


def inspect(connection: Connection, target: Target) -> Iterator[Finding]:
    """Yield the findings of a table."""
    yield from _indexes(connection, target)
    yield from reflection.inspect(
        connection,
        target,
        lambda _kind, _name: "rebuild the table without it (https://sqlite.org/lang_altertable.html)",
    )
    for kind, name, table, sql in _schema(connection, target):
        if kind == "trigger" and table.lower() == target.table.name.lower() and _fires(sql, target):
            yield findings.trigger(name)
        elif kind == "view":
            yield from _view(name, sql, target)
        elif kind == "table" and _is_full_text(sql, target):
            yield findings.copies("full-text", name)


def _is_full_text(sql: str, target: Target) -> bool:
    return re.search(r"\bUSING\s+fts\d", sql, re.IGNORECASE) is not None and target.table.name.lower() in sql.lower()


def _schema(connection: Connection, target: Target) -> list[tuple[str, str, str, str]]:
    schema = connection.dialect.identifier_preparer.quote_identifier(target.table.schema or "main")
    query = f"SELECT type, name, tbl_name, coalesce(sql, '') FROM {schema}.sqlite_master ORDER BY type, name"  # noqa: S608
    return [tuple(row) for row in connection.execute(text(query.replace(":", r"\:")))]


def _fires(sql: str, target: Target) -> bool:
    """Return whether a trigger fires for an UPDATE of these columns; one that cannot be read does."""
    names = {item.name.lower() for item in target.columns}
    event = re.split(r"\bBEGIN\b", sql, maxsplit=1, flags=re.IGNORECASE)[0]
    head = _UPDATE.search(event)
    if head is None:
        return "UPDATE" in event.upper()
    listed = head["columns"]
    return listed is None or not names.isdisjoint(name.lower() for name in names_in(listed))


def _view(name: str, sql: str, target: Target) -> Iterator[Finding]:
    used = {item.lower() for item in names_in(sql)}
    if target.table.name.lower() in used:
        for item in target.columns:
            if item.name.lower() in used or "*" in sql:
                yield findings.view(name, item.name)


def _indexes(connection: Connection, target: Target) -> Iterator[Finding]:
    """Read the indexes from their own statements: reflection leaves those with expressions out."""
    sql_of = {name: sql for kind, name, _table, sql in _schema(connection, target) if kind == "index"}
    schema = connection.dialect.identifier_preparer.quote_identifier(target.table.schema or "main")
    table = connection.dialect.identifier_preparer.quote_identifier(target.table.name)
    for _number, name, is_unique, origin, *_ in connection.exec_driver_sql(
        f"PRAGMA {schema}.index_list({table})"
    ).all():
        if origin == "pk":
            continue
        quoted = connection.dialect.identifier_preparer.quote_identifier(name)
        fields = {str(row[2]) for row in connection.exec_driver_sql(f"PRAGMA {schema}.index_info({quoted})")}
        body, *predicate = re.split(r"\bWHERE\b", sql_of.get(name, ""), maxsplit=1, flags=re.IGNORECASE)
        repair = f"DROP INDEX {name}" if sql_of.get(name) else "it belongs to the table: rebuild the table without it"
        for item in target.columns:
            in_body = item.name in fields or item.name.lower() in names_in(body.partition("(")[2].lower())
            if in_body or not only_tests_for_null("".join(predicate).lower(), item.name.lower()):
                yield (findings.unique if is_unique else findings.index)(name, item.name, repair)
