"""Fill the blind index of a table that has rows, or compare it: every row, whatever its index has.

A release that does not know the index replaces secrets and leaves their old digests behind. So a digest that is there
proves nothing: each secret is decrypted and hashed again.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache, partial
from types import MappingProxyType
from typing import Any, NamedTuple

from sqlalchemy import bindparam, column, func, null, select, update
from sqlalchemy import table as sa_table

from sealchemy._column.blind_index.index_type import BlindIndex
from sealchemy._column.engine_keys import engine_keys
from sealchemy._databases.access import Access, StillLockedError
from sealchemy._databases.table import RowKey, TableColumns, Target
from sealchemy._values.codecs import TEXT
from sealchemy._values.secret import SecretString
from sealchemy.errors import RewriteError, SealchemyError

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
    with interrupt_between_batches() as interrupted:
        run = _Fill(access, columns, options, progress)
        walk = partial(Walk, access, run.pages, options.batch_size, interrupted)
        try:
            return run.run(walk, interrupted)
        except RewriteError as error:
            error.report = error.report or run.report
            raise


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

    def run(self, walk: Callable[[], Walk], interrupted: Any) -> Report:
        self.access.require_text()
        if self.progress:
            self.total = sum(step.rows for step in walk().read(self.count))
        if not self.options.dry_run:
            self.access.require_transactions()
            for step in walk().write(self.step, lambda: self.options.batch_size):
                self.report.rewritten += step.written
                self._tell(step)
                interrupted.wait(self.options.pause if step.written else 0)
        pending: list[RowKey] = []
        for number in range(1 + FURTHER_PASSES):
            pending, failures = [], list[Failed]()
            for step in walk().read(self.compare):
                pending += step.pending
                failures += step.failures
                if self.options.dry_run:
                    self._tell(step)
            if self.options.dry_run or not pending or interrupted.is_set() or number == FURTHER_PASSES:
                break
            for key in pending:
                self._fill_row(key)
        self._finish(interrupted, pending, failures)
        return self.report

    def _finish(self, interrupted: Any, pending: Sequence[RowKey], failures: Sequence[Failed]) -> None:
        report, problems = self.report, list[str]()
        report.pending = len(pending)
        for failure in failures:
            report.add_failure(*failure)
        if interrupted.is_set():
            report.stopped = "interrupt"
            problems = [f"interrupted after {report.rewritten} rows, which stay done; run it again"]
        elif pending and not self.options.dry_run:
            problems.append(
                f"the digests of {len(pending)} rows are still missing or old, such as that of {pending[0]}: a release"
                " that does not know the index is still writing secrets, or rows are locked; end it, and run this again"
            )
        if report.failed:
            problems.append(report.describe_failures())
        if problems:
            raise RewriteError(f"{NAME} {report.table}.{self.name}: {'; '.join(problems)}", report)

    def _tell(self, step: Step) -> None:
        self.done += step.rows
        if self.progress and step.rows:
            self.progress(Progress(self.report.table, NAME, min(self.done, self.total), self.total))

    def count(self, span: Span, count: int) -> Step:
        span = self.pages.start(span, count)
        return Step(span[1], rows=self.pages.count_within(span))

    def step(self, span: Span, count: int, limit: int) -> Step:
        """Write the digests that differ; with a limit of 0, only tell whether there are some."""
        span = self.pages.start(span, count)
        most = limit or self.options.batch_size
        page, is_full = self.pages.read(self.pages.select(span, most, lock=bool(limit)), most)
        changes = self.changes(page, [])
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

        with suppress(StillLockedError):  # the next comparison finds it
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
    target = access.look_up(columns.wanted())
    missing, run = count_missing(access, columns), _Fill(replace(access, target=target), columns, Options(), None)
    with access.transaction(write=False):
        last = run.pages.last()
        page = run.pages.read(run.pages.select((None, last), 1, target.columns[1].is_not(None)), 1)[0] if last else None
        is_wrong = page is not None and bool(run.changes(page, []))
    if is_wrong:
        return (
            f"{target.name}.{columns.column}: a digest is not that of its secret: the index key or the normalize"
            " function is another one, or a release that does not know the index wrote the row; `sealchemy verify`"
            " counts such rows"
        )
    if missing:
        return f"{target.name}.{columns.column}: {missing} rows have no digest, so lookups miss them; {_AGAIN}"
    return None


def mismatch(columns: IndexColumns, report: Report) -> str:
    """Return a sentence about the rows of a comparison whose digest is missing or wrong."""
    return (
        f"{report.table}.{columns.column}: {report.pending} rows have a digest that is missing, or not that of"
        f" {columns.secret}: a release that does not know the index wrote them, or the index key or the normalize"
        f" function is another one; lookups miss these rows, or find wrong ones. {_AGAIN}"
    )
