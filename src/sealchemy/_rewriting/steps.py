"""`Steps`: what one transaction of a walk does to a part of a table."""

from collections.abc import Mapping
from functools import cache, partial
from typing import Any, NoReturn

from sqlalchemy import ColumnElement

from sealchemy._databases.access import Access
from sealchemy._databases.table import RowKey
from sealchemy.errors import RewriteError

from .columns import Columns, Written
from .page import Page
from .pages import Pages, Span
from .walk import Failed, Step

_KEYS_IN_A_STATEMENT = 500  # SQLite takes no more than 32 766 parameters


class Steps:
    """The steps over one table. Each crosses so many rows of what is left of the table, and is one transaction."""

    def __init__(
        self, access: Access, pages: Pages, columns: Columns, is_pending: ColumnElement[bool], batch_size: int
    ) -> None:
        self._access, self._target, self._database = access, access.target, access.database
        self._pages, self._columns, self._is_pending, self._batch_size = pages, columns, is_pending, batch_size
        self._had_nothing_to_write = False
        self._writer = cache(partial(self._database.writer, access.connection, access.target))

    def count(self, span: Span, count: int) -> Step:
        span = self._pages.start(span, count)
        return Step(span[1], rows=self._pages.count_within(span))

    def skip(self, span: Span, count: int) -> Step:
        """Cross rows without reading them."""
        return Step(self._pages.start(span, count)[1])

    def look(self, span: Span, count: int) -> Step:
        """Report the rows that are pending, and the values of such rows that cannot be read."""
        span = self._pages.start(span, count)
        limit = self._batch_size
        page, is_full = self._pages.read(self._pages.select(span, limit, self._is_pending), limit)
        failures: list[Failed] = []
        pending = self._columns.survey(page, lambda *failure: failures.append(failure))
        high = page.keys[-1] if is_full else span[1]
        return Step(high, is_full=is_full, found=len(page) > 0, pending=pending, failures=failures)

    def rewrite(self, span: Span, count: int, limit: int) -> Step:
        """Rewrite the pending rows that no other session has locked."""
        span = self._pages.start(span, count)
        found = self._pages.has(span, self._is_pending)
        if not found or not limit:
            return Step(span[1], found=found)
        page, written, is_full = self._write(span, limit)
        self._compare_by_keys(written, _places(written))
        high = page.keys[-1] if is_full else span[1]
        return Step(high, is_full=is_full, found=True, written=len(written.keys))

    def rewrite_and_authenticate(self, span: Span, count: int, limit: int) -> Step:
        """Do the same, then decrypt every value there, as the database has it after its triggers.

        Where the last step had nothing to write, the next one is only read, unless it turns out to have something.
        """
        if self._had_nothing_to_write:
            step = self.survey(span, count)
            if not (step.pending or step.failures):
                return step
        self._had_nothing_to_write = False
        span = self._pages.start(span, count)
        if not limit and self._pages.has(span, self._is_pending):
            return Step(span[1], found=True)
        page, written, is_full = self._write(span, limit) if limit else (None, Written((), (), ()), False)
        span = (span[0], page.keys[-1] if page and is_full else span[1])
        failures: list[Failed] = []
        rows, size = self._read_back(span, written, failures)
        if failures:  # those of rows that are pending are reported once, at the end
            pending = set(self._pages.keys(span, self._is_pending)) if self._access.owns_connection else None
            failures = [item for item in failures if pending is not None and item[0] not in pending]
        self._had_nothing_to_write = not written.keys
        return Step(span[1], rows, size, is_full=is_full, written=len(written.keys), failures=failures)

    def _write(self, span: Span, limit: int) -> tuple[Page, Written, bool]:
        """Write the rows of a span that are pending; return them, what changed, and whether there were too many."""
        page, is_full = self._pages.read(self._pages.select(span, limit, self._is_pending, lock=True), limit)
        written = self._columns.convert(page)
        self._store(written, self._pages.within(has_low=span[0] is not None), self._pages.bounds(span))
        return page, written, is_full

    def _store(self, written: Written, within: tuple[ColumnElement[bool], ...], parameters: Mapping[str, Any]) -> None:
        if written.keys:
            self._writer(within)(written.keys, written.stored, parameters)
            if self._access.owns_connection:  # in the caller's transaction, that is the caller's choice
                self._database.flush(self._access.connection)

    def _read_back(self, span: Span, written: Written, failures: list[Failed]) -> tuple[int, int]:
        """Authenticate all rows of a span, and return their number and size."""
        page = self._pages.fetch(self._pages.select(span))
        small, large = page.split()
        missing = _places(written)
        self._compare(small, written, missing, failures)
        for keys in large:
            self._compare(self._pages.rows(keys), written, missing, failures)
        self._compare_by_keys(written, missing)
        return len(page), sum(page.sizes)

    def _compare_by_keys(self, written: Written, missing: dict[RowKey, int]) -> None:
        """Compare the rows that were not seen yet, wherever they are."""
        keys = list(missing)
        for start in range(0, len(keys), _KEYS_IN_A_STATEMENT):
            self._compare(self._pages.rows(keys[start : start + _KEYS_IN_A_STATEMENT]), written, missing, [])
        for key in missing:
            self._refuse(key, 0)

    def _compare(self, page: Page, written: Written, missing: dict[RowKey, int], failures: list[Failed]) -> None:
        """Decrypt what the database has now: a server may cut a value, or a trigger change it, silently.

        The rows that were seen are removed from `missing`.
        """
        plaintexts = self._columns.authenticate(page, lambda *failure: failures.append(failure))
        if page.keys == written.keys and plaintexts == written.plaintexts:
            missing.clear()
        if not missing:
            return
        for place, key in enumerate(page.keys):
            row = missing.pop(key, None)
            for index, expected in enumerate(written.plaintexts if row is not None else ()):
                plaintext = expected[row or 0]
                if plaintext is not None and not self._columns.is_same(index, plaintexts[index][place], plaintext):
                    self._refuse(key, index)

    def _refuse(self, key: RowKey, index: int) -> NoReturn:
        raise RewriteError(
            f"{self._target.name}.{self._target.columns[index].name}, primary key {key}: the database does not keep the"
            " new value (a column that is too short, or a trigger?); nothing is lost, this batch was rolled back"
        )

    def survey(self, span: Span, count: int) -> Step:
        page, is_full = self._pages.read(self._pages.select(span, count), count)
        failures: list[Failed] = []
        pending = self._columns.survey(page, lambda *failure: failures.append(failure))
        high = page.keys[-1] if is_full else span[1]
        return Step(high, len(page), sum(page.sizes), pending=pending, failures=failures)

    def rewrite_row(self, key: RowKey, *, wait: bool) -> int:
        """Rewrite the row with a key, and return whether it changed, as a number of rows."""
        page = self._pages.complete(self._pages.lock_row(key, wait=wait))
        written = self._columns.convert(page)
        self._store(written, (), {})
        self._compare_by_keys(written, _places(written))
        return len(written.keys)


def _places(written: Written) -> dict[RowKey, int]:
    return {key: place for place, key in enumerate(written.keys)}
