"""Cross a table in several processes, each of which takes one range after the other; `worker.py` is their other end.

A process that is killed loses nothing: another one takes its range. What it committed without having said so is asked
of the database, so that the counts are those of the table.
"""

import logging
import os
import pickle
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import Any, cast

from sealchemy import errors
from sealchemy._databases.access import Access
from sealchemy._rewriting.conversions import Conversion
from sealchemy._rewriting.options import Options
from sealchemy._rewriting.ranges import split
from sealchemy._rewriting.report import Report
from sealchemy._rewriting.walk import Step
from sealchemy._values.secret import hide
from sealchemy.errors import RewriteError, SealchemyError, UnsupportedOperationError

from . import carried
from .messages import Committing, Crossed, Finished, Logged, Message, Refused, Unavailable

_RANGES = 64  # so that the processes end at about the same time
_TRIES = 3
_SECONDS_BETWEEN_LOOKS = 0.2
_SECONDS_UNTIL_THE_SERVER_NOTICES = 60.0  # that a client is gone

logger = logging.getLogger("sealchemy")

Tell = Callable[[Step], None]


class _Worker:
    """A process, the range that it works on, and what it has said about that."""

    def __init__(self, pack: Callable[[], str], inbox: "SimpleQueue[tuple[_Worker, Message | None]]") -> None:
        self.range: str | None = None
        self.rows = 0
        self.problem: str | None = None
        self.committing: list[Committing] = []
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "sealchemy._rewriting.jobs.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))},
            start_new_session=True,  # so that Ctrl-C interrupts this process alone, which stops the others
        )
        self.send(hide(pack()))
        Thread(target=self._read, args=(inbox,), daemon=True).start()

    def send(self, line: str) -> None:
        """Write a line to it; if it is gone, its output ends as well."""
        with suppress(OSError):
            cast("Any", self.process.stdin).write(f"{line}\n".encode())
            cast("Any", self.process.stdin).flush()

    def stop(self) -> None:
        """Let it end after the transaction that it is in."""
        with suppress(OSError):
            cast("Any", self.process.stdin).close()

    def _read(self, inbox: "SimpleQueue[tuple[_Worker, Message | None]]") -> None:
        with suppress(Exception):  # what a killed process wrote may end anywhere
            while True:
                inbox.put((self, pickle.load(cast("Any", self.process.stdout))))  # noqa: S301 - our own process
        inbox.put((self, None))

    def end(self, *, kill: bool = False) -> int:
        """Wait for its end, and return its exit status."""
        if kill:
            self.process.kill()
        self.stop()
        status = self.process.wait()
        with suppress(OSError):
            cast("Any", self.process.stdout).close()
        return status


