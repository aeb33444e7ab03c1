"""One rewrite of one table, in passes over its rows.

It works on tables by name, never through application models: no ORM event, default or `onupdate` runs. The values
in the table decide what needs work, never a cursor kept elsewhere, so a run that was killed anywhere and is started
again ends in the same state.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from threading import Event
from typing import Any, TypeAlias

from sqlalchemy import ColumnElement, Row, Select, and_, or_, tuple_

from sealchemy._column.engine_keys import engine_keys
from sealchemy._column.rollout import Rollout
from sealchemy._databases.access import Access, StillLockedError
from sealchemy._databases.base import ATTEMPTS
from sealchemy._databases.table import RowKey
from sealchemy._values.secret import SecretString
from sealchemy.errors import PlaintextTypeError, RewriteError, SealchemyError

from .conversions import BIND, DECRYPT, REKEY, UNBIND, UNCHANGED, VERIFY, Change, Cipher, Conversion
from .interrupt import interrupt_between_batches
from .options import Options
from .pages import Pages
from .report import Progress, Report

FURTHER_PASSES = 3
_WRITING = {"bind": Rollout.BIND_MIGRATE, "unbind": Rollout.BIND_PREPARE}
"""The stage in which processes write what a conversion makes."""

OnProgress: TypeAlias = Callable[[Progress], None]
_OnFailure: TypeAlias = Callable[[RowKey, str, SealchemyError], None]


def run(
    access: Access,
    conversion: Conversion,
    options: Options,
    progress: OnProgress | None = None,
    legacy_reader: Callable[[str], str | bytes] | None = None,
) -> Report:
    """Rewrite the columns of an open table; see `sealchemy.rewrite.rewrite`."""
    keys = engine_keys(access.connection.dialect)
    key_ring = keys.require_ring(access.target.name)
    access.require_text()
    ciphers = [
        Cipher.of(
            key_ring,
            context,
            kind,
            legacy_reader,
            is_bound=bool(bind_to),
            accepts_unbound=conversion is not VERIFY or keys.stage(context) is not Rollout.STRICT,
        )
        for context, kind, bind_to in zip(
            access.target.contexts, access.target.kinds, access.target.bind_to, strict=True
        )
    ]
    pending = [conversion.pending(access.database, key_ring, column) for column in access.target.columns]
    with interrupt_between_batches() as interrupted:
        report = Report(access.target.name, key_id=key_ring.primary.id)
        return _Run(access, conversion, ciphers, pending, options, progress, interrupted, report).run()


class _Run:
    """One run over one table."""

    def __init__(
        self,
        access: Access,
        conversion: Conversion,
        ciphers: Sequence[Cipher],
        pending: Sequence[ColumnElement[bool]],
        options: Options,
        progress: OnProgress | None,
        interrupted: Event,
        report: Report,
    ) -> None:
        self.access, self.target, self.database = access, access.target, access.database
        self.conversion, self.options, self.interrupted = conversion, options, interrupted
        self.progress, self.ciphers = progress, ciphers
        self.pages = Pages(access, options.shard)
        self.report = report
        names = list(self.target.parts)
        self.parts = [[names.index(name) for name in bind_to] for bind_to in self.target.bind_to]
        tests = zip(self.target.columns, pending, strict=True)
        self.is_pending = or_(*(and_(item.is_not(None), test) for item, test in tests))
        self.only_reads = options.dry_run or conversion is VERIFY

    def run(self) -> Report:
        if not self.only_reads:
            self.access.require_transactions()
        found_last = 0 if self.only_reads else self._rewrite_everything()
        unreached = 0
        if not self._is_stopped():
            unreached = self._classify_everything()
        if self.access.owns_connection and not self.only_reads:
            self.report.left_behind = self.database.finish(self.access.connection, self.target)
        self._is_stopped()
        self._raise_for_problems(found_last, unreached)
        return self.report

    def _rewrite_everything(self) -> int:
        """Rewrite in as many passes as it takes, and return how many rows the last of them found."""
        self.total = self.pages.count(self.is_pending) if self.progress else 0
        found = self._pass()
        for _ in range(FURTHER_PASSES):
            if found and not self._is_stopped():
                found = self._pass()
        if not self._is_stopped():
            self._rewrite_stragglers()
        return found

    def _pass(self) -> int:
        """Rewrite the pending rows that others have not locked, and return their number."""
        previous: RowKey | None = None
        before, until = self.report.rewritten, self.pages.until_now()
        while limit := self._limit():
            rows = self._rewrite(self.pages.select(previous, limit, self.is_pending, *until), wait=False) or []
            if len(rows) < limit:
                break
            previous = self.pages.last_key(rows, previous)
            self.interrupted.wait(self.options.pause)
        return self.report.rewritten - before

    def _limit(self) -> int:
        """Return how many rows the next batch may have, or 0 to stop."""
        if self._is_stopped():
            return 0
        size, limit = self.options.batch_size, self.options.max_rows
        return size if limit is None else min(size, limit - self.report.rewritten)

    def _is_stopped(self) -> bool:
        if self.interrupted.is_set():
            self.report.stopped = "interrupt"
        elif not self.only_reads and self.report.rewritten == self.options.max_rows and self._has_more_pending():
            self.report.stopped = "max_rows"
        return self.report.stopped is not None

    def _has_more_pending(self) -> bool:
        return self.report.stopped is not None or self.pages.count(self.is_pending) > 0

    def _rewrite_stragglers(self) -> None:
        """Rewrite the rows that were locked in every pass: one row a transaction, waiting for it."""
        wait = True
        for rows in self.pages.read(self.options.batch_size, self.is_pending):
            for row in rows:
                if self._is_stopped():
                    return
                if self._changes(row):
                    only = tuple_(*self.target.key) == self.pages.key(row)
                    # A session that still holds its lock after that would make every further row wait as long.
                    wait = self._rewrite(self.pages.select(None, 1, only), wait=wait) is not None and wait

    def _classify_everything(self) -> int:
        """Look at every value with the reader's own function: a prefix alone proves nothing.

        Return the number of rows that were not reached by their keys.
        """
        is_exact = self.database.has_exact_keys(self.target)
        total, done = self.pages.count() if self.progress or not is_exact else 0, 0
        for rows in self.pages.read(self.options.batch_size):
            for row in rows:
                self.report.pending += bool(self._changes(row, self.report.add_failure))
            done += len(rows)
            if self.progress:
                self.progress(Progress(self.target.name, VERIFY.name, done, total))
            if self._is_stopped():
                return 0
        # Keys of some types may not compare as the table orders them, so count without them.
        if is_exact:
            return 0
        if self.only_reads:
            return max(min(total, self.pages.count()) - done, 0)
        return max(self.pages.count(self.is_pending) - self.report.pending - self.report.failed, 0)

    def _rewrite(self, page: Select[Any], *, wait: bool) -> Sequence[Row[Any]] | None:
        """Rewrite one page in one transaction and return its rows; None if they stayed locked while it waited."""
        query = self.database.lock(page, wait=wait)
        try:
            rows, count = self.access.run(lambda: self._rewrite_once(query), attempts=1 if wait else ATTEMPTS)
        except StillLockedError as error:
            if wait:
                return None
            error.report = self.report
            raise
        self.report.rewritten += count
        if self.progress:
            self.progress(Progress(self.target.name, self.conversion.name, self.report.rewritten, self.total))
        return rows

    def _rewrite_once(self, query: Select[Any]) -> tuple[Sequence[Row[Any]], int]:
        rows = self.access.connection.execute(query).all()
        self.pages.by_key(rows)
        changes = {self.pages.key(row): found for row in rows if (found := self._changes(row))}
        if changes:
            new = {key: tuple(change.stored for change in found) for key, found in changes.items()}
            self.database.write(self.access.connection, self.target, new)
            if self.access.owns_connection:  # in the caller's transaction, that is the caller's choice
                self.database.flush(self.access.connection)
            stored = self.database.read_back(self.access.connection, self.target, list(new))
            self._compare(changes, self.pages.by_key(stored))
        return rows, len(changes)

    def _compare(self, changes: Mapping[RowKey, Sequence[Change]], stored: Mapping[RowKey, RowKey]) -> None:
        """Decrypt what the database has now: a server may cut a value, or a trigger change it, silently."""
        nothing = (None,) * (len(self.ciphers) + len(self.target.parts))
        for key, found in changes.items():
            row = stored.get(key, nothing)
            for index, change in enumerate(found):
                if change.plaintext is not None and not self._stands_for(row, change.plaintext, index):
                    raise RewriteError(
                        f"{self.target.name}.{self.target.columns[index].name}, primary key {key}: the database does"
                        " not keep the new value (a column that is too short, or a trigger?); nothing is lost, this"
                        " batch was rolled back",
                        self.report,
                    )

    def _stands_for(self, row: RowKey, plaintext: SecretString, index: int) -> bool:
        stored = row[index]
        if stored is None or self.conversion is DECRYPT:
            return bool(stored == plaintext) or self.ciphers[index].is_same_json(stored, plaintext)
        try:
            return self._cipher(index, row).decrypt(stored) == plaintext
        except SealchemyError:
            return False

    def _cipher(self, index: int, row: Sequence[Any]) -> Cipher:
        """Return the functions for a column in a row, of which the values and the parts are given."""
        cipher, parts = self.ciphers[index], self.parts[index]
        if parts:
            cipher.enter([row[len(self.ciphers) + part] for part in parts])
        return cipher

    def _changes(self, row: Row[Any], on_failure: _OnFailure | None = None) -> list[Change]:
        """Return the change of each column; an empty list if none of them changes."""
        changes, values = {}, row[len(self.target.key) :]
        for index, stored in enumerate(values[: len(self.ciphers)]):
            try:
                if stored is not None and (change := self.conversion.convert(self._cipher(index, values), stored)):
                    self._require_storable(change, self.ciphers[index])
                    changes[index] = change
            except SealchemyError as error:
                if on_failure:
                    on_failure(self.pages.key(row), self.target.columns[index].name, error)
        return [changes.get(index, UNCHANGED) for index in range(len(self.ciphers))] if changes else []

    def _require_storable(self, change: Change, cipher: Cipher) -> None:
        if self.conversion is DECRYPT and not self.database.can_store(change.stored or ""):
            raise PlaintextTypeError(f"{cipher.context}: this database cannot store the plaintext, which has a NUL")

    def _raise_for_problems(self, found_in_last_pass: int, unreached: int) -> None:
        report, problems = self.report, []
        if report.stopped == "interrupt":
            problems.append(f"interrupted after {report.rewritten} rows, which stay done; run it again to continue")
        elif report.pending and not self.options.dry_run:
            problems += self._describe_pending(found_in_last_pass)
        if unreached:
            problems.append(
                f"{unreached} rows were not reached: they were inserted or changed meanwhile, or the values of the"
                " primary key do not compare as the table orders them; run it again, and if it stays so, give the table"
                " another key"
            )
        if report.failed:
            problems.append(report.describe_failures())
        if problems:
            raise RewriteError(f"{self.conversion.name} {report.table}: {'; '.join(problems)}", report)

    def _describe_pending(self, found_in_last_pass: int) -> Iterator[str]:
        if found_in_last_pass:
            laggards = "bring every process to rollout stage migrate"
            if self.conversion in {BIND, UNBIND}:
                laggards = f"bring every process to rollout stage {_WRITING[self.conversion.name]}"
            if self.conversion is REKEY:
                laggards = f"give every process {self.report.key_id} as its primary key"
            yield (
                f"values that need it are still being written, {found_in_last_pass} rows in the last of"
                f" {1 + FURTHER_PASSES} passes; {laggards}, then run it again"
            )
        yield (
            f"{self.report.pending} rows were locked by others for longer than {self.options.lock_timeout} s, or"
            " written meanwhile; run it again"
        )
