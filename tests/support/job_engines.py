"""Engines that the processes of a run make themselves, as `Options(engine_factory=)` names them.

They find the database, the key and a folder in the environment.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from itertools import count
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event

from sealchemy import Key, KeyRing, Rollout, attach_key_ring


def plain() -> Engine:
    """Return an engine as any other."""
    engine = create_engine(os.environ["JOBS_URL"])
    print("what an application prints")  # noqa: T201 - it may
    return attach_key_ring(engine, KeyRing(primary=Key.parse(os.environ["JOBS_KEY"])), rollout=Rollout.MIGRATE)


def other_key() -> Engine:
    """Return an engine with a key that was just made."""
    return attach_key_ring(create_engine(os.environ["JOBS_URL"]), KeyRing(primary=Key.generate()))


def other_table() -> Engine:
    """Return an engine where the table is another one."""
    engine = create_engine(os.environ["JOBS_OTHER_URL"])
    return attach_key_ring(engine, KeyRing(primary=Key.parse(os.environ["JOBS_KEY"])), rollout=Rollout.MIGRATE)


def without_keys() -> Engine:
    """Return an engine without a key ring."""
    return create_engine(os.environ["JOBS_URL"])


def nothing() -> None:
    """Return no engine."""


def fails() -> Engine:
    """Raise an error."""
    raise LookupError("no such place")


def tells_its_key() -> Engine:
    """Raise an error that shows the key, as those of libraries for settings do."""
    raise ValueError(os.environ["JOBS_KEY"])


def ends() -> Engine:
    """End the process with an exception."""
    raise SystemExit(os.environ["JOBS_KEY"])


def fails_in_a_step() -> Engine:
    """Return an engine whose statements fail in a way that nobody foresaw."""
    engine = plain()

    @event.listens_for(engine, "before_cursor_execute")
    def fail(_connection: Connection, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("UPDATE t SET"):
            raise LookupError(os.environ["JOBS_KEY"])

    return engine


def killed_while_reading() -> Engine:
    """Return an engine whose process is killed once, in the middle of a range."""
    engine, statements = plain(), count()

    @event.listens_for(engine, "before_cursor_execute")
    def die(*_: Any) -> None:
        if next(statements) > 40 and _is_first(Path(os.environ["JOBS_FOLDER"], "killed")):
            os.kill(os.getpid(), signal.SIGKILL)

    return engine


def dies() -> Engine:
    """End the process."""
    os._exit(7)


def _killed_in_a_commit(*, commits: bool) -> Engine:
    engine = plain()

    @event.listens_for(engine, "commit")
    def die(connection: Connection) -> None:
        driver: Any = connection.connection.driver_connection
        wrote = driver.execute("SELECT pg_current_xact_id_if_assigned()").fetchone()[0]
        marker = Path(os.environ["JOBS_FOLDER"], "killed")
        if wrote is None or not _is_first(marker):
            return
        if commits:
            driver.commit()
        os.kill(os.getpid(), signal.SIGKILL)

    return engine


def killed_before_a_commit() -> Engine:
    """Return an engine whose process is killed once, when it has written rows and not committed them."""
    return _killed_in_a_commit(commits=False)


def killed_after_a_commit() -> Engine:
    """Return an engine whose process is killed once, when it has committed rows and not said so."""
    return _killed_in_a_commit(commits=True)


def loses_its_connection_in_a_commit() -> Engine:
    """Return an engine that once loses its connection after the commit of rows."""
    engine = plain()

    @event.listens_for(engine, "commit")
    def lose(connection: Connection) -> None:
        driver: Any = connection.connection.driver_connection
        wrote = driver.execute("SELECT pg_current_xact_id_if_assigned()").fetchone()[0]
        if wrote is not None and _is_first(Path(os.environ["JOBS_FOLDER"], "lost")):
            driver.pgconn.send_query(b"COMMIT")
            time.sleep(0.3)
            with socket.socket(fileno=os.dup(driver.fileno())) as connected:
                connected.shutdown(socket.SHUT_RDWR)

    return engine


def _is_first(marker: Path) -> bool:
    try:
        marker.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True
