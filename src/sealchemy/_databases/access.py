"""`Access`: an open table, and how transactions on it begin, end and are run again."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.engine import Dialect

from sealchemy.errors import UnsupportedOperationError

from .base import ATTEMPTS, Database
from .mysql import MySQL
from .postgresql import PostgreSQL
from .sqlite import SQLite
from .table import TableColumns, Target, look_up

_DATABASES: dict[str, Database] = {"postgresql": PostgreSQL(), "sqlite": SQLite(), "mysql": MySQL(), "mariadb": MySQL()}

_Result = TypeVar("_Result")


def is_supported(dialect: Dialect) -> bool:
    """Return whether rows can be rewritten on databases of this kind."""
    return dialect.name in _DATABASES


def database_of(dialect: Dialect) -> Database:
    """Return the kind of database of a dialect, or raise `UnsupportedOperationError`."""
    if not is_supported(dialect):
        raise UnsupportedOperationError(
            f"sealchemy does not support tables on {dialect.name}; it supports {', '.join(_DATABASES)}"
        )
    return _DATABASES[dialect.name]


@dataclass(frozen=True, kw_only=True)
class Access:
    """A table, a connection to it, and how transactions on it begin, end and are run again.

    On a connection that the caller passed in, everything happens in the transaction that it is in.
    """

    connection: Connection
    database: Database
    target: Target
    lock_timeout: float
    owns_connection: bool

    @contextmanager
    def transaction(self, *, write: bool) -> Iterator[None]:
        """Begin a short transaction, and commit it."""
        with self.connection.begin() if self.owns_connection else nullcontext():
            self.database.begin(self.connection, self.target, self.lock_timeout, write=write)
            yield

    def run(self, work: Callable[[], _Result], *, attempts: int = ATTEMPTS) -> _Result:
        """Return the result of `work` in a transaction, run again after a deadlock or a lock timeout."""

        def transaction() -> _Result:
            with self.transaction(write=True):
                return work()

        return self.database.retry(transaction, attempts if self.owns_connection else 1)


@contextmanager
def open_table(bind: Engine | Connection, wanted: TableColumns, lock_timeout: float = 5.0) -> Iterator[Access]:
    """Open a table: look it up, pick its kind of database, and manage transactions.

    If `bind` is an engine, the access has a connection of its own.

    Raises:
        ColumnDefinitionError: the table, a column or the primary key cannot be worked with.
        UnsupportedOperationError: the kind of database is not supported.
    """
    database, owns_connection = database_of(bind.dialect), isinstance(bind, Engine)
    with ExitStack() as stack:
        connection = stack.enter_context(bind.connect()) if isinstance(bind, Engine) else bind
        if owns_connection:
            # Whatever the engine's own level is: without transactions, locks protect nothing.
            connection.execution_options(isolation_level=database.isolation_level)
            stack.enter_context(database.session(connection, lock_timeout))
        target = look_up(connection, wanted, database.key_type)
        database.refuse_ambiguous_keys(connection, target)
        if owns_connection:
            connection.commit()
        yield Access(
            connection=connection,
            database=database,
            target=target,
            lock_timeout=lock_timeout,
            owns_connection=owns_connection,
        )
