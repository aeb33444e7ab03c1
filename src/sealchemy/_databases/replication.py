"""`Replication`: whether the standbys of a server keep up, on PostgreSQL."""

import logging
from typing import Any

import sqlalchemy as sa

from sealchemy.errors import UnsupportedOperationError

# `replay_lag` is that of the last WAL that was replayed: it counts only while there is more to replay.
_STANDBYS = sa.text("""
SELECT coalesce(nullif(application_name, ''), pid::text) || coalesce(' at ' || host(client_addr), '') AS name,
    replay_lsn < pg_current_wal_lsn() AS is_behind, extract(epoch FROM replay_lag) AS seconds
FROM pg_stat_replication WHERE replay_lsn IS NOT NULL
""")
_SLOTS = sa.text("""
SELECT slot_name, pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn) AS bytes
FROM pg_replication_slots WHERE restart_lsn IS NOT NULL ORDER BY bytes DESC LIMIT 1
""")
_MAY_SEE = sa.text("SELECT pg_has_role('pg_read_all_stats', 'USAGE')")

logger = logging.getLogger("sealchemy")


class Replication:
    """The limits of a run, and the standbys that it has seen: one that disappears is worth a warning."""

    def __init__(self, max_lag: float | None, max_wal_retained: int | None) -> None:
        """Take the seconds that a standby, and the bytes that a replication slot, may be behind."""
        self._max_lag, self._max_wal_retained = max_lag, max_wal_retained
        self._standbys: set[str] = set()

    def reason_to_wait(self, connection: sa.Connection) -> str | None:
        """Return which limit is exceeded, in a sentence; None if none is.

        Raises:
            UnsupportedOperationError: this role cannot see how far standbys are.
        """
        return self._lag(connection) or self._wal(connection)

    def _lag(self, connection: sa.Connection) -> str | None:
        if self._max_lag is None:
            return None
        if not connection.scalar(_MAY_SEE):  # it would see NULL, as of a standby that is not behind
            raise UnsupportedOperationError(
                "max_lag: this role cannot see how far the standbys are; GRANT pg_monitor TO it, or leave --max-lag out"
            )
        found: list[Any] = list(connection.execute(_STANDBYS))
        names = {row.name for row in found}
        for name in sorted(self._standbys - names):
            logger.warning("the standby %s is not connected any more, so its lag is not known", name)
        self._standbys = names
        for row in found:
            if row.is_behind and row.seconds is None:
                return f"the lag of the standby {row.name} is not known yet"
            if row.is_behind and row.seconds > self._max_lag:
                return f"the standby {row.name} is {row.seconds:.1f} s behind, more than {self._max_lag:g}"
        return None

    def _wal(self, connection: sa.Connection) -> str | None:
        row: Any = connection.execute(_SLOTS).first() if self._max_wal_retained is not None else None
        if row is None or row.bytes <= (self._max_wal_retained or 0):
            return None
        return (
            f"the replication slot {row.slot_name} retains {row.bytes / 2**20:,.0f} MB of WAL, more than"
            f" {(self._max_wal_retained or 0) / 2**20:,.0f}"
        )
