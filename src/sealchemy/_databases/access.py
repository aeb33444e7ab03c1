"""`Access`: an open table, and how transactions on it begin, end and are run again."""

import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import DBAPIError

from sealchemy.errors import ColumnDefinitionError, RewriteError, UnsupportedOperationError

from .base import ATTEMPTS, Database, TransactionOptions
from .mysql import MySQL
from .postgresql import PostgreSQL
from .refused import explained
from .sqlite import SQLite
from .table import TableColumns, Target, look_up

_DATABASES: dict[str, Database] = {"postgresql": PostgreSQL(), "sqlite": SQLite(), "mysql": MySQL(), "mariadb": MySQL()}

_PATIENCE_WITH_A_SERVER = 300.0  # seconds until it has restarted, and until it accepts connections again
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0

logger = logging.getLogger("sealchemy")

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


class StillLockedError(RewriteError):
    """A transaction was given up because others held the locks that it needed."""


@dataclass(frozen=True, kw_only=True)
class Access:
    """A table, a connection to it, and how transactions on it begin, end and are run again.

    `wanted` is the table as the caller names it, and `target` what the database has of it. On a connection that the
    caller passed in, everything happens in the transaction that it is in.
    """

    connection: Connection
    database: Database
    wanted: TableColumns
    target: Target
    lock_timeout: float
    ddl_patience: float
    owns_connection: bool
    prepare: Callable[[], None] = lambda: None

    @contextmanager
    def transaction(
        self, *, write: bool, lock_timeout: float | None = None, walk: bool = False, snapshot: bool = False
    ) -> Iterator[None]:
        """Begin a short transaction, and commit it."""
        with self.connection.begin() if self.owns_connection else nullcontext():
            options = TransactionOptions(
                lock_timeout=lock_timeout or self.lock_timeout,
                write=write,
                owned=self.owns_connection,
                walk=walk and self.owns_connection,
                snapshot=snapshot and self.owns_connection,
            )
            self.database.begin(self.connection, self.target, options)
            yield

    def identity(self) -> str:
        """On PostgreSQL, return what tells the table from one of the same name elsewhere, in a transaction."""
        return self.database.parallel.identity(self.connection, self.target)

    def require_text(self) -> None:
        """Raise `ColumnDefinitionError` if a column is of a type that ciphertext, which is text, does not fit."""
        found = self.run(partial(self.database.columns_to_convert, self.connection, self.target), write=False)
        for name, declared in found.items():
            raise ColumnDefinitionError(
                f"table {self.target.name!r}: column {name} is {declared}, which is not text: turn it into text first"
                " (op.widen_columns, `sealchemy widen`)"
            )

    def require_transactions(self) -> None:
        """Raise `UnsupportedOperationError` if each statement would be committed by itself: updates could be lost."""
        is_in_transaction = self.run(lambda: self.database.is_in_transaction(self.connection, self.target))
        storage = self.run(lambda: self.database.storage_without_transactions(self.connection, self.target))
        if not is_in_transaction:
            raise UnsupportedOperationError(
                f"{self.target.name}: this connection is in AUTOCOMMIT, so updates of a running application would be"
                " lost; pass the engine, or a connection that has transactions"
            )
        if storage:
            raise UnsupportedOperationError(
                f"{self.target.name}: its storage engine, {storage}, has no transactions, so updates of a running"
                f" application would be lost; ALTER TABLE {self.target.name} ENGINE=InnoDB first"
            )

    def run(
        self,
        work: Callable[[], _Result],
        *,
        attempts: int = ATTEMPTS,
        write: bool = True,
        walk: bool = False,
        snapshot: bool = False,
    ) -> _Result:
        """Return the result of `work` in a transaction.

        It is run again after a deadlock, a lock timeout or a lost connection, and once after being cut off. A commit
        whose outcome is not known needs nothing: what was done is not done again.

        Raises:
            StillLockedError: others held the locks each time.
        """
        deadline, pause, was_cut_off = time.monotonic() + _PATIENCE_WITH_A_SERVER, _FIRST_PAUSE, False
        while True:
            try:
                return self._run(work, attempts, partial(self.transaction, write=write, walk=walk, snapshot=snapshot))
            except DBAPIError as error:
                is_cut_off = self.database.is_cut_off(error) and not was_cut_off
                is_lost = self.database.is_lost(error) and time.monotonic() < deadline
                if not self.owns_connection or not (is_cut_off or is_lost):
                    raise
                if is_lost and not self.connection.invalidated:
                    self.connection.invalidate()
                was_cut_off |= is_cut_off
                logger.warning("%s: a transaction is run again (%s)", self.target.name, type(error.orig).__name__)
            time.sleep(random.uniform(0.5, 1) * pause)  # noqa: S311 - spreads the attempts
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _run(
        self, work: Callable[[], _Result], attempts: int, begin: Callable[[], AbstractContextManager[None]]
    ) -> _Result:
        if self.connection.invalidated:
            self.prepare()

        def transaction() -> _Result:
            with begin():
                return work()

        try:
            return self.database.retry(transaction, attempts if self.owns_connection else 1)
        except DBAPIError as error:
            if not (self.owns_connection and self.database.is_retryable(error)):
                raise
        raise StillLockedError(
            f"{self.target.name}: others held its locks for too long; what was done before stays done; run it again"
        )


@contextmanager
def open_table(
    bind: Engine | Connection,
    wanted: TableColumns,
    lock_timeout: float = 5.0,
    ddl_patience: float = 300.0,
    *,
    any_key: bool = False,
) -> Iterator[Access]:
    """Open a table: look it up, pick its kind of database, and manage transactions.

    If `bind` is an engine, the access has a connection of its own. With `any_key`, the types of the primary key do not
    matter, as nothing is addressed by it.

    Raises:
        ColumnDefinitionError: the table, a column or the primary key cannot be worked with.
        UnsupportedOperationError: the kind of database is not supported.
        RewriteError: the database refused a statement.
    """
    database, owns_connection = database_of(bind.dialect), isinstance(bind, Engine)
    with explained(database, wanted.name), ExitStack() as stack:
        connection = stack.enter_context(bind.connect()) if isinstance(bind, Engine) else bind

        def prepare() -> None:
            connection.connection.commit()  # what a listener for new connections began
            # Whatever the engine's own level is: without transactions, locks protect nothing.
            connection.execution_options(isolation_level=database.isolation_level)
            stack.enter_context(database.session(connection, lock_timeout))
            connection.commit()

        if owns_connection:
            prepare()
            database.lift_limits(connection)
        target = look_up(connection, wanted, database.key_type, database.kind_of)
        problem = None if any_key else database.key_problem(connection, target)
        if problem is not None:
            raise ColumnDefinitionError(f"table {target.name!r} cannot be rewritten: {problem}")
        if owns_connection:
            connection.commit()
        yield Access(
            connection=connection,
            database=database,
            wanted=wanted,
            target=target,
            lock_timeout=lock_timeout,
            ddl_patience=ddl_patience,
            owns_connection=owns_connection,
            prepare=prepare,
        )
