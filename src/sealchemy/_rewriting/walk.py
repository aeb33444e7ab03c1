"""`Walk`: cross a table along its primary key, one transaction after the other, or look through it in one."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from threading import Event
from typing import NamedTuple, TypeAlias

from sqlalchemy import ColumnElement

from sealchemy._databases.access import Access
from sealchemy._databases.table import RowKey
from sealchemy.errors import SealchemyError

from .interrupt import collector_paused
from .page import BATCH_BYTES
from .pages import Pages, Span

_LONGEST_STEP = 100_000
_SECONDS = 0.1

Failed: TypeAlias = tuple[RowKey, str, SealchemyError]
"""The key and the column of a value that cannot be read, and why."""


class Step(NamedTuple):
    """What one transaction of a walk did.

    Attributes:
        high: the key up to which it went.
        rows: how many rows it read.
        size: the bytes of their values.
        is_full: whether it ended early, because a transaction takes no more.
        found: whether a row was pending.
        written: how many rows it wrote.
        pending: the keys of rows that it left to be done.
        failures: the values that it could not read.
    """

    high: RowKey
    rows: int = 0
    size: int = 0
    is_full: bool = False
    found: bool = False
    written: int = 0
    pending: Sequence[RowKey] = ()
    failures: Sequence[Failed] = ()


class StepSize:
    """How many rows the next step of a walk crosses: what takes a tenth of a second, and fits into memory."""

    def __init__(self, least: int) -> None:
        self.rows = self._least = least
        self._seconds = 0.0

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Measure a step."""
        began = time.monotonic()
        yield
        self._seconds = time.monotonic() - began

    def adapt(self, rows: int, size: int, *, is_full: bool) -> None:
        """Learn from a step: how many rows it read, their bytes, and whether it ended early."""
        factor = min(max(_SECONDS / max(self._seconds, 0.001), 0.5), 2)
        self.rows = self._least if is_full else min(max(round(self.rows * factor), self._least), _LONGEST_STEP)
        if size:
            self.rows = max(min(self.rows, BATCH_BYTES * rows // size), 1)


class Walk:
    """A walk over the rows of a table, or of a range, up to the one that is last when it begins."""

    def __init__(self, access: Access, pages: Pages, batch_size: int, interrupted: Event) -> None:
        self._access, self._pages, self._size, self._interrupted = access, pages, StepSize(batch_size), interrupted

    def read(self, work: Callable[[Span, int], Step]) -> Iterator[Step]:
        """Yield what a function does with one part of the table after the other.

        It is given what is left of the table, and how many rows of that to cross.
        """
        return self._steps(
            lambda span, count: self._in_transaction(partial(work, span, count), write=False), self._last()
        )

    def has(self, where: ColumnElement[bool]) -> bool:
        """Return whether there is such a row, in a snapshot where possible: a row whose key changes is not missed."""
        access, find = self._access, partial(self._find, where)
        if not (access.owns_connection and access.database.has_snapshots):
            return any(step.found for step in self.read(find))

        def look() -> bool | None:
            if access.database.parts.are_short and self._pages.is_whole:
                is_found = any(self._until_interrupted(self._pages.has_in_parts(where)))
            else:
                is_found = any(step.found for step in self._steps(find, self._pages.last()))
            if is_found or not access.database.parts.are_replaced(access.connection, access.target):
                return is_found
            return None  # its rows are not in this snapshot

        while (found := access.run(look, write=False, walk=True, snapshot=True)) is None:
            pass
        return found

    def _until_interrupted(self, found: Iterator[bool]) -> Iterator[bool]:
        for item in found:
            yield item
            if self._interrupted.is_set():
                return

    def _find(self, where: ColumnElement[bool], span: Span, count: int) -> Step:
        span = self._pages.start(span, count)
        return Step(span[1], found=self._pages.has(span, where))

    def write(self, work: Callable[[Span, int, int], Step], limit: Callable[[], int]) -> Iterator[Step]:
        """Do the same with a function that writes, and is given how many rows it may.

        Where only one may write at a time, it is called with 0 first, and writes only if it found something then.
        """

        def step(span: Span, count: int) -> Step:
            most = limit()
            if not most or not self._access.database.locks_rows:
                found = self._in_transaction(partial(work, span, count, 0), write=False)
                if not most or not found.found:
                    return found
            return self._in_transaction(partial(work, span, count, most), write=True)

        return self._steps(step, self._last())

    def _last(self) -> RowKey | None:
        return self._access.run(self._pages.last, write=False, walk=True)

    def _steps(self, work: Callable[[Span, int], Step], last: RowKey | None) -> Iterator[Step]:
        low = self._pages.first
        while last is not None and low != last and not self._interrupted.is_set():
            with self._size.timed():
                step = work((low, last), self._size.rows)
            self._size.adapt(step.rows, step.size, is_full=step.is_full)
            yield step
            low = step.high

    def _in_transaction(self, work: Callable[[], Step], *, write: bool) -> Step:
        with collector_paused():
            return self._access.run(work, write=write, walk=True)
