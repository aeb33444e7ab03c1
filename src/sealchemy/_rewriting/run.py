"""One rewrite of one table, in walks along its primary key.

It works on tables by name, never through application models: no ORM event, default or `onupdate` runs. The values
in the table decide what needs work, never a cursor kept elsewhere, so a run that was killed anywhere and is started
again ends in the same state.

The first walk rewrites what is pending, and authenticates every value, before the commit of what it wrote. What others
had locked, or put behind it, is found by light walks, which look at the start of the values only.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from threading import Event
from typing import TypeAlias

from sqlalchemy import and_, or_

from sealchemy._column.engine_keys import engine_keys
from sealchemy._databases.access import Access, StillLockedError
from sealchemy._databases.base import ATTEMPTS
from sealchemy._databases.table import RowKey
from sealchemy.errors import RewriteError

from .cipher import LegacyReader
from .columns import Columns
from .conversions import VERIFY, Conversion
from .interrupt import interrupt_between_batches
from .jobs.processes import Jobs
from .options import Options
from .pages import Pages, Span
from .pipeline import Pipeline
from .problems import FURTHER_PASSES, describe_problems, explaining
from .ranges import ends
from .report import Progress, Report
from .sample import Sample
from .steps import Steps
from .throttle import Throttle
from .walk import Step, Walk

OnProgress: TypeAlias = Callable[[Progress], None]
OnStep: TypeAlias = Callable[[Step], None]
Work: TypeAlias = Callable[[Span, int, int], Step]


def run(
    access: Access,
    conversion: Conversion,
    options: Options,
    progress: OnProgress | None = None,
    legacy_reader: LegacyReader | None = None,
) -> Report:
    """Rewrite the columns of an open table; see `sealchemy.rewrite.rewrite`."""
    with interrupt_between_batches() as interrupted:
        return Run(access, conversion, options, interrupted, progress, legacy_reader).run()


class Run:
    """One run over one table."""

    def __init__(
        self,
        access: Access,
        conversion: Conversion,
        options: Options,
        interrupted: Event,
        progress: OnProgress | None = None,
        legacy_reader: LegacyReader | None = None,
    ) -> None:
        """Prepare it."""
        key_ring = engine_keys(access.connection.dialect).require_ring(access.target.name)
        self.access, self.database, self.conversion, self.options = access, access.database, conversion, options
        self.progress, self.interrupted, self.legacy_reader = progress, interrupted, legacy_reader
        self.on_step: OnStep | None = None
        self.report = Report(access.target.name, key_id=key_ring.primary.id)
        tests = [(item, conversion.pending(self.database, key_ring, item)) for item in access.target.columns]
        self.is_pending = or_(*(and_(item.is_not(None), test) for item, test in tests))
        self.pages = Pages(access, options.shard, *([ends(access, options.range)] if options.range else []))
        columns = Columns.of(access, conversion, legacy_reader)
        self.steps = Steps(access, self.pages, columns, self.is_pending, options.batch_size)
        self.only_reads = options.dry_run or conversion is VERIFY
        self.jobs = Jobs(access, conversion, options, interrupted, self.report) if options.jobs > 1 else None
        self.throttle = Throttle(access, options, interrupted)
        self.total = self.done = self.unreached = 0
        self.has_more: bool | None = None

    def run(self) -> Report:
        """Rewrite the table, and return the report."""
        return explaining(self._run, self.access, self.conversion, self.report)

    def _run(self) -> Report:
        self.access.require_text()
        if not self.only_reads:
            self.access.require_transactions()
        if self.progress:
            self.total = sum(step.rows for step in self._walk().read(self.steps.count))
        found_last = self.first_walk() if self.only_reads else self._rewrite_everything()
        unreached = 0 if self._is_stopped() else self._count_unreached()
        if self.access.owns_connection and not self.only_reads and self.options.range is None:
            self.report.left_behind = self.database.finish(self.access.connection, self.access.target)
        self._is_stopped()
        self.report.read = self.done if self.only_reads else 0
        if problems := describe_problems(self.report, self.conversion, self.options, found_last, unreached):
            raise RewriteError(f"{self.conversion.name} {self.report.table}: {'; '.join(problems)}", self.report)
        return self.report

    def _walk(self) -> Walk:
        return Walk(self.access, self.pages, self.options.batch_size, self.interrupted)

    def _rewrite_everything(self) -> int:
        """Rewrite in as many walks as it takes, and return how many rows the last of them wrote."""
        written, is_left, passes = self.first_walk(), False, 1
        while not self._is_stopped():
            is_left = self._walk().has(self.is_pending)
            if not is_left or passes > FURTHER_PASSES or (passes > 1 and not written):
                break
            written, passes = self._write(self.steps.rewrite), passes + 1
        if self._is_stopped():
            return written
        if is_left:
            self._rewrite_stragglers()
        if not self.access.owns_connection:
            self._read_everything()
        elif is_left:
            for step in self._until_stopped(self._walk().read(self.steps.look)):
                self._report(step)
        return written

    def first_walk(self, work: Work | None = None) -> int:
        """Authenticate every value, and write what is pending unless this run only reads; return how many rows."""
        if self.only_reads:
            self._read_everything()
            return 0
        before, pipeline = self.report.rewritten, Pipeline(self.access, self.options, self.interrupted, self.report)
        if self.jobs is not None:
            self.jobs.run(self.tell)
        elif pipeline.is_possible():
            pipeline.run(self._cross, self.tell)
        else:
            self._write(work or self.steps.rewrite_and_authenticate)
        return self.report.rewritten - before

    def _cross(self, access: Access, line: str, on_step: OnStep, on_end: Callable[[Report], None]) -> None:
        options = replace(self.options, range=line)
        part = Run(access, self.conversion, options, self.interrupted, None, self.legacy_reader)
        part.on_step, part.throttle = on_step, self.throttle
        try:
            part.first_walk()
        finally:
            on_end(part.report)

    def _write(self, work: Work) -> int:
        """Return how many rows a walk wrote."""
        self.throttle.wait()
        written, began = 0, time.monotonic()
        for step in self._until_stopped(self._walk().write(work, self._limit)):
            written += step.written
            self.report.rewritten += step.written
            self._report(step)
            self.tell(step)
            if step.written:
                self.throttle.rest(time.monotonic() - began)
            began = time.monotonic()
        return written

    def _limit(self) -> int:
        """Return how many rows the next transaction may write."""
        size, most = self.options.batch_size, self.options.max_rows
        return size if most is None else min(size, most - self.report.rewritten)

    def _report(self, step: Step) -> None:
        self.report.pending += len(step.pending)
        for failure in step.failures:
            self.report.add_failure(*failure)

    def tell(self, step: Step) -> None:
        """Report progress."""
        if self.on_step:
            self.on_step(step)
        self.done += step.rows
        if self.progress and (step.rows or step.written):
            name = VERIFY.name if self.only_reads else self.conversion.name
            self.progress(Progress(self.report.table, name, self.done, self.total))

    def _until_stopped(self, steps: Iterator[Step]) -> Iterator[Step]:
        for step in steps:
            yield step
            if self._is_stopped():
                return

    def _is_stopped(self) -> bool:
        if self.interrupted.is_set():
            self.report.stopped = "interrupt"
        elif not self.only_reads and self.report.rewritten == self.options.max_rows and self._has_more_pending():
            self.report.stopped = "max_rows"
        return self.report.stopped is not None

    def _has_more_pending(self) -> bool:
        if self.has_more is None:
            self.has_more = self._walk().has(self.is_pending)
        return self.has_more

    def _rewrite_stragglers(self) -> None:
        """Rewrite the rows that were locked in every walk: one row a transaction, waiting for it."""
        wait = True
        for step in self._until_stopped(self._walk().read(self.steps.look)):
            for key in step.pending:
                if self._is_stopped():
                    return
                # A session that still holds its lock after that would make every further row wait as long.
                wait = self._rewrite_row(key, wait=wait) and wait

    def _rewrite_row(self, key: RowKey, *, wait: bool) -> bool:
        """Rewrite a row, and return whether it could be locked."""
        attempts = 1 if wait else ATTEMPTS
        try:
            written = self.access.run(partial(self.steps.rewrite_row, key, wait=wait), attempts=attempts)
        except StillLockedError:
            if wait:
                return False
            raise
        self.report.rewritten += written
        self.tell(Step(key, written=written))
        return True

    def _read_everything(self) -> None:
        """Look at every value with the reader's own function: a prefix alone proves nothing."""
        is_exact = self.database.has_exact_keys(self.access.target) or self.options.sample is not None
        before, read = 0 if is_exact else self.pages.count(), 0
        share, is_rest = self.options.sample, self.pages.first is not None
        look = self.steps.survey if share is None or share == 1 else Sample(self.steps, share, is_rest=is_rest).look
        if self.jobs is not None:
            self.jobs.run(self.tell)
            read = self.done
        for step in self._until_stopped(self._walk().read(look)) if self.jobs is None else ():
            self._report(step)
            read += step.rows
            if self.only_reads:
                self.tell(step)
        self.unreached = 0 if is_exact else max(min(before, self.pages.count()) - read, 0)

    def _count_unreached(self) -> int:
        """Return the number of rows that were not reached: some keys may not compare as the table orders them."""
        if self.only_reads or self.database.has_exact_keys(self.access.target):
            return self.unreached
        return max(self.pages.count(self.is_pending) - self.report.pending - self.report.failed, 0)
