"""SQLite, as far as stored values are concerned."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sqlalchemy import literal, or_, select, text, update

from .backend import Backend
from .errors import ColumnDefinitionError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import ColumnElement, Connection, Select
    from sqlalchemy.exc import DBAPIError

    from .backend import Target


class SQLite(Backend):
    """SQLite 3.35 and later."""

    isolation_level = "SERIALIZABLE"

    def matches(self, stored: ColumnElement[str], pattern: str) -> ColumnElement[bool]:
        """Return `col GLOB ...`: LIKE ignores case here."""
        return stored.op("GLOB", is_comparison=True)(literal(pattern))

    def check_keys(self, connection: Connection, target: Target) -> None:
        """Refuse NULL in a primary key, which SQLite allows: such rows have no order and no name."""
        nameless = or_(*(item.is_(None) for item in target.key))
        if connection.scalar(select(literal(1)).select_from(target.table).where(nameless).limit(1)):
            message = f"table {target.name!r} cannot be rewritten: it has rows whose primary key is NULL; give them one"
            raise ColumnDefinitionError(message)

    @contextmanager
    def session(self, connection: Connection, lock_timeout: float) -> Iterator[None]:
        """Have what is overwritten filled with zeros, and text that is not UTF-8 read.

        It is read as text with lone surrogates, which is then reported by its key.
        """
        del lock_timeout  # here it is the `timeout` of the driver's connect()
        connection.execute(text("PRAGMA secure_delete = ON"))
        connection.commit()
        driver: Any = connection.connection.driver_connection
        before = driver.text_factory
        driver.text_factory = lambda content: content.decode("utf-8", "surrogateescape")
        try:
            yield
        finally:
            driver.text_factory = before

    def begin(self, connection: Connection, target: Target, lock_timeout: float, *, write: bool) -> None:
        """Take the write lock, in whatever way this engine begins its transactions."""
        del lock_timeout
        if write:
            item = target.key[0]
            connection.execute(update(target.table).values({item.name: item}).where(text("0")))

    def lock(self, statement: Select[Any], *, wait: bool) -> Select[Any]:
        """Return the statement as it is: there is one writer."""
        del wait
        return statement

    def is_retryable(self, error: DBAPIError) -> bool:
        """Return whether another connection has the write lock."""
        return getattr(error.orig, "sqlite_errorname", "").startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))

    def finish(self, connection: Connection, target: Target) -> list[str]:
        """Move the write-ahead log into the file: until then the old pages are still there."""
        del target
        busy = checkpoint(connection)
        left = ["free pages from before, and backups, may still hold old values: `sealchemy scrub`, or VACUUM"]
        if busy:
            left.append("plaintext may remain in the file: another connection kept the WAL checkpoint from ending")
        return left


def checkpoint(connection: Connection) -> bool:
    """Move SQLite's write-ahead log into the file and empty it; return whether somebody was in the way."""
    cursor = connection.connection.cursor()  # a checkpoint runs in no transaction, and SQLAlchemy begins one
    cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    row: Any = cursor.fetchone()
    cursor.close()
    return bool(row[0])
