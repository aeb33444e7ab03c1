"""What the schema of a SQLite database knows of a table that matters before its columns are rewritten.

SQLite keeps the statements that made it. They are split into tokens; what cannot be read counts as an obstacle.
"""

from collections.abc import Iterator

from sqlalchemy import Connection, text

from sealchemy._databases.encryption_check import find_check
from sealchemy._databases.sql_names import Token, names_in, only_tests_for_null, tokens_of
from sealchemy._databases.sqlite import SQLite
from sealchemy._databases.table import Target
from sealchemy._values.codecs import BYTES

from . import findings, reflection
from .findings import Finding, Severity

_QUOTES = {"string": "'{}'", "quoted": '"{}"'}
_REBUILD = "rebuild the table without it (https://sqlite.org/lang_altertable.html)"


def inspect(connection: Connection, target: Target) -> Iterator[Finding]:
    """Yield the findings of a table."""
    name = target.table.name.lower()
    yield from _indexes(connection, target)
    yield from _strict(connection, target)
    yield from reflection.keys_and_defaults(connection, target)
    yield from reflection.foreign_keys(connection, target, lambda _name: _REBUILD)
    for kind, item, table, sql in _schema(connection, target):
        if kind == "trigger" and table.lower() == name and _fires(tokens_of(sql), target):
            yield findings.trigger(item)
        elif kind == "view":
            yield from _view(item, sql, target)
        elif kind == "table" and item.lower() == name:
            yield from _table(connection, target, tokens_of(sql))
        elif kind == "table" and _is_full_text_of(name, tokens_of(sql)):
            yield findings.copies("full-text", item)


def _strict(connection: Connection, target: Target) -> Iterator[Finding]:
    """Yield the columns of bytes of a STRICT table, which cannot hold text."""
    query = text("SELECT strict FROM pragma_table_list WHERE name = :name AND schema = :schema")
    parameters = {"name": target.table.name, "schema": target.table.schema or "main"}
    is_known = connection.scalar(text("SELECT 1 FROM pragma_pragma_list WHERE name = 'table_list'"))  # SQLite 3.37
    if not is_known or not connection.scalar(query, parameters):
        return
    for column, type_ in zip(target.columns, target.types, strict=True):
        if type_ is BYTES:
            message = f"the table is STRICT, so {column.name} cannot hold text; rebuild the table with a column of TEXT"
            yield Finding("strict", Severity.BLOCKS, column.name, message)


def _schema(connection: Connection, target: Target) -> list[tuple[str, str, str, str]]:
    schema = connection.dialect.identifier_preparer.quote_identifier(target.table.schema or "main")
    query = f"SELECT type, name, tbl_name, coalesce(sql, '') FROM {schema}.sqlite_master ORDER BY type, name"  # noqa: S608
    return [tuple(row) for row in connection.execute(text(query.replace(":", r"\:")))]


def _fires(tokens: list[Token], target: Target) -> bool:
    """Return whether a trigger fires for an UPDATE of these columns."""
    names = {item.name.lower() for item in target.columns}
    # CREATE [TEMP] TRIGGER [IF NOT EXISTS] [schema .] name [BEFORE | AFTER | INSTEAD OF] event ON table
    start = next((at for at, token in enumerate(tokens) if token.is_word("TRIGGER")), None)
    if start is None:
        return True
    at = start + (4 if tokens[start + 1].is_word("IF") and tokens[start + 2].is_word("NOT") else 1)
    at += 3 if tokens[at + 1].text == "." else 1
    at += 1 if tokens[at].is_word("BEFORE", "AFTER") else 2 if tokens[at].is_word("INSTEAD") else 0
    if tokens[at].is_word("INSERT", "DELETE"):
        return False
    if not tokens[at].is_word("UPDATE") or not tokens[at + 1].is_word("OF"):
        return True
    end = next((end for end in range(at, len(tokens)) if tokens[end].is_word("ON")), len(tokens))
    return not names.isdisjoint(token.text.lower() for token in tokens[at + 2 : end])


def _is_full_text_of(name: str, tokens: list[Token]) -> bool:
    starts = [token.text.lower() for token in tokens if token.kind == "word" and token.text.lower().startswith("fts")]
    return (
        any(token.is_word("VIRTUAL") for token in tokens)
        and bool(starts)
        and name in {token.text.lower() for token in tokens}
    )


