"""Fill the blind index of a table that has rows, or compare it: every row, whatever its index has.

A release that does not know the index replaces secrets and leaves their old digests behind. So a digest that is there
proves nothing: each secret is decrypted and hashed again.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache, partial
from threading import Event
from types import MappingProxyType
from typing import Any, NamedTuple

from sqlalchemy import bindparam, column, func, not_, null, select, update
from sqlalchemy import table as sa_table
from sqlalchemy.exc import IntegrityError

from sealchemy._column.blind_index.index_type import BlindIndex
from sealchemy._column.engine_keys import engine_keys
from sealchemy._databases.access import Access, StillLockedError
from sealchemy._databases.table import RowKey, TableColumns, Target
from sealchemy._values.blind_index import PREFIX
from sealchemy._values.codecs import TEXT
from sealchemy._values.secret import SecretString
from sealchemy.errors import ColumnDefinitionError, PlaintextFoundError, RewriteError, SealchemyError

from .cipher import Cipher
from .columns import Columns
from .conversions import VERIFY
from .interrupt import interrupt_between_batches
from .options import Options
from .pages import Page, Pages, Span
from .problems import FURTHER_PASSES
from .report import Progress, Report
from .walk import Failed, Step, Walk

NAME = "reindex"

_LISTED, _KEYS = 10, 10_000
_AGAIN = "run `sealchemy reindex`"


class IndexColumns(NamedTuple):
    """A secret and its index, by the names of their columns.

    Attributes:
        table: the table's name.
        secret: the column of the secret.
        column: that of the index.
        type_: the type of the index, which has the context.
        schema: the table's schema, if it is not the default one.
        bind_to: the columns that the values of the secret are bound to.
    """

    table: str
    secret: str
    column: str
    type_: BlindIndex
    schema: str | None = None
    bind_to: Sequence[str] = ()

    def wanted(self) -> TableColumns:
        """Return the columns as a table is opened with them: the secret, then the index."""
        contexts = {self.secret: self.type_.context, self.column: self.type_.context}
        bind_to: Mapping[str, Sequence[str]] = {self.secret: self.bind_to} if self.bind_to else MappingProxyType({})
        return TableColumns(self.table, contexts, self.schema, {}, bind_to)


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
    return run.report, run.mismatch() if run.report.pending else None


def _run(
    access: Access, columns: IndexColumns, options: Options, progress: Callable[[Progress], None] | None
) -> "_Fill":
    with interrupt_between_batches() as interrupted:
        run = _Fill(access, columns, options, progress)
        walk = partial(Walk, access, run.pages, options.batch_size, interrupted)
        try:
            run.run(walk, interrupted)
        except RewriteError as error:
            error.report = error.report or run.report
            raise
        return run


class _Fill:
    """One run over one table."""

    def __init__(
        self,
        access: Access,
        columns: IndexColumns,
        options: Options,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        dialect = access.connection.dialect
        keys, context = engine_keys(dialect), columns.type_.context
        keys.digester(context)  # raises without a key
        self.access, self.options, self.progress = access, options, progress
        self.name, self.secret = columns.column, columns.secret
        self.pages, self.report = Pages(access), Report(access.target.name)
        self.digest, self.reads_plaintext = columns.type_.digester(dialect), keys.reads_plaintext(context)
        cipher = Cipher.of(
            keys.require_ring(context), context, TEXT, None, is_bound=bool(columns.bind_to), accepts_unbound=True
        )
        self.columns = Columns(replace(access, target=_part(access.target, 0)), VERIFY, [cipher])
        self.target = _part(access.target, 1)
        self.writer = cache(partial(access.database.writer, access.connection, self.target, ()))
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
                f"{self.report.table}.{self.name} has values that are no digests, so it is not the column of an index;"
                " nothing was changed"
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
        raise RewriteError(self.twice(), self.report)

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

    def mismatch(self) -> str:
        """Return a sentence about the rows whose digest is missing or wrong."""
        keys = self.keys[:_LISTED]
        return (
            f"{self.report.table}.{self.name}: {self.report.pending} rows have a digest that is missing, or not that of"
            f" {self.secret}, by primary key: {', '.join(map(str, keys))}{', ...' if len(self.keys) > _LISTED else ''}."
            " Lookups miss these rows, or find wrong ones. If it is all of them, the index key or the normalize"
            " function is another one: put the old one back, or, if it was changed on purpose, run `sealchemy"
            " reindex`. If it is some, a release that does not know the index wrote them, or someone copied a digest"
            " to be found as another user: find out which first"
        )

    def twice(self) -> str:
        """Return what to do about a digest that a unique index refused; the database's own text may show values."""
        table, name = self.report.table, self.name
        return (
            f"{NAME} {table}.{name}: the database refused a digest. Either the index is unique, and two rows have the"
            f" same secret: drop the unique index, run this again, and look for them (GROUP BY {name} HAVING count(*) >"
            f" 1); or it is NOT NULL, and a row has no secret. {self.report.rewritten} rows stay done"
        )

    def _finish(self, interrupted: Event) -> None:
        report, problems = self.report, list[str]()
        if interrupted.is_set():
            report.stopped = "interrupt"
            problems = [f"interrupted after {report.rewritten} rows, which stay done; run it again"]
        elif report.pending and not self.options.dry_run:
            problems.append(
                f"the digests of {report.pending} rows are still missing or old, such as that of {self.keys[0]}: a"
                " release that does not know the index is still writing secrets, or rows are locked; end it, and run"
                " this again"
            )
        if report.failed:
            problems.append(report.describe_failures())
        if self.has_plaintext:
            problems.append("the stage is strict; to index plaintext, run it in stage prepare or migrate")
        if problems:
            raise RewriteError(f"{NAME} {report.table}.{self.name}: {'; '.join(problems)}", report)

    def _tell(self, step: Step) -> None:
        self.done += step.rows
        if self.progress and step.rows:
            self.progress(Progress(self.report.table, NAME, min(self.done, self.total), self.total))

    def count(self, span: Span, count: int) -> Step:
        span = self.pages.start(span, count)
        return Step(span[1], rows=self.pages.count_within(span))

    def find_other(self, span: Span, count: int) -> Step:
        span = self.pages.start(span, count)
        column = self.target.columns[0]
        is_digest = self.access.database.matches(column, f"{PREFIX}*")
        return Step(span[1], found=self.pages.has(span, column.is_not(None), not_(is_digest)))

    def step(self, span: Span, count: int, limit: int, *, clears: bool = False) -> Step:
        """Write the digests that differ, or clear them; with a limit of 0, only tell whether there are some."""
        span = self.pages.start(span, count)
        most = limit or self.options.batch_size
        page, is_full = self.pages.read(self.pages.select(span, most, lock=bool(limit)), most)
        changes = self.changes(page, [])
        if clears:
            has_digest = {key for key, stored in zip(page.keys, page.values[1], strict=True) if stored is not None}
            changes = [(key, None) for key, _ in changes if key in has_digest]
        if limit:
            self._write(changes)
        high = page.keys[-1] if is_full else span[1]
        written = len(changes) if limit else 0
        return Step(high, len(page), sum(page.sizes), is_full=is_full, found=bool(changes), written=written)

    def compare(self, span: Span, count: int) -> Step:
        page, is_full = self.pages.read(self.pages.select(span, count), count)
        failures: list[Failed] = []
        pending = [key for key, _ in self.changes(page, failures)]
        high = page.keys[-1] if is_full else span[1]
        return Step(high, len(page), sum(page.sizes), pending=pending, failures=failures)

    def _fill_row(self, key: RowKey) -> None:
        def work() -> int:
            changes = self.changes(self.pages.complete(self.pages.lock_row(key, wait=True)), [])
            self._write(changes)
            return len(changes)

        with suppress(StillLockedError, IntegrityError):  # the next comparison finds it
            self.report.rewritten += self.access.run(work, attempts=1)

    def changes(self, page: Page, failures: list[Failed]) -> list[tuple[RowKey, str | None]]:
        """Return the keys of the rows whose digest is not that of their secret, and the right digests."""
        secrets, unread = self._secrets(page, failures), {key for key, *_ in failures}
        changes = []
        for key, secret, stored in zip(page.keys, secrets, page.values[1], strict=True):
            if key in unread:
                continue
            try:
                digest = self.digest(secret)
            except SealchemyError as error:
                failures.append((key, self.secret, error))
                continue
            if digest != stored:
                changes.append((key, digest))
        return changes

    def _secrets(self, page: Page, failures: list[Failed]) -> list[Any]:
        stored = page.values[0]
        places = [
            place for place, value in enumerate(stored) if not (self.reads_plaintext and type(value) is SecretString)
        ]
        some = page if len(places) == len(page) else page.take(places)
        some = replace(some, values=some.values[:1])
        (plaintexts,) = self.columns.authenticate(some, lambda *failure: failures.append(failure))
        if some.keys == page.keys:
            return plaintexts
        secrets = list(stored)
        for place, plaintext in zip(places, plaintexts, strict=True):
            secrets[place] = plaintext
        return secrets

    def _write(self, changes: Sequence[tuple[RowKey, str | None]]) -> None:
        found = [(key, digest) for key, digest in changes if digest is not None]
        if found:
            keys, digests = zip(*found, strict=True)
            self.writer()(keys, [digests], {})
        if cleared := [key for key, digest in changes if digest is None]:
            names = [f"sealchemy_k{at}" for at in range(len(self.target.key))]
            same = [item == bindparam(name) for item, name in zip(self.target.key, names, strict=True)]
            values = {self.name: null()} | self.access.database.unchanged(self.access.connection, self.target)
            rows = [dict(zip(names, key, strict=True)) for key in cleared]
            self.access.connection.execute(update(self.target.table).where(*same).values(values), rows)


