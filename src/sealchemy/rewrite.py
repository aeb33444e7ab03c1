"""Rewriting stored values in place, in batches: the only code that does so.

It works on tables by name, never through application models: no ORM event, default or `onupdate` runs.
What needs work is decided by what is stored, never by a cursor that is kept somewhere, so a run that was
killed anywhere and is started again ends in the same state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import Connection, Engine, and_, func, or_, select, tuple_
from sqlalchemy.exc import DBAPIError

from .backend import Key, Target, check_distinct
from .backends import backend_of, connect, load_target, retry
from .changes import DECRYPT, ENCRYPT, REKEY, Change, Cipher, Operation
from .engine import Rollout, binding
from .errors import PlaintextTypeError, RewriteError, SealchemyError, UnsupportedOperationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sqlalchemy import ColumnElement, Row, Select

    from .keys import KeyRing
    from .redaction import SecretString

__all__ = ["DECRYPT", "ENCRYPT", "REKEY", "Failure", "Operation", "Progress", "Report", "check_before", "rewrite"]

FURTHER_PASSES = 3
FAILURES_LISTED = 1000

_OnFailure = Callable[[Key, str, SealchemyError], None]


class Progress(NamedTuple):
    """How far a run is, in rows."""

    table: str
    done: int
    total: int


class Failure(NamedTuple):
    """A value that could not be read."""

    key: Key
    column: str
    reason: str


@dataclass
class Report:
    """What a run did. It names rows by primary key and never holds a value.

    Attributes:
        table: the table's name, with its schema.
        rewritten: rows whose values were changed.
        pending: rows that still need it, because others held a lock on them or wrote them meanwhile.
        failed: values that could not be read, and were left byte for byte.
        failures: the first thousand of them.
        left_behind: where old values may still be found, in sentences.

    """

    table: str
    rewritten: int = 0
    pending: int = 0
    failed: int = 0
    failures: list[Failure] = field(default_factory=list)
    left_behind: list[str] = field(default_factory=list)

    def add_failure(self, key: Key, column: str, error: SealchemyError) -> None:
        """Count a value that was left, and list it while the list is short."""
        self.failed += 1
        if len(self.failures) < FAILURES_LISTED:
            self.failures.append(Failure(key, column, f"{type(error).__name__}: {error}"))


def rewrite(
    operation: Operation,
    bind: Engine | Connection,
    table: str,
    columns: Mapping[str, str],
    *,
    schema: str | None = None,
    batch_size: int = 1000,
    lock_timeout: float = 5.0,
    progress: Callable[[Progress], None] | None = None,
) -> Report:
    """Rewrite the values of a table, and return the report.

    Args:
        operation: `ENCRYPT`, `REKEY` (to the primary key) or `DECRYPT`.
        bind: an engine, to work in short transactions on a connection of its own; or a connection, to
            work in the transaction that it is in.
        table: its name.
        columns: the context of each column, by column name.
        schema: its schema, if it is not the default one.
        batch_size: rows in a transaction; nobody waits for longer than one of them takes.
        lock_timeout: seconds to wait for a row that somebody else has locked.
        progress: called after each batch.

    Raises:
        KeyRingNotAttachedError, ColumnDefinitionError, UnsupportedOperationError: before a row is touched.
        RewriteError: values that could not be read (they are left as they were, and everything else is
            done), or old values that are still being written.

    """
    key_ring = check_before(operation, bind, columns)
    with connect(bind) as connection:
        target = load_target(connection, table, columns, schema)
        if isinstance(bind, Engine):
            connection.commit()
        return _Run(
            operation=operation,
            connection=connection,
            owns_connection=isinstance(bind, Engine),
            target=target,
            key_ring=key_ring,
            batch_size=batch_size,
            lock_timeout=lock_timeout,
            progress=progress,
        ).run()


def check_before(operation: Operation, bind: Engine | Connection, columns: Mapping[str, str]) -> KeyRing:
    """Return the key ring; raise what can be known to be wrong before the table is looked at."""
    keys = binding(bind.dialect)
    for context in columns.values():
        keys.require_ring(context)
        if operation is ENCRYPT and keys.stage(context) is Rollout.PREPARE:
            message = (
                f"{context}: its rollout stage is prepare, in which processes write plaintext and some may not"
                " read ciphertext yet: deploy stage migrate everywhere first"
            )
            raise UnsupportedOperationError(message)
    if not columns:
        message = "no column is named: give a mapping of column names to contexts"
        raise UnsupportedOperationError(message)
    return keys.require_ring("this table")


@dataclass(kw_only=True)
class _Run:
    """One run over one table."""

    operation: Operation
    connection: Connection
    owns_connection: bool
    target: Target
    key_ring: KeyRing
    batch_size: int
    lock_timeout: float
    progress: Callable[[Progress], None] | None

    def __post_init__(self) -> None:
        self.backend = backend_of(self.connection)
        self.report = Report(self.target.name)
        self.ciphers = [Cipher.of(self.key_ring, context) for context in self.target.contexts]
        tests = [(item, self.operation.pending(self.backend, self.key_ring, item)) for item in self.target.columns]
        self.is_pending = or_(*(and_(item.is_not(None), test) for item, test in tests))
        self.total = 0

    def run(self) -> Report:
        if self.progress:
            self.total = self._count_pending()
        found = self._pass()
        for _ in range(FURTHER_PASSES):
            if found:
                found = self._pass()
        self._rewrite_stragglers()
        self._classify_everything()
        if self.owns_connection:
            self.report.left_behind = self.backend.finish(self.connection, self.target)
        self._raise_for_problems(found)
        return self.report

    @contextmanager
    def _transaction(self, *, write: bool) -> Iterator[None]:
        if not self.owns_connection:
            self.backend.begin(self.connection, self.target, self.lock_timeout, write=write)
            yield
            return
        with self.connection.begin():
            self.backend.begin(self.connection, self.target, self.lock_timeout, write=write)
            yield

    def _pass(self) -> int:
        """Rewrite what is pending and not locked by others; return how many rows that were."""
        after: Key | None = None
        before = self.report.rewritten
        while True:
            rows = self._rewrite(self._page(after, self.is_pending), wait=False)
            if len(rows) < self.batch_size:
                return self.report.rewritten - before
            after = self._behind(rows[-1], after)

    def _rewrite_stragglers(self) -> None:
        """Rewrite what others had locked in every pass: one row a transaction, waiting for it."""
        wait = True
        for rows in self._pages(self.is_pending):
            for row in rows:
                if self._changes(row):
                    only = tuple_(*self.target.key) == self._key(row)
                    # Whoever is still in the way after that would make each further row wait as long.
                    wait = bool(self._rewrite(self._page(None, only), wait=wait)) and wait

    def _classify_everything(self) -> None:
        """Look at every value with the reader's own function: a prefix alone proves nothing."""
        for rows in self._pages():
            for row in rows:
                self.report.pending += bool(self._changes(row, self.report.add_failure))

    def _count_pending(self) -> int:
        with self._transaction(write=False):
            query = select(func.count()).select_from(self.target.table).where(self.is_pending)
            return self.connection.scalar(query) or 0

    def _page(self, after: Key | None, *where: ColumnElement[bool]) -> Select[Any]:
        """Return the query for the next rows in the order of the primary key."""
        key = self.target.key
        behind = [] if after is None else [tuple_(*key) > after]
        return select(*key, *self.target.columns).where(*where, *behind).order_by(*key).limit(self.batch_size)

    def _pages(self, *where: ColumnElement[bool]) -> Iterator[Sequence[Row[Any]]]:
        """Read rows without locks, a page at a time."""
        after: Key | None = None
        while True:
            with self._transaction(write=False):
                rows = self.connection.execute(self._page(after, *where)).all()
            yield rows
            if len(rows) < self.batch_size:
                return
            after = self._behind(rows[-1], after)

    def _rewrite(self, page: Select[Any], *, wait: bool) -> Sequence[Row[Any]]:
        """Rewrite one page in one transaction and return its rows; none if they stay locked."""
        if not self.owns_connection:
            return self._rewrite_once(page, wait=wait)
        try:
            return retry(self.backend, lambda: self._rewrite_once(page, wait=wait))
        except DBAPIError as error:
            if wait and self.backend.is_retryable(error):
                return []
            raise

    def _rewrite_once(self, page: Select[Any], *, wait: bool) -> Sequence[Row[Any]]:
        with self._transaction(write=True):
            rows = self.connection.execute(self.backend.lock(page, wait=wait)).all()
            check_distinct(self.target, [self._key(row) for row in rows])
            changes = {self._key(row): found for row in rows if (found := self._changes(row))}
            if changes:
                new = {key: tuple(change.stored for change in found) for key, found in changes.items()}
                self._compare(changes, self.backend.write(self.connection, self.target, new))
        self.report.rewritten += len(changes)
        if self.progress:
            self.progress(Progress(self.target.name, self.report.rewritten, self.total))
        return rows

    def _compare(self, changes: Mapping[Key, Sequence[Change]], stored: Mapping[Key, Key]) -> None:
        """Decrypt what the database has now: a server may cut a value, or a trigger change it, silently."""
        nothing = (None,) * len(self.ciphers)
        for key, found in changes.items():
            for index, (change, back) in enumerate(zip(found, stored.get(key, nothing), strict=True)):
                if change.plaintext is not None and not self._stands_for(back, change.plaintext, index):
                    message = (
                        f"{self.target.name}.{self.target.columns[index].name}, primary key {key}: the database does"
                        " not keep what is written (a column that is too short, or a trigger?); nothing is lost,"
                        " this batch was rolled back"
                    )
                    raise RewriteError(message, self.report)

    def _stands_for(self, stored: str | None, plaintext: SecretString, index: int) -> bool:
        if stored is None or self.operation is DECRYPT:
            return stored == plaintext
        try:
            return self.ciphers[index].decrypt(stored) == plaintext
        except SealchemyError:
            return False

    def _behind(self, row: Row[Any], after: Key | None) -> Key:
        """Return the key to go on behind; one that does not advance would make the pages repeat for ever."""
        key = self._key(row)
        if key == after:
            message = f"{self.target.name}: the primary key {key} does not compare as it is stored (a real number?)"
            raise RewriteError(message, self.report)
        return key

    def _key(self, row: Row[Any]) -> Key:
        return tuple(row[: len(self.target.key)])

    def _changes(self, row: Row[Any], on_failure: _OnFailure | None = None) -> list[Change]:
        """Return what each column becomes; an empty list if none changes."""
        values = row[len(self.target.key) :]
        changes = [self._change(row, index, stored, on_failure) for index, stored in enumerate(values)]
        return changes if any(change.plaintext is not None for change in changes) else []

    def _change(self, row: Row[Any], index: int, stored: str | None, on_failure: _OnFailure | None) -> Change:
        try:
            change = None if stored is None else self.operation.change(self.ciphers[index], stored)
            if change and change.stored and not self.backend.can_store(change.stored):
                message = f"{self.ciphers[index].context}: this database cannot store the plaintext, which has a NUL"
                raise PlaintextTypeError(message)
        except SealchemyError as error:
            change = None
            if on_failure:
                on_failure(self._key(row), self.target.columns[index].name, error)
        return change or Change(None, None)

    def _raise_for_problems(self, found_in_last_pass: int) -> None:
        report, problems = self.report, []
        if found_in_last_pass and report.pending:
            problems.append(
                f"values that need it are still being written, {found_in_last_pass} rows in the last of"
                f" {1 + FURTHER_PASSES} passes: bring every process to rollout stage migrate, then run it again"
            )
        if report.pending:
            problems.append(
                f"{report.pending} rows were locked by others for longer than {self.lock_timeout} s, or written"
                " meanwhile: run it again"
            )
        if report.failed:
            listed = "; ".join(f"{item.key} {item.column}: {item.reason}" for item in report.failures[:10])
            problems.append(
                f"{report.failed} values cannot be read and were left as they are, by primary key: {listed}"
            )
        if problems:
            message = f"{self.operation.name} {report.table}: {'; '.join(problems)}"
            raise RewriteError(message, report)
