"""PostgreSQL."""

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import BYTEA, CIDR, CITEXT, DOMAIN, INET, JSON, JSONB, MACADDR
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.types import TypeEngine
from typing_extensions import override

from sealchemy._values import codecs
from sealchemy._values.codecs import BYTES, TEXT, Plaintext

from . import postgresql_vacuum
from .base import Database, NarrowColumn, to_like
from .postgresql_arrays import array_parameters, same_keys, typed, unnest
from .table import RowKey, Target, inspecting

_KEYS = (
    sa.Integer,
    sa.Numeric,
    sa.Float,
    sa.String,
    sa.Uuid,
    sa.LargeBinary,
    sa.Date,
    sa.DateTime,
    sa.Time,
    sa.Boolean,
    INET,
    CIDR,
    MACADDR,
)
"""Types whose values name their row when the driver hands them back; an INTERVAL of a month comes back as 30 days."""

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

    @override
    def matches(self, stored: sa.ColumnElement[str], pattern: str) -> sa.ColumnElement[bool]:
        """Return `col COLLATE "C" LIKE ...`; the cast is for citext, whose LIKE ignores case."""
        return sa.collate(sa.cast(stored, sa.Text), "C").like(to_like(pattern))

    @override
    def size(self, stored: sa.ColumnElement[str]) -> sa.ColumnElement[int]:
        return sa.func.octet_length(sa.cast(stored, sa.Text))

    @override
    def can_store(self, plaintext: str) -> bool:
        """Return whether it has no NUL."""
        return "\0" not in plaintext

    @override
    def kind_of(self, type_: TypeEngine[Any]) -> Plaintext | None:
        """Return the kind of text, varchar, char(n), citext, json, jsonb and bytea; other types pass for these."""
        if type(type_) in {sa.TEXT, sa.VARCHAR, sa.CHAR, CITEXT}:
            return TEXT
        return {JSON: codecs.JSON, JSONB: codecs.JSON, BYTEA: codecs.BYTES}.get(type(type_))

    @override
    def is_wide(self, type_: TypeEngine[Any], kind: Plaintext = TEXT) -> bool:
        """Return whether it has no limit: `text`, `varchar` and `citext`."""
        return isinstance(type_, sa.TEXT | CITEXT) or (isinstance(type_, sa.VARCHAR) and type_.length is None)

    @override
    def key_problem(self, connection: sa.Connection, target: Target) -> str | None:
        """Return the problem of keys whose parameters do not compare as the values in the table do.

        Also of a table that others inherit from: its rows include theirs, under keys of their own.
        """
        for item, type_ in zip(target.key, target.key_types, strict=True):
            if not isinstance(_base_type(type_), _KEYS) or (
                isinstance(type_, DOMAIN) and isinstance(type_.data_type, CITEXT)
            ):
                return (
                    f"primary key {item.name} is of type {type_!r}, whose values do not name their row when they are"
                    " handed back; give the table an integer or UUID key"
                )
            if problem := self._unreadable_key(connection, target, item, _base_type(type_)):
                return problem
        heirs = sa.text(
            "SELECT count(*) FROM pg_inherits JOIN pg_class ON pg_class.oid = inhparent"
            " WHERE inhparent = to_regclass(:name) AND relkind <> 'p'"
        )
        if connection.scalar(heirs, {"name": quoted_name(connection, target)}):
            return "other tables inherit from it; name each of them"
        return None

    def _unreadable_key(
        self, connection: sa.Connection, target: Target, item: sa.ColumnElement[Any], type_: TypeEngine[Any]
    ) -> str | None:
        """Return the problem of values that Python's types cannot hold: infinity, years before 1, 24:00, NaN."""
        if isinstance(type_, sa.Date | sa.DateTime):
            limits = sa.text("'0001-01-01'"), sa.text("'9999-12-31'")
            wrong = sa.or_(sa.not_(sa.func.isfinite(item)), item < limits[0], item > limits[1])
        elif isinstance(type_, sa.Time):
            wrong = sa.cast(item, sa.Text).like("24:%")
        elif isinstance(type_, sa.Numeric | sa.Float) and not isinstance(type_, sa.Integer):
            wrong = sa.cast(item, sa.Text) == "NaN"
        else:
            return None
        if connection.scalar(sa.select(sa.literal(1)).select_from(target.table).where(wrong).limit(1)):
            return f"primary key {item.name} has a value that Python cannot hold, such as infinity or NaN; change it"
        return None

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
    def begin(self, connection: sa.Connection, target: Target, lock_timeout: float, *, write: bool) -> None:
        """Set what lasts for this transaction only: a pooler may give the session to another client next."""
        # With row security on, rows that this user may not see would silently stay plaintext. Fewer digits of a
        # float would name another row.
        settings = (
            "SELECT set_config('lock_timeout', :timeout, true), set_config('row_security', 'off', true),"
            " set_config('extra_float_digits', '3', true)"
        )
        connection.execute(sa.text(settings), {"timeout": f"{max(round(lock_timeout * 1000), 1)}ms"})

    @override
    def after(self, key: Sequence[sa.ColumnElement[Any]], previous: RowKey) -> sa.ColumnElement[bool]:
        """Return it with the types of the columns: a `real` in the table does not compare with a double."""
        return sa.tuple_(*key) > typed(key, previous)

    @override
    def in_shard(self, key: Sequence[sa.ColumnElement[Any]], number: int, count: int) -> sa.ColumnElement[bool]:
        """Assign rows by a hash of their key, so that a row which is inserted later has its share as well."""
        return sa.func.abs(sa.func.hash_record_extended(sa.func.row(*key), 0) % count) == number - 1

    @override
    def write(self, connection: sa.Connection, target: Target, rows: Mapping[RowKey, RowKey]) -> None:
        """Write all rows with one statement, from arrays."""
        new = unnest(target, len(target.columns))
        values = {item.name: sa.func.coalesce(new.c[f"c{i}"], item) for i, item in enumerate(target.columns)}
        statement = sa.update(target.table).values(values).where(*same_keys(target, new, list(rows)))
        connection.execute(statement, array_parameters(list(rows), list(rows.values())))

    @override
    def read_back(self, connection: sa.Connection, target: Target, keys: Sequence[RowKey]) -> list[sa.Row[Any]]:
        new = unnest(target, 0)
        statement = sa.select(*target.key, *target.columns).where(*same_keys(target, new, keys))
        return list(
            connection.execute(statement, array_parameters(keys, [])).all()
        )  # iterating fetches one row at a time

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
            NarrowColumn(item["name"], item["type"].compile(connection.dialect), item["type"].length)
            for item in self._text_columns(connection, target)
            if getattr(item["type"], "length", None)
        ]

    @override
    def widening(self, connection: sa.Connection, target: Target) -> dict[str, str]:
        quote = connection.dialect.identifier_preparer.quote
        narrow = [item for item in self._text_columns(connection, target) if not self.is_wide(item["type"])]
        collations = self._collations(connection, target)
        clauses = {}
        for item in narrow:
            name, using = item["name"], ""
            if self.kind_of(item["type"]) is BYTES:  # as text, whatever bytea_output says
                using = f" USING chr(92) || 'x' || encode({quote(name)}, 'hex')"
            clauses[name] = f"ALTER COLUMN {quote(name)} TYPE TEXT{collations.get(name, '')}{using}"
        return clauses

    @override
    def from_text(self, dialect: Dialect, table: sa.Table, column: str, type_: TypeEngine[Any]) -> str:
        quoted, declared = dialect.identifier_preparer.quote(column), type_.compile(dialect)
        is_bytes = self.kind_of(type_) is BYTES
        using = f"decode(substr({quoted}, 3), 'hex')" if is_bytes else f"CAST({quoted} AS {declared})"
        name = dialect.identifier_preparer.format_table(table)
        sql = f"ALTER TABLE {name} ALTER COLUMN {quoted} TYPE {declared} USING {using}"
        return sql.replace("%%", "%").replace(":", r"\:")  # as op.execute and text() read it

    @override
    def columns_to_convert(self, connection: sa.Connection, target: Target) -> dict[str, str]:
        return {
            item["name"]: item["type"].compile(connection.dialect)
            for item in self._text_columns(connection, target)
            if self.kind_of(item["type"]) is not TEXT
        }

    def _collations(self, connection: sa.Connection, target: Target) -> dict[str, str]:
        """Return the COLLATE clauses of the columns that have one; a new type would reset it."""
        query = sa.text(
            "SELECT attname::text, quote_ident(nspname) || '.' || quote_ident(collname) FROM pg_attribute"
            " JOIN pg_collation ON pg_collation.oid = attcollation JOIN pg_namespace n ON n.oid = collnamespace"
            " WHERE attrelid = to_regclass(:name) AND collname <> 'default'"
        )
        found = connection.execute(query, {"name": quoted_name(connection, target)})
        return {name: f" COLLATE {collation}".replace("%", "%%") for name, collation in found}

    @override
    def copied_by_widening(self, connection: sa.Connection, target: Target) -> dict[str, str]:
        """Return it for char(n), whose values lose their padding, and for what is not text."""
        return {
            item["name"]: item["type"].compile(connection.dialect)
            for item in self._text_columns(connection, target)
            if isinstance(item["type"], sa.CHAR) or self.kind_of(item["type"]) is not TEXT
        }

    def _text_columns(self, connection: sa.Connection, target: Target) -> list[Any]:
        with inspecting(connection) as inspector:
            found = inspector.get_columns(target.table.name, schema=target.table.schema)
        names = {column.name for column in target.columns}
        return [item for item in found if item["name"] in names]

    @override
    def is_retryable(self, error: DBAPIError) -> bool:
        """Return whether it is a deadlock, a serialization failure or a lock timeout."""
        return _sqlstate(error) in {"40P01", "40001", "55P03"}

    @override
    def finish(self, connection: sa.Connection, target: Target) -> list[str]:
        """Replace the planner's statistics: the old ones hold samples of the column."""
        left = ["old values are in the table's files until `sealchemy scrub`, and in WAL, replicas and backups"]
        try:
            with connection.begin():
                self.begin(connection, target, lock_timeout=60, write=False)
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
    def scrub(self, connection: sa.Connection, name: str, *, online: bool, lock_timeout: float) -> list[str]:
        return postgresql_vacuum.vacuum(connection, name, self.retry, online=online, lock_timeout=lock_timeout)


def _base_type(type_: TypeEngine[Any]) -> TypeEngine[Any]:
    return type_.data_type if isinstance(type_, DOMAIN) else type_


def quoted_name(connection: sa.Connection, target: Target) -> str:
    """Return the name of a table for to_regclass; drivers want `%` doubled in SQL, but not in parameters."""
    return connection.dialect.identifier_preparer.format_table(target.table).replace("%%", "%")


def _sqlstate(error: DBAPIError) -> str | None:
    """Return the five characters with which PostgreSQL identifies an error."""
    return getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None)