def _part(target: Target, at: int) -> Target:
    """Return a target with one of its two columns."""
    return replace(
        target,
        columns=target.columns[at : at + 1],
        contexts=target.contexts[at : at + 1],
        kinds=target.kinds[at : at + 1],
        types=target.types[at : at + 1],
        bind_to=target.bind_to[at : at + 1],
    )


def add_column(access: Access, name: str) -> None:
    """Add the column of an index to an open table."""
    quote = access.connection.dialect.identifier_preparer
    table = quote.format_table(access.target.table)
    sql = f"ALTER TABLE {table} ADD COLUMN {quote.quote(name)} VARCHAR(64)"
    access.change_definition(lambda: access.connection.exec_driver_sql(sql))


def count_missing(access: Access, columns: IndexColumns) -> int:
    """Return the number of rows that have a secret and no digest."""
    table = sa_table(
        access.target.table.name, column(columns.secret), column(columns.column), schema=access.target.table.schema
    )
    query = select(func.count()).select_from(table)
    query = query.where(table.c[columns.secret].is_not(None), table.c[columns.column].is_(None))
    with access.transaction(write=False):
        return access.connection.scalar(query) or 0


def find_problem(access: Access, columns: IndexColumns) -> str | None:
    """Return what is wrong with an index, by its missing digests and one row that has one."""
    missing, run, target = count_missing(access, columns), _Fill(access, columns, Options(), None), access.target
    with access.transaction(write=False):
        last = run.pages.last()
        page = run.pages.read(run.pages.select((None, last), 1, target.columns[1].is_not(None)), 1)[0] if last else None
        is_wrong = page is not None and bool(run.changes(page, []))
    if is_wrong:
        return (
            f"{target.name}.{columns.column}: a digest is not that of its secret: the index key or the normalize"
            " function is another one (put the old one back, or reindex if it was changed on purpose), or a release"
            " that does not know the index wrote the row; `sealchemy verify` names all such rows"
        )
    if missing:
        return f"{target.name}.{columns.column}: {missing} rows have no digest, so lookups miss them; {_AGAIN}"
    return None
