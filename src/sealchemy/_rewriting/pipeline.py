"""Rewrite on three connections at the same time: while the server works for some, this process encrypts for another.

Each further one belongs to a thread. All of them take one range of the table after the other, large ones first: a range
takes a while to begin, and in the end none should wait for long for the others.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from contextvars import copy_context
from functools import partial
from math import inf
from queue import SimpleQueue
from threading import Event, Lock, Thread, current_thread
from typing import TypeAlias

from sqlalchemy import Engine
from sqlalchemy.pool import NullPool, QueuePool

from sealchemy._databases.access import Access, open_table

from .options import Options
from .ranges import Range, split
from .report import Report
from .walk import Step

_LEAST_SIZE = 16_000_000  # bytes of a table for which it is worth it
_PARTS = 64
_FURTHER_CONNECTIONS = 2  # encryption keeps one core busy with these; a fourth connection adds nothing
_SECONDS_BETWEEN_LOOKS = 0.2
_SECONDS_FOR_CONNECTING = 1.0

logger = logging.getLogger("sealchemy")

Tell: TypeAlias = Callable[[Step], None]
Cross: TypeAlias = Callable[[Access, str, Tell, Callable[[Report], None]], None]
"""It crosses a range of the table, tells each step, and reports in the end, also if that is an error."""


class Pipeline:
    """A run on several connections."""

    def __init__(self, access: Access, options: Options, interrupted: Event, report: Report) -> None:
        """Prepare it; `is_possible` finds the ranges."""
        self._access, self._options, self._interrupted, self._report = access, options, interrupted, report
        self._further = 0
        self._parts: deque[Range] = deque()
        self._lock = Lock()
        self._identity = ""
        self._steps: SimpleQueue[Step] = SimpleQueue()
        self._reports: list[Report] = []
        self._errors: list[BaseException] = []
        self._working: set[Thread] = set()
        self._has_warned = False

    def is_possible(self) -> bool:
        """Return whether the pool has another connection, and the table is large enough.

        A run with limits, or one that rests, has one connection.
        """
        options, connection = self._options, self._access.connection
        is_whole = options.range is None and options.shard is None and options.max_rows is None
        rests = options.pause or options.nice
        for_throttle = 0 if options.max_lag is None and options.max_wal_retained is None else 1
        self._further = int(min(_free_connections(connection.engine), _FURTHER_CONNECTIONS)) - for_throttle
        if not is_whole or rests or not self._access.owns_connection or self._further < 1:
            return False
        size = partial(self._access.database.parallel.size, connection, self._access.target)
        if self._access.run(size, write=False) >= _LEAST_SIZE:
            self._parts.extend(split(self._access, _PARTS))
            self._identity = self._access.run(self._access.identity, write=False)
        return len(self._parts) > 1

    def run(self, cross: Cross, tell: Tell) -> None:
        """Cross the whole table, and add what happened to the report; `tell` is called in this thread."""
        threads: list[Thread] = []
        try:
            for _ in range(self._further):
                thread = Thread(target=copy_context().run, args=(self._work_on_another, cross), daemon=True)
                thread.start()
                threads.append(thread)
            self._work(self._access, cross, partial(self._tell, tell))
            self._join(threads, tell)
        except BaseException as error:
            self._interrupted.set()
            if isinstance(error, Exception):  # after a second Ctrl-C, nothing is waited for
                self._join(threads, _ignore)
            raise
        finally:
            self._tell_of_others(_ignore)
            for report in self._reports:
                self._report.add(report)
        for raised in self._errors:
            raise raised

    def _join(self, threads: Sequence[Thread], tell: Tell) -> None:
        """Wait for those that have work, and a moment for those that still connect, as nothing is left for them."""
        with self._lock:
            self._parts.clear()
        deadline = time.monotonic() + _SECONDS_FOR_CONNECTING
        for thread in threads:
            while thread.is_alive() and (thread in self._working or time.monotonic() < deadline):
                thread.join(_SECONDS_BETWEEN_LOOKS)
                self._tell_of_others(tell)
        self._tell_of_others(tell)

    def _tell(self, tell: Tell, step: Step) -> None:
        self._report.rewritten += step.written
        tell(step)
        self._tell_of_others(tell)

    def _tell_of_others(self, tell: Tell) -> None:
        while not self._steps.empty():
            step = self._steps.get()
            self._report.rewritten += step.written
            tell(step)

    def _work(self, access: Access, cross: Cross, tell: Tell) -> None:
        while not self._interrupted.is_set() and (next_range := self._take()):
            cross(access, str(next_range), tell, self._reports.append)

    def _take(self) -> Range | None:
        """Return a share of what is left, at least one part; None at the end."""
        with self._lock:
            count = max(len(self._parts) // (self._further + 2), 1)
            taken = [self._parts.popleft() for _ in range(min(count, len(self._parts)))]
            if taken:
                self._working.add(current_thread())
        return Range(taken[0].low, taken[-1].high) if taken else None

    def _work_on_another(self, cross: Cross) -> None:
        first = self._access
        with ExitStack() as stack:
            try:
                another = stack.enter_context(open_table(first.connection.engine, first.wanted, first.lock_timeout))
                identity = another.run(another.identity, write=False)
            except Exception as error:  # noqa: BLE001 - the first connection goes on, and meets what is the matter
                if not self._has_warned:
                    self._has_warned = True
                    logger.warning("%s: fewer connections (%s)", first.target.name, type(error).__name__)
                return
            try:
                if identity == self._identity:
                    self._work(another, cross, self._steps.put)
            except BaseException as error:  # noqa: BLE001 - it is raised in the first thread
                self._errors.append(error)
                self._interrupted.set()


def _ignore(_step: Step) -> None:
    pass


def _free_connections(engine: Engine) -> float:
    pool = engine.pool
    if engine.dialect.is_async or type(pool) not in {NullPool, QueuePool}:
        return 0
    if isinstance(pool, QueuePool) and pool._max_overflow >= 0:  # noqa: SLF001 - it has no public name
        return pool.size() + pool._max_overflow - pool.checkedout()  # noqa: SLF001
    return inf