def _view(name: str, sql: str, target: Target) -> Iterator[Finding]:
    used = {item.lower() for item in names_in(sql)}
    if target.table.name.lower() in used:
        for item in target.columns:
            if item.name.lower() in used or "*" in sql:
                yield findings.view(name, item.name)


def _table(connection: Connection, target: Target, tokens: list[Token]) -> Iterator[Finding]:
    """Yield the CHECKs and generated columns of the table itself."""
    schema, table = target.table.schema or "main", target.table.name
    quote = connection.dialect.identifier_preparer.quote_identifier
    rows = connection.exec_driver_sql(f"PRAGMA {quote(schema)}.table_xinfo({quote(table)})").all()
    generated = {str(row[1]).lower() for row in rows if row[6] in {2, 3}}
    for part in _parts(tokens):
        used = {token.text.lower() for token in part[1:] if token.kind in {"quoted", "word"}}
        for item in target.columns:
            if part[0].text.lower() in generated and item.name.lower() in used:
                yield findings.generated(part[0].text, item.name)
            yield from _checks(part, item.name)


def _parts(tokens: list[Token]) -> Iterator[list[Token]]:
    """Yield the definitions of the columns and constraints of a CREATE TABLE."""
    depth, part = 0, list[Token]()
    for token in tokens:
        depth += {"(": 1, ")": -1}.get(token.text, 0) if token.kind == "sign" else 0
        if depth == 1 and token == ("sign", ","):
            yield part
            part = []
        elif depth >= 1 and (depth > 1 or token != ("sign", "(")):
            part.append(token)
    if part:
        yield part


def _checks(part: list[Token], column: str) -> Iterator[Finding]:
    """Yield the CHECKs in a definition that test the values of a column."""
    for at, token in enumerate(part):
        if token.is_word("CHECK"):
            condition = _in_parentheses(part[at + 1 :])
            name = part[at - 1].text if any(item.is_word("CONSTRAINT") for item in part[: at - 1][-1:]) else column
            sql = " ".join(_QUOTES.get(item.kind, "{}").format(item.text) for item in condition)
            is_used = column.lower() in {item.text.lower() for item in condition if item.kind in {"quoted", "word"}}
            is_ours = find_check(SQLite.encryption_checks, name, sql, column)
            if is_used and not is_ours and not only_tests_for_null(sql.lower(), column.lower()):
                yield findings.check(name, column)


def _in_parentheses(tokens: list[Token]) -> list[Token]:
    depth = 0
    for at, token in enumerate(tokens):
        depth += {"(": 1, ")": -1}.get(token.text, 0) if token.kind == "sign" else 0
        if depth == 0:
            return tokens[: at + 1]
    return tokens


def _indexes(connection: Connection, target: Target) -> Iterator[Finding]:
    """Read the indexes from their own statements: reflection leaves those with expressions out."""
    sql_of = {name: sql for kind, name, _table, sql in _schema(connection, target) if kind == "index"}
    quote = connection.dialect.identifier_preparer.quote_identifier
    schema, table = quote(target.table.schema or "main"), quote(target.table.name)
    for _number, name, is_unique, origin, *_ in connection.exec_driver_sql(
        f"PRAGMA {schema}.index_list({table})"
    ).all():
        if origin == "pk":
            continue
        fields = {str(row[2]) for row in connection.exec_driver_sql(f"PRAGMA {schema}.index_info({quote(name)})")}
        tokens = tokens_of(sql_of.get(name, ""))
        where = next((at for at, token in enumerate(tokens) if token.is_word("WHERE")), len(tokens))
        body = {token.text.lower() for token in _in_parentheses(_from_parenthesis(tokens[:where]))}
        condition = " ".join(token.text for token in tokens[where + 1 :] if token.kind != "string").lower()
        repair = f"DROP INDEX {quote(name)}" if tokens else f"it belongs to the table: {_REBUILD}"
        for item in target.columns:
            in_body = item.name in fields or item.name.lower() in body
            if in_body or not only_tests_for_null(condition, item.name.lower()):
                yield (findings.unique if is_unique else findings.index)(name, item.name, repair)


def _from_parenthesis(tokens: list[Token]) -> list[Token]:
    return tokens[next((at for at, token in enumerate(tokens) if token == ("sign", "(")), len(tokens)) :]
