"""Rewriting stored values in place, in batches: the only code that does so.

It works on tables by name, never through application models: no ORM event, default or `onupdate` runs.
What needs work is decided by what is stored, never by a cursor that is kept somewhere, so a run that was
killed anywhere and is started again ends in the same state.
"""

from __future__ import annotations

import signal
from contextlib import contextmanager
from threading import Event, current_thread, main_thread
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine, and_, or_, tuple_
from sqlalchemy.exc import DBAPIError

from .backends import ATTEMPTS, Access, access
from .changes import DECRYPT, ENCRYPT, REKEY, UNCHANGED, VERIFY, Change, Cipher, Operation
from .engine import Rollout, binding
from .errors import PlaintextTypeError, RewriteError, SealchemyError, UnsupportedOperationError
from .options import Options
from .paging import Pages
from .report import Failure, Progress, Report

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from sqlalchemy import Row, Select

    from .backend import Key
    from .keys import KeyRing
    from .redaction import SecretString

    _OnFailure = Callable[[Key, str, SealchemyError], None]

__all__ = [
    "DECRYPT",
    "ENCRYPT",
    "REKEY",
    "VERIFY",
    "Failure",
    "Operation",
    "Options",
    "Progress",
    "Report",
    "check_before",
    "rewrite",
]

FURTHER_PASSES = 3


def rewrite(
    operation: Operation,
    bind: Engine | Connection,
    table: str,
    columns: Mapping[str, str],
    *,
    schema: str | None = None,
    options: Options = Options(),  # noqa: B008 - it cannot be changed
    progress: Callable[[Progress], None] | None = None,
    legacy_reader: Callable[[str], str] | None = None,
) -> Report:
    """Rewrite the values of a table, and return the report.

    In the main thread, SIGINT lets the batch end and then the run, and a second one interrupts at once; in both
    cases nothing is lost, and a later run goes on.

    Args:
        operation: `ENCRYPT`, `REKEY` (to the primary key), `DECRYPT`, or `VERIFY`, which only reads.
        bind: an engine, to work in short transactions on a connection of its own; or a connection, to
            work in the transaction that it is in.
        table: its name.
        columns: the context of each column, by column name.
        schema: its schema, if it is not the default one.
        options: batches, pauses and limits.
        progress: called after each batch.
        legacy_reader: for `ENCRYPT`, what returns the plaintext of a value that another library wrote; without it
            such a value is the plaintext. It is called for every value that does not start with `sealchemy:`, more
            than once for some; a value for which it raises is left as it was and reported.

    Raises:
        KeyRingNotAttachedError, ColumnDefinitionError, UnsupportedOperationError: before a row is touched.
        RewriteError: values that could not be read (they are left as they were, and everything else is
            done), old values that are still being written, or SIGINT.

    """
    key_ring = check_before(operation, bind, columns)
    if legacy_reader is not None and operation is not ENCRYPT:
        message = f"a legacy reader is for ENCRYPT, and does nothing in {operation.name}: leave it out"
        raise UnsupportedOperationError(message)
    with access(bind, table, columns, schema, options.lock_timeout) as opened, _interrupt_between_batches() as event:
        ciphers = [Cipher.of(key_ring, context, legacy_reader) for context in opened.target.contexts]
        return _Run(opened, operation, key_ring, ciphers, options, progress, event).run()


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


@contextmanager
def _interrupt_between_batches() -> Iterator[Event]:
    """Return an event that the first Ctrl-C sets."""
    event = Event()
    if current_thread() is not main_thread() or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield event
        return

    def stop(*_: object) -> None:
        event.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGINT, stop)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


