"""Remove the old versions of rows, which an UPDATE leaves behind, from the files of the database."""

from sqlalchemy import Engine, inspect

from sealchemy._databases.access import database_of
from sealchemy.errors import ColumnDefinitionError

__all__ = ["describe_scrub", "scrub"]

OUT_OF_REACH = (
    "WAL archives, replicas and backups still hold the old values; a token that may be in one of them is safe only"
    " once it is re-issued"
)


def describe_scrub(engine: Engine, table: str, *, online: bool = False) -> str:
    """Return what `scrub` keeps others from doing, in a sentence.

    Raises:
        UnsupportedOperationError: there is no scrub on this kind of database.
    """
    return database_of(engine.dialect).describe_scrub(table, online=online)


def scrub(
    engine: Engine, table: str, *, schema: str | None = None, online: bool = False, lock_timeout: float = 5.0
) -> list[str]:
    """Rewrite the files of a table without its dead rows; return the places that this cannot reach, in sentences.

    SQLite: VACUUM, which rewrites the whole file, and a checkpoint that empties the write-ahead log. PostgreSQL:
    `VACUUM (FULL, ANALYZE)`, which **locks the table against readers and writers** while it copies it.

    Args:
        engine: the database.
        table: the table's name.
        schema: its schema, if it is not the default one.
        online: on PostgreSQL only `VACUUM (ANALYZE)`, which locks no one out and leaves old values in the file.
        lock_timeout: seconds to wait for the lock, several times, and for transactions older than this call.

    Raises:
        ColumnDefinitionError: there is no such table.
        UnsupportedOperationError: another kind of database; or something kept old values from being removed, so
            plaintext may remain.
    """
    database = database_of(engine.dialect)
    database.describe_scrub(table, online=online)  # which refuses, before anything is opened
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        preparer = connection.dialect.identifier_preparer
        name = f"{preparer.quote(schema)}.{preparer.quote(table)}" if schema else preparer.quote(table)
        if not inspect(connection).has_table(table, schema=schema):
            raise ColumnDefinitionError(
                f"table {name} cannot be scrubbed: there is no such table in {engine.url.database!r}"
            )
        left = database.scrub(connection, name, schema, online=online, lock_timeout=lock_timeout)
    return [*left, OUT_OF_REACH]
