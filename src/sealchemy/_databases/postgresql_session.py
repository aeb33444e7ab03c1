"""The session of a connection to PostgreSQL, and how it ends."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, OperationalError

from .base import TransactionOptions

_ENDED = {"57P01", "57P02", "57P03", "57P05", "25P03", "53300", "08000", "08001", "08003", "08004", "08006"}
_SETTINGS = {
    "row_security": "off",  # rows that this user may not see would silently stay plaintext
    "extra_float_digits": "3",  # fewer digits of a float would name another row
    "DateStyle": "ISO",  # psycopg reads no other style
}
_NO_LIMITS = {"statement_timeout": "0", "idle_in_transaction_session_timeout": "0"}
_SETTINGS_OF_A_WALK = {
    **dict.fromkeys(("enable_seqscan", "enable_bitmapscan", "enable_sort", "enable_incremental_sort", "jit"), "off"),
    "max_parallel_workers_per_gather": "0",
}
"""With old statistics, the planner would read and sort the whole table for every step."""


def begin(connection: sa.Connection, options: TransactionOptions) -> None:
    """Set what lasts for this transaction only: a pooler may give the session to another client next."""
    if options.snapshot:
        connection.execute(sa.text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
    timeout = f"{max(round(options.lock_timeout * 1000), 1)}ms"
    connection.execute(_set_settings(owned=options.owned, walk=options.walk), {"timeout": timeout})


@cache
def _set_settings(*, owned: bool, walk: bool) -> sa.TextClause:
    settings = _SETTINGS | (_NO_LIMITS if owned else {}) | (_SETTINGS_OF_A_WALK if walk else {})
    each = ", ".join(f"set_config('{name}', '{value}', true)" for name, value in settings.items())
    return sa.text(f"SELECT set_config('lock_timeout', :timeout, true), {each}")


def lift_limits(connection: sa.Connection) -> None:
    """Let the statements of a transaction take as long as they need."""
    connection.execute(sa.text("SELECT set_config('statement_timeout', '0', true)"))


@contextmanager
def unprepared(connection: sa.Connection) -> Iterator[None]:
    """Prepare no statements: behind a pooler, another session would not know them."""
    driver: Any = connection.connection.driver_connection
    before = getattr(driver, "prepare_threshold", None)
    if before is not None:
        driver.prepare_threshold = None
    try:
        yield
    finally:
        if before is not None:
            driver.prepare_threshold = before


def is_lost(error: DBAPIError) -> bool:
    """Return whether it is a lost or refused connection, or a session that was ended."""
    state = sqlstate(error)
    return state in _ENDED if state else isinstance(error, OperationalError)  # psycopg has no code for a closed socket


def sqlstate(error: DBAPIError) -> str | None:
    """Return the five characters with which PostgreSQL identifies an error."""
    return getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None)