class Jobs:
    """The processes of one run."""

    def __init__(
        self, access: Access, conversion: Conversion, options: Options, interrupted: Event, report: Report
    ) -> None:
        """Prepare them; nothing is started.

        Raises:
            UnsupportedOperationError: another kind of database, a connection in place of an engine, or an engine that
                cannot be made again elsewhere.
        """
        if not access.owns_connection:
            raise UnsupportedOperationError(
                f"{access.target.name}: jobs work on connections of their own; pass the engine, or leave jobs out"
            )
        if not sys.executable or getattr(sys, "frozen", False):
            raise UnsupportedOperationError("jobs: this program is not run by a Python interpreter; leave jobs out")
        self._access, self._jobs, self._interrupted, self._report = access, options.jobs, interrupted, report
        self._waiting = deque(map(str, split(access, _RANGES)))
        self._pack = partial(carried.pack, access, conversion, options)
        self._pack()  # refuses what cannot be carried
        self._workers: list[_Worker] = []
        self._inbox: SimpleQueue[tuple[_Worker, Message | None]] = SimpleQueue()
        self._deaths: Counter[str] = Counter()
        self._uncertain: list[Committing] = []
        self._refused: Refused | None = None
        self._is_stopping = False

    def run(self, tell: Tell) -> None:
        """Cross the whole table, and add what happened to the report.

        Raises:
            RewriteError: an error in one range, or a process that ended three times there; the others are stopped.
        """
        try:
            for _ in range(min(self._jobs, len(self._waiting))):
                self._start()
            while self._workers or (self._waiting and not self._is_stopping):
                if not self._workers:  # one could not connect, and the others had ended
                    self._start()
                if self._interrupted.is_set() and not self._is_stopping:
                    logger.warning("%s: ending after the transactions that have begun", self._report.table)
                    self._stop()
                with suppress(Empty):
                    self._take(*self._inbox.get(timeout=_SECONDS_BETWEEN_LOOKS), tell)
        finally:
            for worker in self._workers:
                worker.end(kill=True)
        self._report.rewritten += sum(item.written for item in self._uncertain if self._is_committed(item))
        if self._refused is not None:
            raise _error_of(self._refused, self._report)

    def _start(self) -> None:
        try:
            worker = _Worker(self._pack, self._inbox)
        except OSError as error:
            problem = f"a process cannot be started: {error.strerror}"
        else:
            self._workers.append(worker)
            self._assign(worker)
            return
        raise RewriteError(f"{self._report.table}: {problem}; what was done stays done")

    def _assign(self, worker: _Worker) -> None:
        worker.range, worker.rows = None, 0
        if self._waiting and not self._is_stopping:
            worker.range = self._waiting.popleft()
            worker.send(worker.range)
        else:
            worker.stop()

    def _stop(self) -> None:
        if not self._is_stopping:
            self._is_stopping = True
            for worker in self._workers:
                worker.stop()

    def _take(self, worker: _Worker, message: Message | None, tell: Tell) -> None:
        if isinstance(message, Committing):
            worker.committing.append(message)
        elif isinstance(message, Crossed):
            if message.written:
                worker.committing.pop()
            worker.rows += message.rows
            self._report.rewritten += message.written
            tell(Step((), message.rows, written=message.written))
        elif isinstance(message, Finished):
            self._report.add(message.report)
            self._assign(worker)
        elif isinstance(message, Logged):
            logger.log(*message)
        elif isinstance(message, Unavailable):
            worker.problem = message.text
        elif isinstance(message, Refused):
            self._fail(message)
        else:
            self._ended(worker, tell)

    def _ended(self, worker: _Worker, tell: Tell) -> None:
        self._workers.remove(worker)
        status = worker.end()
        self._uncertain += worker.committing
        if worker.range is None or self._is_stopping:
            return
        tell(Step((), -worker.rows))
        self._waiting.appendleft(worker.range)
        problem = f"{self._report.table}: the process for the range {worker.range} ended with status {status}"
        if worker.problem is not None:
            problem = worker.problem
            if not self._workers:
                self._fail(Refused("RewriteError", problem))
                return
            logger.warning("%s; the other processes go on", problem)
            return
        self._deaths[worker.range] += 1
        if self._deaths[worker.range] == _TRIES:
            self._fail(Refused("RewriteError", f"{problem}, {self._deaths[worker.range]} times"))
            return
        logger.warning("%s; another one takes it", problem)
        self._start()

    def _fail(self, refused: Refused) -> None:
        self._refused = self._refused or refused
        self._stop()

    def _is_committed(self, item: Committing) -> bool:
        """Return whether a transaction was committed; the server may take a while to see that its client is gone."""
        database, connection = self._access.database, self._access.connection
        deadline = time.monotonic() + _SECONDS_UNTIL_THE_SERVER_NOTICES
        while True:
            status = self._access.run(
                partial(database.parallel.transaction_status, connection, item.transaction), write=False
            )
            if status != "in progress":
                return status == "committed"
            if time.monotonic() >= deadline:
                logger.warning("%s: it is not known whether %d rows were done", self._report.table, item.written)
                return False
            time.sleep(_SECONDS_BETWEEN_LOOKS)


def _error_of(refused: Refused, report: Report) -> SealchemyError:
    class_: type[SealchemyError] = getattr(errors, refused.error, RewriteError)
    done = f"; {report.rewritten} rows were done before and stay done" if class_ is RewriteError else ""
    return class_(f"{refused.text}{done}")
