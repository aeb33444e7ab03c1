"""PostgreSQL."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import CITEXT
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.types import TypeEngine
from typing_extensions import override

from sealchemy._values.codecs import BYTES, TEXT, Plaintext

from . import postgresql_session, postgresql_vacuum, refusals
from .base import Database, Elements, TransactionOptions, Writer
from .definition import NarrowColumn
from .encryption_check import by_regular_expression, by_start, to_like
from .postgresql_arrays import arrays_of, rows_as_table, same_keys, typed
from .postgresql_columns import kind_of, quoted_name, to_text, types_of
from .postgresql_keys import key_problem
from .postgresql_parallel import PostgreSQLParallel
from .postgresql_parts import PostgreSQLParts
from .postgresql_session import sqlstate
from .replication import Replication
from .table import RowKey, Target

# An ALTER TABLE waits for everyone who holds any lock on the table, and later statements wait behind it; VALIDATE waits
# for strong locks only, so these come first.
_HOLDERS = """
SELECT DISTINCT l.mode IN ('AccessShareLock', 'RowShareLock', 'RowExclusiveLock') AS is_weak,
    l.pid, a.usename, a.application_name, a.state, l.mode, a.backend_type,
    extract(epoch FROM clock_timestamp() - coalesce(a.xact_start, p.prepared)) AS seconds, p.gid
FROM pg_locks l
LEFT JOIN pg_stat_activity a ON a.pid = l.pid
LEFT JOIN pg_locks x ON l.pid IS NULL AND x.locktype = 'transactionid' AND x.granted
    AND x.virtualtransaction = l.virtualtransaction
