"""Fill the blind index of a table that has rows, or compare it: every row, whatever its index has."""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from threading import Event

from sqlalchemy import not_
from sqlalchemy.exc import IntegrityError

from sealchemy._databases.access import Access, StillLockedError
from sealchemy._databases.table import RowKey
from sealchemy._rewriting.interrupt import interrupt_between_batches
from sealchemy._rewriting.options import Options
from sealchemy._rewriting.pages import Pages, Span
from sealchemy._rewriting.problems import FURTHER_PASSES
from sealchemy._rewriting.report import Progress, Report
from sealchemy._rewriting.walk import Failed, Step, Walk
from sealchemy._values.blind_index import PREFIX
from sealchemy.errors import ColumnDefinitionError, PlaintextFoundError, RewriteError

from . import problems
from .digests import Digests
from .index_columns import IndexColumns

_KEYS = 10_000


def fill(
    access: Access, columns: IndexColumns, options: Options, progress: Callable[[Progress], None] | None = None
) -> Report:
    """Give every row of an open table the digest of its secret, in walks along the primary key.

    With `dry_run`, compare only: `Report.pending` counts the rows whose digest is missing or wrong.

    Raises:
        MissingKeyError: there is no index key.
        RewriteError: secrets cannot be read, digests are still changing, or SIGINT.
    """
    return _run(access, columns, options, progress).report


def compare(
    access: Access, columns: IndexColumns, progress: Callable[[Progress], None] | None = None
) -> tuple[Report, str | None]:
    """Compare every digest with its secret; return the report, and a sentence about those that are missing or wrong."""
    run = _run(access, columns, Options(dry_run=True), progress)
    return run.report, problems.describe_mismatch(columns, run.report, run.keys) if run.report.pending else None


def _run(
    access: Access, columns: IndexColumns, options: Options, progress: Callable[[Progress], None] | None
) -> "Filling":
    with interrupt_between_batches() as interrupted:
        run = Filling(access, columns, options, progress)
        walk = partial(Walk, access, run.pages, options.batch_size, interrupted)
        try:
            run.run(walk, interrupted)
        except RewriteError as error:
            error.report = error.report or run.report
            raise
        return run


class Filling:
    """One run over one table."""

    def __init__(
        self,
        access: Access,
        columns: IndexColumns,
        options: Options,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self.digests = Digests(access, columns)  # raises without a key
        self.access, self.options, self.progress, self.columns = access, options, progress, columns
        self.pages, self.report = Pages(access), Report(access.target.name)
        self.done = self.total = 0
        self.keys: list[RowKey] = []
        """The first of the rows that the last comparison found to differ."""
        self.has_plaintext = False

    def run(self, walk: Callable[[], Walk], interrupted: Event) -> None:
        self.access.require_text()
        if self.progress:
            self.total = sum(step.rows for step in walk().read(self.count))
        if self.options.dry_run:
            self._compare_all(walk)
        else:
            self.access.require_transactions()
            self._refuse_other_values(walk)
            self._write_all(walk, interrupted)
            for _ in range(FURTHER_PASSES):
                self._compare_all(walk)
                if not self.report.pending or interrupted.is_set():
                    break
                if self.report.pending > len(self.keys):
                    self._write_all(walk, interrupted)
                for key in self.keys:
                    self._fill_row(key)
            else:
                self._compare_all(walk)
        self._finish(interrupted)

    def _refuse_other_values(self, walk: Callable[[], Walk]) -> None:
        """Refuse a column that has anything but digests: it is another column."""
        if any(step.found for step in walk().read(self.find_other)):
            raise ColumnDefinitionError(
                f"{self.report.table}.{self.columns.column} has values that are no digests, so it is not the column of"
                " an index; nothing was changed"
            )

    def _write_all(self, walk: Callable[[], Walk], interrupted: Event) -> None:
        # In a unique index, a new digest may be the old one of another row, where it is wrong: then clear these first.
        for clears_first in (False, True):
            try:
                if clears_first:
                    self._write_steps(walk, interrupted, partial(self.step, clears=True))
                self._write_steps(walk, interrupted, self.step)
            except IntegrityError:
                continue
            return
        raise RewriteError(problems.describe_refused(self.columns, self.report), self.report)

    def _write_steps(
        self, walk: Callable[[], Walk], interrupted: Event, step_of: Callable[[Span, int, int], Step]
    ) -> None:
        for step in walk().write(step_of, lambda: self.options.batch_size):
            self.report.rewritten += step.written
            self._tell(step)
            interrupted.wait(self.options.pause if step.written else 0)

    def _compare_all(self, walk: Callable[[], Walk]) -> None:
        report = self.report
        report.pending, report.failed, self.has_plaintext = 0, 0, False
        self.keys.clear()
        report.failures.clear()
        for step in walk().read(self.compare):
            report.pending += len(step.pending)
            self.keys += step.pending[: _KEYS - len(self.keys)]
            for failure in step.failures:
                report.add_failure(*failure)
                self.has_plaintext |= isinstance(failure[2], PlaintextFoundError)
            if self.options.dry_run:
                self._tell(step)

    def _finish(self, interrupted: Event) -> None:
        if interrupted.is_set():
            self.report.stopped = "interrupt"
        found = list(problems.describe(self.report, self.keys, self.options, has_plaintext=self.has_plaintext))
        if found:
            text = f"{problems.NAME} {self.report.table}.{self.columns.column}: {'; '.join(found)}"
            raise RewriteError(text, self.report)

    def _tell(self, step: Step) -> None:
        self.done += step.rows
        if self.progress and step.rows:
            self.progress(Progress(self.report.table, problems.NAME, min(self.done, self.total), self.total))

    def count(self, span: Span, count: int) -> Step:
        span = self.pages.start(span, count)
        return Step(span[1], rows=self.pages.count_within(span))

    def find_other(self, span: Span, count: int) -> Step:
        span = self.pages.start(span, count)
        index = self.access.target.columns[1]
        is_digest = self.access.database.matches(index, f"{PREFIX}*")
        return Step(span[1], found=self.pages.has(span, index.is_not(None), not_(is_digest)))

    def step(self, span: Span, count: int, limit: int, *, clears: bool = False) -> Step:
        """Write the digests that differ, or clear them; with a limit of 0, only tell whether there are some."""
        span = self.pages.start(span, count)
        most = limit or self.options.batch_size
        page, is_full = self.pages.read(self.pages.select(span, most, lock=bool(limit)), most)
        changes = self.digests.changes(page, [])
        if clears:
            has_digest = {key for key, stored in zip(page.keys, page.values[1], strict=True) if stored is not None}
            changes = [(key, None) for key, _ in changes if key in has_digest]
        if limit:
            self.digests.write(changes)
        high = page.keys[-1] if is_full else span[1]
        written = len(changes) if limit else 0
        return Step(high, len(page), sum(page.sizes), is_full=is_full, found=bool(changes), written=written)

    def compare(self, span: Span, count: int) -> Step:
        page, is_full = self.pages.read(self.pages.select(span, count), count)
        failures: list[Failed] = []
        pending = [key for key, _ in self.digests.changes(page, failures)]
        high = page.keys[-1] if is_full else span[1]
        return Step(high, len(page), sum(page.sizes), pending=pending, failures=failures)

    def _fill_row(self, key: RowKey) -> None:
        def work() -> int:
            changes = self.digests.changes(self.pages.complete(self.pages.lock_row(key, wait=True)), [])
            self.digests.write(changes)
            return len(changes)

        with suppress(StillLockedError, IntegrityError):  # the next comparison finds it
            self.report.rewritten += self.access.run(work, attempts=1)
