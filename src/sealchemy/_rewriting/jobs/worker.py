"""The process of one worker of `processes.py`: `python -m sealchemy._rewriting.jobs.worker`.

Standard input brings a line of settings, then a range on each line; its end stops the work after the transaction that
it is in. Standard output takes the messages; what others print goes to standard error.
"""

import logging
import os
import pickle
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Lock, Thread
from typing import Any, BinaryIO

from sqlalchemy.exc import DBAPIError

from sealchemy._databases.access import database_of, open_table
from sealchemy._databases.async_drivers import NeedsEventLoopError, run
from sealchemy._databases.table import TableColumns
from sealchemy._rewriting.conversions import CONVERSIONS
from sealchemy._rewriting.options import Options
from sealchemy._rewriting.pages import Span
from sealchemy._rewriting.problems import explaining
from sealchemy._rewriting.report import Report
from sealchemy._rewriting.run import Run
from sealchemy._rewriting.throttle import Throttle
from sealchemy._rewriting.walk import Step
from sealchemy.errors import SealchemyError

from . import carried
from .messages import Committing, Crossed, Finished, Logged, Message, Refused, Unavailable

Send = Callable[[Message], None]


class RangeRun(Run):
    """The first walk over one range; what it leaves is done by the process that started this one."""

    send: Send

    def cross(self) -> Report:
        """Cross the range, and return the report."""
        explaining(partial(self.first_walk, self._announced), self.access, self.conversion, None)
        return self.report

    def _announced(self, span: Span, count: int, limit: int) -> Step:
        step = self.steps.rewrite_and_authenticate(span, count, limit)
        if step.written:
            self.send(Committing(self.database.parallel.transaction_id(self.access.connection), step.written))
        return step


class _Handler(logging.Handler):
    """Sends what sealchemy logs."""

    def __init__(self, send: Send) -> None:
        super().__init__()
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        self._send(Logged(record.levelno, record.getMessage()))


def main() -> None:
    """Work until standard input ends, or until the parent process is gone."""
    with suppress(BrokenPipeError), os.fdopen(os.dup(1), "wb") as output:
        os.dup2(2, 1)
        send = partial(_send, output, Lock())
        given = carried.parse(sys.stdin.buffer.readline().decode())
        logger = logging.getLogger("sealchemy")
        logger.addHandler(_Handler(send))
        logger.setLevel(given["log_level"])
        logger.propagate = False
        ranges: SimpleQueue[str | None] = SimpleQueue()
        interrupted = Event()
        Thread(target=_read, args=(ranges, interrupted), daemon=True).start()
        work = partial(_work, given, ranges, interrupted, send)
        try:
            try:
                work()
            except NeedsEventLoopError:  # nothing has been done by then
                run(work)
        except SealchemyError as error:
            send(Refused(type(error).__name__, str(error)))
        except BrokenPipeError:
            raise
        except Exception as error:  # noqa: BLE001 - its text may be a value
            frame = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{type(error).__name__} at {Path(frame.filename).name}:{frame.lineno}"
            send(Refused("RewriteError", f"a process of this run failed: {where}"))


def _send(output: BinaryIO, lock: Lock, message: Message) -> None:
    with lock:
        pickle.dump(message, output)
        output.flush()


def _read(ranges: SimpleQueue[str | None], interrupted: Event) -> None:
    try:
        for line in sys.stdin.buffer:
            ranges.put(line.decode())
    finally:
        interrupted.set()
        ranges.put(None)


def _work(given: Mapping[str, Any], ranges: SimpleQueue[str | None], interrupted: Event, send: Send) -> None:
    conversion, options = CONVERSIONS[given["conversion"]], Options(**given["options"])
    engine = carried.make_carried_engine(given)
    with ExitStack() as stack:
        try:
            access = stack.enter_context(open_table(engine, TableColumns(**given["table"]), options.lock_timeout))
        except DBAPIError as error:
            if not database_of(engine.dialect).is_lost(error):
                raise
            send(Unavailable(str(error)))
            return
        carried.require_same(access, given)
        throttle = Throttle(access, options, interrupted)
        for line in iter(ranges.get, None):
            range_run = RangeRun(access, conversion, replace(options, range=line), interrupted)
            range_run.throttle = throttle
            range_run.send = send
            range_run.on_step = lambda step: send(Crossed(step.rows, step.written))
            send(Finished(range_run.cross()))


if __name__ == "__main__":
    main()
