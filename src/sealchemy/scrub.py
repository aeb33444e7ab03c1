"""Removing what an UPDATE leaves behind: the old versions of rows, in the files of the database."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from sqlalchemy import inspect, text

from .backends import backend_of, retry
from .errors import ColumnDefinitionError, UnsupportedOperationError
from .postgresql import may_maintain
from .sqlite import checkpoint

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

OUT_OF_REACH = (
    "WAL archives, replicas and backups keep the old values as long as they are kept themselves; a token that may"
    " have been in one is safe only once it is re-issued"
)
STAYS_ONLINE = (
    "a plain VACUUM lets the space be used again, and the old values stay in it until it is: run scrub without"
    " --online in a maintenance window"
)

# VACUUM keeps every row version that such a one may still look at.
_OLDER_THAN = text(
    "SELECT count(*) FROM ("
    " SELECT unnest(ARRAY[backend_xmin, backend_xid]) AS xmin FROM pg_stat_activity"
    " WHERE pid <> pg_backend_pid() AND coalesce(datname, current_database()) = current_database()"
    " UNION ALL SELECT xmin FROM pg_replication_slots"
    " UNION ALL SELECT transaction FROM pg_prepared_xacts WHERE database = current_database()"
    ") AS holders WHERE xmin IS NOT NULL AND age(xmin) > age(CAST(:now AS xid))"
)


def locks(engine: Engine, table: str, *, online: bool = False) -> str:
    """Return what `scrub` keeps others from, in a sentence."""
    if engine.dialect.name != "postgresql":
        return "VACUUM takes the write lock of the file: until it ends, nobody writes"
    if online:
        return f"VACUUM takes a SHARE UPDATE EXCLUSIVE lock on {table}: reading and writing go on"
    return (
        f"VACUUM FULL takes an ACCESS EXCLUSIVE lock on {table}: until it ends, nobody reads or writes the table;"
        " it needs free space of the size of the table"
    )


def scrub(
    engine: Engine, table: str, *, schema: str | None = None, online: bool = False, lock_timeout: float = 5.0
) -> list[str]:
    """Rewrite the files of a table without what is dead in them; return what this cannot reach, in sentences.

    SQLite: VACUUM, which rewrites the whole file, and a checkpoint that empties the write-ahead log. PostgreSQL:
    `VACUUM (FULL, ANALYZE)`, which **locks the table against readers and writers** while it copies it.

    Args:
        engine: the database.
        table: the table's name.
        schema: its schema, if it is not the default one.
        online: on PostgreSQL only `VACUUM (ANALYZE)`, which locks nobody out and leaves old values in the file.
        lock_timeout: seconds to wait for the lock, several times, and for transactions that are older than this call.

    Raises:
        ColumnDefinitionError: there is no such table.
        UnsupportedOperationError: another database; or somebody else kept old values from being removed: plaintext
            may remain.

    """
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        preparer = connection.dialect.identifier_preparer
        name = f"{preparer.quote(schema)}.{preparer.quote(table)}" if schema else preparer.quote(table)
        if not inspect(connection).has_table(table, schema=schema):
            message = f"table {name} cannot be scrubbed: there is no such table in {engine.url.database!r}"
            raise ColumnDefinitionError(message)
        if connection.dialect.name == "sqlite":
            _scrub_sqlite(connection)
        elif connection.dialect.name == "postgresql":
            _scrub_postgresql(connection, name, online=online, lock_timeout=lock_timeout)
        else:
            message = f"scrub does not know {connection.dialect.name}"
            raise UnsupportedOperationError(message)
    stays = [STAYS_ONLINE] if online and engine.dialect.name == "postgresql" else []
    return [*stays, OUT_OF_REACH]


def _scrub_sqlite(connection: Connection) -> None:
    retry(backend_of(connection), lambda: connection.execute(text("VACUUM")))
    if checkpoint(connection):
        message = "plaintext may remain in the file: another connection uses its write-ahead log; try again"
        raise UnsupportedOperationError(message)


def _scrub_postgresql(connection: Connection, name: str, *, online: bool, lock_timeout: float) -> None:
    # VACUUM runs in no transaction, so the limit cannot end with one.
    connection.execute(text(f"SET lock_timeout = {max(round(lock_timeout * 1000), 1)}"))
    try:
        old = 0 if online else _wait_for_older_transactions(connection, lock_timeout)
        plain = name.replace("%%", "%")  # for parameters and messages; drivers want it doubled in SQL
        before = _files(connection, plain)
        options = "ANALYZE" if online else "FULL, ANALYZE"
        retry(backend_of(connection), lambda: connection.exec_driver_sql(f"VACUUM ({options}) {name}"))
    finally:
        if not connection.invalidated:
            connection.execute(text("RESET lock_timeout"))
    if not (may_maintain(connection, plain) if online else before.isdisjoint(_files(connection, plain))):
        message = f"plaintext remains in {plain}: this user may not VACUUM it; run scrub as the owner of the table"
        raise UnsupportedOperationError(message)
    if old:
        message = (
            f"plaintext may remain in {plain}: {old} transactions, prepared transactions or replication slots are older"
            " than this scrub, and VACUUM kept what they may still read; pg_stat_activity names them by"
            " backend_xmin and backend_xid;"
            " end them and run it again"
        )
        raise UnsupportedOperationError(message)


def _files(connection: Connection, name: str) -> set[object]:
    """Return the files of a table and its partitions; VACUUM FULL writes new ones."""
    query = text(
        "SELECT pg_relation_filenode(oid) FROM pg_class WHERE oid = to_regclass(:name) AND relkind = 'r'"
        " UNION SELECT pg_relation_filenode(relid) FROM pg_partition_tree(to_regclass(:name)) WHERE isleaf"
    )
    return set(connection.scalars(query, {"name": name})) or {None}


def _wait_for_older_transactions(connection: Connection, seconds: float) -> int:
    """Return how many there still are after that time."""
    now = connection.scalar(text("SELECT CAST(pg_current_xact_id() AS text)"))
    now = str(int(now or 0) % 2**32)  # an xid is the last 32 bits
    deadline = time.monotonic() + seconds
    while (count := connection.scalar(_OLDER_THAN, {"now": now}) or 0) and time.monotonic() < deadline:
        time.sleep(0.1)
    return int(count)