class _Run:
    """One run over one table."""

    def __init__(
        self,
        opened: Access,
        operation: Operation,
        key_ring: KeyRing,
        ciphers: Sequence[Cipher],
        options: Options,
        progress: Callable[[Progress], None] | None,
        interrupted: Event,
    ) -> None:
        self.access, self.target, self.backend = opened, opened.target, opened.backend
        self.operation, self.options, self.interrupted = operation, options, interrupted
        self.progress = progress
        self.pages = Pages(opened, options.shard)
        self.report = Report(self.target.name)
        self.ciphers = ciphers
        tests = [(item, operation.pending(self.backend, key_ring, item)) for item in self.target.columns]
        self.is_pending = or_(*(and_(item.is_not(None), test) for item, test in tests))
        self.only_reads = options.dry_run or operation is VERIFY

    def run(self) -> Report:
        found_last = 0 if self.only_reads else self._rewrite_everything()
        if not self._is_stopped():
            self._classify_everything()
        if self.access.owns_connection and not self.only_reads:
            self.report.left_behind = self.backend.finish(self.access.connection, self.target)
        self._is_stopped()
        self._raise_for_problems(found_last)
        return self.report

    def _rewrite_everything(self) -> int:
        """Rewrite in as many passes as it takes, and return what the last of them found."""
        self.total = self.pages.count(self.is_pending) if self.progress else 0
        found = self._pass()
        for _ in range(FURTHER_PASSES):
            if found and not self._is_stopped():
                found = self._pass()
        if not self._is_stopped():
            self._rewrite_stragglers()
        return found

    def _pass(self) -> int:
        """Rewrite what is pending and not locked by others; return how many rows that were."""
        after: Key | None = None
        before, until = self.report.rewritten, self.pages.until_now()
        while limit := self._limit():
            rows = self._rewrite(self.pages.select(after, limit, self.is_pending, *until), wait=False) or []
            if len(rows) < limit:
                break
            after = self.pages.last_key(rows, after)
            self.interrupted.wait(self.options.pause)
        return self.report.rewritten - before

    def _limit(self) -> int:
        """Return how many rows may be in the next batch; none if the run is to stop."""
        if self._is_stopped():
            return 0
        size, limit = self.options.batch_size, self.options.max_rows
        return size if limit is None else min(size, limit - self.report.rewritten)

    def _is_stopped(self) -> bool:
        if self.interrupted.is_set():
            self.report.stopped = "interrupt"
        elif not self.only_reads and self.report.rewritten == self.options.max_rows and self._is_more_pending():
            self.report.stopped = "max_rows"
        return self.report.stopped is not None

    def _is_more_pending(self) -> bool:
        return self.report.stopped is not None or self.pages.count(self.is_pending) > 0

    def _rewrite_stragglers(self) -> None:
        """Rewrite what others had locked in every pass: one row a transaction, waiting for it."""
        wait = True
        for rows in self.pages.read(self.options.batch_size, self.is_pending):
            for row in rows:
                if self._is_stopped():
                    return
                if self._changes(row):
                    only = tuple_(*self.target.key) == self.pages.key(row)
                    # Whoever is still in the way after that would make each further row wait as long.
                    wait = self._rewrite(self.pages.select(None, 1, only), wait=wait) is not None and wait

    def _classify_everything(self) -> None:
        """Look at every value with the reader's own function: a prefix alone proves nothing."""
        total, done = self.pages.count() if self.progress else 0, 0
        for rows in self.pages.read(self.options.batch_size):
            for row in rows:
                self.report.pending += bool(self._changes(row, self.report.add_failure))
            done += len(rows)
            if self.progress:
                self.progress(Progress(self.target.name, VERIFY.name, done, total))
            if self._is_stopped():
                return

    def _rewrite(self, page: Select[Any], *, wait: bool) -> Sequence[Row[Any]] | None:
        """Rewrite one page in one transaction and return its rows; None if they were waited for and stay locked."""
        query = self.backend.lock(page, wait=wait)
        try:
            rows, count = self.access.run(lambda: self._rewrite_once(query), attempts=1 if wait else ATTEMPTS)
        except DBAPIError as error:
            if wait and self.access.owns_connection and self.backend.is_retryable(error):
                return None
            raise
        self.report.rewritten += count
        if self.progress:
            self.progress(Progress(self.target.name, self.operation.name, self.report.rewritten, self.total))
        return rows

    def _rewrite_once(self, query: Select[Any]) -> tuple[Sequence[Row[Any]], int]:
        rows = self.access.connection.execute(query).all()
        self.pages.by_key(rows)
        changes = {self.pages.key(row): found for row in rows if (found := self._changes(row))}
        if changes:
            new = {key: tuple(change.stored for change in found) for key, found in changes.items()}
            written = self.backend.write(self.access.connection, self.target, new)
            self._compare(changes, self.pages.by_key(written))
        return rows, len(changes)

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

    def _changes(self, row: Row[Any], on_failure: _OnFailure | None = None) -> list[Change]:
        """Return what each column becomes; an empty list if none changes."""
        changes, size = {}, len(self.target.key)
        for index, cipher in enumerate(self.ciphers):
            stored = row[size + index]
            try:
                if stored is not None and (change := self.operation.change(cipher, stored)):
                    self._check_can_store(change, cipher)
                    changes[index] = change
            except SealchemyError as error:
                if on_failure:
                    on_failure(self.pages.key(row), self.target.columns[index].name, error)
        return [changes.get(index, UNCHANGED) for index in range(len(self.ciphers))] if changes else []

    def _check_can_store(self, change: Change, cipher: Cipher) -> None:
        if self.operation is DECRYPT and not self.backend.can_store(change.stored or ""):
            message = f"{cipher.context}: this database cannot store the plaintext, which has a NUL"
            raise PlaintextTypeError(message)

    def _raise_for_problems(self, found_in_last_pass: int) -> None:
        report, problems = self.report, []
        if report.stopped == "interrupt":
            problems.append(f"interrupted after {report.rewritten} rows, which stay done: run the same again to go on")
        elif report.pending and not self.options.dry_run:
            problems += self._describe_pending(found_in_last_pass)
        if report.failed:
            problems.append(report.describe_failures())
        if problems:
            message = f"{self.operation.name} {report.table}: {'; '.join(problems)}"
            raise RewriteError(message, report)

    def _describe_pending(self, found_in_last_pass: int) -> Iterator[str]:
        if found_in_last_pass:
            yield (
                f"values that need it are still being written, {found_in_last_pass} rows in the last of"
                f" {1 + FURTHER_PASSES} passes: bring every process to rollout stage migrate, then run it again"
            )
        yield (
            f"{self.report.pending} rows were locked by others for longer than {self.options.lock_timeout} s, or"
            " written meanwhile: run it again"
        )
