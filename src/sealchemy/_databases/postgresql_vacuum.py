"""VACUUM on PostgreSQL: what it needs, and whether it removed the old versions of rows."""

import time
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from sealchemy.errors import UnsupportedOperationError

STAYS_ONLINE = (
    "a plain VACUUM frees space for reuse, and old values stay in it until it is reused; run scrub without --online"
    " in a maintenance window"
)

# VACUUM keeps every row version that one of these may still look at. Its own snapshot is as old as the oldest
# transaction that writes, in whatever database.
_OLDER_THAN = sa.text(
    "SELECT count(*) FROM ("
    " SELECT backend_xmin AS xmin FROM pg_stat_activity"
    " WHERE pid <> pg_backend_pid() AND coalesce(datname, current_database()) = current_database()"
    " UNION ALL SELECT backend_xid FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
    " UNION ALL SELECT xmin FROM pg_replication_slots"
    " UNION ALL SELECT transaction FROM pg_prepared_xacts"
    ") AS holders WHERE xmin IS NOT NULL AND age(xmin) > age(CAST(CAST(:now AS text) AS xid))"
)


def describe(table: str, *, online: bool) -> str:
    """Return what it keeps others from doing, in a sentence."""
    if online:
        return f"VACUUM takes a SHARE UPDATE EXCLUSIVE lock on {table}: reads and writes go on"
    return (
        f"VACUUM FULL takes an ACCESS EXCLUSIVE lock on {table}: others can neither read nor write it until it"
        " ends; it needs free space of the size of the table"
    )


def vacuum(
    connection: sa.Connection,
    name: str,
    retry: Callable[[Callable[[], Any]], Any],
    *,
    online: bool,
    lock_timeout: float,
) -> list[str]:
    """Run `VACUUM (FULL, ANALYZE)`, or `VACUUM (ANALYZE)`, and verify that it did its work."""
    # VACUUM cannot run in a transaction, so the limit cannot end with one.
    connection.execute(sa.text(f"SET lock_timeout = {max(round(lock_timeout * 1000), 1)}"))
    try:
        old = 0 if online else _wait_for_older_transactions(connection, lock_timeout)
        plain = name.replace("%%", "%")  # for parameters and messages; drivers want it doubled in SQL
        before = _files(connection, plain)
        options = "ANALYZE" if online else "FULL, ANALYZE"
        retry(lambda: connection.exec_driver_sql(f"VACUUM ({options}) {name}"))
    finally:
        if not connection.invalidated:
            connection.execute(sa.text("RESET lock_timeout"))
    if not (may_maintain(connection, plain) if online else before.isdisjoint(_files(connection, plain))):
        raise UnsupportedOperationError(
            f"plaintext remains in {plain}: this user may not VACUUM it; run scrub as the owner of the table"
        )
    if old:
        raise UnsupportedOperationError(
            f"plaintext may remain in {plain}: {old} transactions (of any database, if they write), prepared"
            " transactions or replication slots are older than this scrub, and VACUUM kept the row versions that they"
            " may still read; pg_stat_activity names them by backend_xmin and backend_xid; end them and run scrub again"
        )
    return [STAYS_ONLINE] if online else []


def may_maintain(connection: sa.Connection, table: str) -> bool:
    """Return whether this user may VACUUM and ANALYZE a table, by its quoted name; if not, those only warn."""
    query = sa.text(
        "SELECT pg_has_role(relowner, 'USAGE') OR pg_has_role(datdba, 'USAGE') FROM pg_class, pg_database"
        " WHERE pg_class.oid = to_regclass(:name) AND datname = current_database()"
    )
    return bool(connection.scalar(query, {"name": table}))


def _files(connection: sa.Connection, name: str) -> set[object]:
    """Return the files of a table and its partitions; VACUUM FULL writes new ones."""
    query = sa.text(
        "SELECT pg_relation_filenode(oid) FROM pg_class WHERE oid = to_regclass(:name) AND relkind = 'r'"
        " UNION SELECT pg_relation_filenode(relid) FROM pg_partition_tree(to_regclass(:name)) WHERE isleaf"
    )
    return set(connection.scalars(query, {"name": name})) or {None}


def _wait_for_older_transactions(connection: sa.Connection, seconds: float) -> int:
    """Return how many are left after that time."""
    now = connection.scalar(sa.text("SELECT CAST(pg_current_xact_id() AS text)"))
    now = str(int(now or 0) % 2**32)  # an xid is the last 32 bits
    deadline = time.monotonic() + seconds
    while (count := connection.scalar(_OLDER_THAN, {"now": now}) or 0) and time.monotonic() < deadline:
        time.sleep(0.1)
    return int(count)
