"""Removing what an UPDATE leaves behind: the old versions of rows, in the files of the database."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import text

from .errors import UnsupportedOperationError
from .sqlite import checkpoint

if TYPE_CHECKING:
    from sqlalchemy import Engine

OUT_OF_REACH = (
    "WAL archives, replicas and backups keep the old values as long as they are kept themselves; a token that may"
    " have been in one is safe only once it is re-issued"
)


def scrub(engine: Engine, table: str, *, schema: str | None = None) -> str:
    """Rewrite the files of a table without what is dead in them; return what this cannot reach.

    SQLite: VACUUM, which rewrites the whole file, and a checkpoint that empties the write-ahead log. PostgreSQL:
    `VACUUM (FULL, ANALYZE)`, which **locks the table against readers and writers** while it copies it.

    Raises:
        UnsupportedOperationError: another database; or another connection to the SQLite file kept the write-ahead log
            from being emptied, so that plaintext may remain.

    """
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        preparer = connection.dialect.identifier_preparer
        name = f"{preparer.quote(schema)}.{preparer.quote(table)}" if schema else preparer.quote(table)
        if connection.dialect.name == "sqlite":
            connection.execute(text("VACUUM"))
            if checkpoint(connection):
                message = "plaintext may remain in the file: another connection uses its write-ahead log; try again"
                raise UnsupportedOperationError(message)
        elif connection.dialect.name == "postgresql":
            connection.execute(text(f"VACUUM (FULL, ANALYZE) {name}"))
        else:
            message = f"scrub does not know {connection.dialect.name}"
            raise UnsupportedOperationError(message)
    return OUT_OF_REACH