LEFT JOIN pg_prepared_xacts p ON p.transaction = x.transactionid
WHERE l.granted AND l.locktype = 'relation' AND l.pid IS DISTINCT FROM pg_backend_pid()
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND l.relation IN (SELECT to_regclass(:name)::oid UNION SELECT relid FROM pg_partition_tree(to_regclass(:name)))
ORDER BY is_weak, seconds DESC NULLS LAST LIMIT 3
"""


class PostgreSQL(Database):
    """PostgreSQL 14 and later."""

    validates_separately = True
    parallel = PostgreSQLParallel()
    parts = PostgreSQLParts()
    encryption_checks = (
        *by_regular_expression('{}::text COLLATE "C" ~ \'^', "$'"),  # the cast is for citext, which ignores case
        *by_start('{}::text COLLATE "C" ~~ \'', "'", to_like),
    )

    @override
    def matches(self, stored: sa.ColumnElement[str], pattern: str) -> sa.ColumnElement[bool]:
        """Return `col COLLATE "C" LIKE ...`; the cast is for citext, whose LIKE ignores case."""
        return sa.collate(sa.cast(stored, sa.Text), "C").like(to_like(pattern))

    @override
    def check_script(self, table: str, name: str, condition: str) -> Iterator[str]:
        """Yield one that adds it, and one that validates it under a weak lock."""
        yield f"ALTER TABLE {table} ADD CONSTRAINT {name} CHECK ({condition}) NOT VALID"
        yield f"ALTER TABLE {table} VALIDATE CONSTRAINT {name}"

    @override
    def size(self, stored: sa.ColumnElement[str]) -> sa.ColumnElement[int]:
        return sa.func.octet_length(sa.cast(stored, sa.Text))

    @override
    def can_store(self, plaintext: str) -> bool:
        """Return whether it has no NUL."""
        return "\0" not in plaintext

    @override
    def kind_of(self, type_: TypeEngine[Any]) -> Plaintext | None:
        return kind_of(type_)

    @override
    def is_wide(self, type_: TypeEngine[Any], kind: Plaintext = TEXT) -> bool:
        """Return whether it has no limit: `text`, `varchar` and `citext`."""
        return isinstance(type_, sa.TEXT | CITEXT) or (isinstance(type_, sa.VARCHAR) and type_.length is None)

    @override
    def key_problem(self, connection: sa.Connection, target: Target) -> str | None:
        return key_problem(connection, target)

    @override
    def has_exact_keys(self, target: Target) -> bool:
        """Return whether they are; text compares byte by byte unless its collation is nondeterministic."""
        exact = (sa.Integer, sa.Uuid, sa.LargeBinary, sa.TEXT, sa.VARCHAR)
        return all(isinstance(type_, exact) and not getattr(type_, "collation", None) for type_ in target.key_types)

    @override
    def is_in_transaction(self, connection: sa.Connection, target: Target) -> bool:
        """Return whether a setting that ends with the transaction is still there in the next statement."""
        connection.execute(sa.text("SELECT set_config('sealchemy.transaction', 'on', true)"))
        return bool(connection.scalar(sa.text("SELECT current_setting('sealchemy.transaction', true)")) == "on")

    @override
    def lock_holders(self, connection: sa.Connection, target: Target, *, older_than: float = 0) -> list[str]:
        return [
            f"prepared transaction {row.gid!r}, {row.mode}, since {row.seconds or 0:.0f} s"
            if row.gid
            else f"pid {row.pid}, user {row.usename}, application {row.application_name!r}, {row.state}, {row.mode},"
            f" in a transaction of {row.seconds or 0:.0f} s"
            for row in connection.execute(sa.text(_HOLDERS), {"name": quoted_name(connection, target)})
            if (row.seconds or 0) >= older_than
        ]

    @override
    def schema_of(self, connection: sa.Connection, table: str, schema: str | None) -> str | None:
        """Return where the search_path of this connection finds the table: another connection may have another one."""
        if schema is not None:
            return schema
        query = sa.text(
            "SELECT nspname FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace"
            " WHERE pg_class.oid = to_regclass(quote_ident(:name))"
        )
        found = connection.scalar(query, {"name": table})
        return None if found is None else str(found)

    @override
    def lift_limits(self, connection: sa.Connection) -> None:
        postgresql_session.lift_limits(connection)

    @override
    def begin(self, connection: sa.Connection, target: Target, options: TransactionOptions) -> None:
        postgresql_session.begin(connection, options)

    @override
    def after(self, key: Elements, previous: Elements) -> sa.ColumnElement[bool]:
        """Return it with the types of the columns: a `real` in the table does not compare with a double."""
        return sa.tuple_(*key) > typed(key, previous)

    @override
    def in_shard(self, key: Elements, number: int, count: int) -> sa.ColumnElement[bool]:
        """Assign rows by a hash of their key, so that a row which is inserted later has its share as well."""
        return sa.func.abs(sa.func.hash_record_extended(sa.func.row(*key), 0) % count) == number - 1

    @override
    def replication(self, max_lag: float | None, max_wal_retained: int | None) -> Replication:
        return Replication(max_lag, max_wal_retained)

    @override
    def up_to(self, key: Elements, last: Elements) -> sa.ColumnElement[bool]:
        return sa.tuple_(*key) <= typed(key, last)

    @override
    def writer(self, connection: sa.Connection, target: Target, within: Sequence[sa.ColumnElement[bool]]) -> Writer:
        """Return it for all rows with one statement."""

        @cache
        def statement(are_plain: Sequence[bool]) -> sa.Update:
            new = rows_as_table(target, are_plain)
            stored = {item.name: sa.func.coalesce(new.c[f"c{i}"], item) for i, item in enumerate(target.columns)}
            return sa.update(target.table).values(stored).where(*same_keys(target, new), *within)

        def write(
            keys: Sequence[RowKey], values: Sequence[Sequence[str | None]], parameters: Mapping[str, Any]
        ) -> None:
            are_plain, arrays = arrays_of(target, keys, values)
            connection.execute(statement(are_plain), {**arrays, **parameters})

        return write

    @override
    def with_keys(self, query: sa.Select[Any], target: Target, keys: Sequence[RowKey]) -> sa.Select[Any]:
        return query.where(*same_keys(target, rows_as_table(target))).params(arrays_of(target, keys, ())[1])

    @override
    def ddl_wait(self, connection: sa.Connection, target: Target) -> float | None:
        """Return the time after which the server ends an autovacuum that is in the way."""
        parameters = {"name": quoted_name(connection, target)}
        if "autovacuum worker" not in {row.backend_type for row in connection.execute(sa.text(_HOLDERS), parameters)}:
            return None
        milliseconds = connection.scalar(
            sa.text("SELECT setting::int FROM pg_settings WHERE name = 'deadlock_timeout'")
        )
        return (milliseconds or 1000) / 1000 + 0.3

    @override
    def flush(self, connection: sa.Connection) -> None:
        """Fire the deferred triggers now, since they can still change what was written."""
        connection.execute(sa.text("SET CONSTRAINTS ALL IMMEDIATE"))

    @override
    def limited_columns(self, connection: sa.Connection, target: Target) -> list[NarrowColumn]:
        return [
            NarrowColumn(name, type_.compile(connection.dialect), type_.length)
            for name, type_ in types_of(connection, target).items()
            if getattr(type_, "length", None)
        ]

    @override
    def columns_to_convert(self, connection: sa.Connection, target: Target) -> dict[str, str]:
        return {
            name: type_.compile(connection.dialect)
            for name, type_ in types_of(connection, target).items()
            if kind_of(type_) is not TEXT
        }

    @override
    def copied_by_widening(self, connection: sa.Connection, target: Target) -> dict[str, str]:
        """Return the columns of char(n), whose values lose their padding, and those that are not text."""
        return {
            name: type_.compile(connection.dialect)
            for name, type_ in types_of(connection, target).items()
            if isinstance(type_, sa.CHAR) or kind_of(type_) is not TEXT
        }

    @override
    def widening(self, connection: sa.Connection, target: Target) -> dict[str, str]:
        return {
            name: to_text(connection, target, name, type_)
            for name, type_ in types_of(connection, target).items()
            if not self.is_wide(type_)
        }

    @override
    def from_text(self, dialect: Dialect, table: sa.Table, column: str, type_: TypeEngine[Any]) -> str:
        quoted, declared = dialect.identifier_preparer.quote(column), type_.compile(dialect)
        is_bytes = kind_of(type_) is BYTES
        using = f"decode(substr({quoted}, 3), 'hex')" if is_bytes else f"CAST({quoted} AS {declared})"
        name = dialect.identifier_preparer.format_table(table)
        sql = f"ALTER TABLE {name} ALTER COLUMN {quoted} TYPE {declared} USING {using}"
        return sql.replace("%%", "%").replace(":", r"\:")  # as op.execute takes it

    refusals = refusals.POSTGRESQL

    @override
    def code_of(self, error: DBAPIError) -> str | None:
        return sqlstate(error)

    @override
    def is_lost(self, error: DBAPIError) -> bool:
        return super().is_lost(error) or postgresql_session.is_lost(error)

    @contextmanager
    @override
    def session(self, connection: sa.Connection, lock_timeout: float) -> Iterator[None]:
        with postgresql_session.unprepared(connection):
            yield

    @override
    def is_retryable(self, error: DBAPIError) -> bool:
        """Return whether it is a deadlock, a serialization failure or a lock timeout."""
        return sqlstate(error) in {"40P01", "40001", "55P03"}

    @override
    def is_cut_off(self, error: DBAPIError) -> bool:
        return sqlstate(error) == "57014"

    @override
    def finish(self, connection: sa.Connection, target: Target) -> list[str]:
        """Replace the planner's statistics: the old ones hold samples of the column."""
        left = ["old values are in the table's files until `sealchemy scrub`, and in WAL, replicas and backups"]
        try:
            with connection.begin():
                self.begin(connection, target, TransactionOptions(lock_timeout=60, write=False, owned=True))
                table = connection.dialect.identifier_preparer.format_table(target.table)
                if not postgresql_vacuum.may_maintain(connection, table.replace("%%", "%")):
                    left.append("samples of old values may remain in pg_stats: ANALYZE it as the owner of the table")
                connection.exec_driver_sql(f"ANALYZE {table}")
        except DBAPIError as error:
            if not self.is_retryable(error):
                raise
            left.append("samples of old values may remain in pg_stats: ANALYZE had to wait for too long; run it again")
        return left

    @override
    def describe_scrub(self, table: str, *, online: bool) -> str:
        return postgresql_vacuum.describe(table, online=online)

    @override
    def scrub(
        self, connection: sa.Connection, name: str, schema: str | None, *, online: bool, lock_timeout: float
    ) -> list[str]:
        return postgresql_vacuum.vacuum(connection, name, self.retry, online=online, lock_timeout=lock_timeout)
