"""What the catalog of MariaDB and MySQL says of a table and its columns."""

from typing import Any

from sqlalchemy import Connection, text

from .sql_names import tokens_of
from .table import Target


def read_catalog(connection: Connection, target: Target, sql: str) -> list[tuple[Any, ...]]:
    """Return the rows of a query on the catalog, which takes the parameters `table` and `schema`."""
    parameters = {"table": target.table.name, "schema": target.table.schema}
    return [tuple(row) for row in connection.execute(text(sql), parameters)]


def is_versioned(connection: Connection, target: Target) -> bool:
    """Return whether MariaDB keeps the history of the table's rows."""
    query = (
        "SELECT table_type FROM information_schema.tables"
        " WHERE table_name = :table AND table_schema = coalesce(:schema, database())"
    )
    return read_catalog(connection, target, query) == [("SYSTEM VERSIONED",)]


def column_definition(connection: Connection, target: Target, name: str) -> str:
    """Return the line of a column in SHOW CREATE TABLE."""
    table = connection.dialect.identifier_preparer.format_table(target.table)
    sql: str = connection.exec_driver_sql(f"SHOW CREATE TABLE {table}").one()[1]
    start = f"  {connection.dialect.identifier_preparer.quote_identifier(name)} ".replace("%%", "%")
    return next((line.rstrip(",") for line in sql.split("\n") if line.startswith(start)), "")


def column_check(connection: Connection, target: Target, name: str) -> str | None:
    """Return the condition of the CHECK in the definition of a column, in parentheses; MariaDB has it at the end."""
    line = column_definition(connection, target, name)
    if not any(token.is_word("CHECK") for token in tokens_of(line)):
        return None
    return line[line.rindex(" CHECK (") + len(" CHECK ") :]
