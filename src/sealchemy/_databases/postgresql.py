"""PostgreSQL."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, CITEXT, DOMAIN
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.types import NullType
from typing_extensions import override

from sealchemy.errors import ColumnDefinitionError, UnsupportedOperationError

from .base import Database, alter_table, to_like
from .table import RowKey, Target

STAYS_ONLINE = (
    "a plain VACUUM frees space for reuse, and old values stay in it until it is reused; run scrub without --online"
    " in a maintenance window"
)

# VACUUM keeps every row version that one of these may still look at.
_OLDER_THAN = sa.text(
    "SELECT count(*) FROM ("
    " SELECT unnest(ARRAY[backend_xmin, backend_xid]) AS xmin FROM pg_stat_activity"
    " WHERE pid <> pg_backend_pid() AND coalesce(datname, current_database()) = current_database()"
    " UNION ALL SELECT xmin FROM pg_replication_slots"
    " UNION ALL SELECT transaction FROM pg_prepared_xacts WHERE database = current_database()"
    ") AS holders WHERE xmin IS NOT NULL AND age(xmin) > age(CAST(:now AS xid))"
)


class PostgreSQL(Database):
    """PostgreSQL 14 and later."""

    validates_separately = True

    @override
    def matches(self, stored: sa.ColumnElement[str], pattern: str) -> sa.ColumnElement[bool]:
        """Return `col COLLATE "C" LIKE ...`; the cast is for citext, whose LIKE ignores case."""
        return sa.collate(sa.cast(stored, sa.Text), "C").like(to_like(pattern))

    @override
    def can_store(self, plaintext: str) -> bool:
        """Return whether it has no NUL."""
        return "\0" not in plaintext

    @override
    def refuse_ambiguous_keys(self, connection: sa.Connection, target: Target) -> None:
        """Refuse keys whose parameters do not compare as the values in the table do.

        Also refuse a table that others inherit from: its rows include theirs, under keys of their own.
        """
        for item in target.key:
            type_ = item.type.data_type if isinstance(item.type, DOMAIN) else item.type
            if isinstance(type_, ARRAY | sa.JSON | NullType) or (type_ is not item.type and isinstance(type_, CITEXT)):
                raise ColumnDefinitionError(
                    f"table {target.name!r} cannot be rewritten: primary key {item.name} is of type {item.type!r}"
                )
        name = connection.dialect.identifier_preparer.format_table(target.table)
        heirs = sa.text(
            "SELECT count(*) FROM pg_inherits JOIN pg_class ON pg_class.oid = inhparent"
            " WHERE inhparent = to_regclass(:name) AND relkind <> 'p'"
        )
        if connection.scalar(heirs, {"name": name.replace("%%", "%")}):
            raise ColumnDefinitionError(
                f"table {target.name!r} cannot be rewritten: other tables inherit from it; name each of them"
            )

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
        # With row security on, rows that this user may not see would silently stay plaintext.
        settings = "SELECT set_config('lock_timeout', :timeout, true), set_config('row_security', 'off', true)"
        connection.execute(sa.text(settings), {"timeout": f"{max(round(lock_timeout * 1000), 1)}ms"})

    @override
    def after(self, key: Sequence[sa.ColumnElement[Any]], previous: RowKey) -> sa.ColumnElement[bool]:
        """Return it with the types of the columns: a `real` in the table does not compare with a double."""
        return sa.tuple_(*key) > _typed(key, previous)

    @override
    def in_shard(self, key: Sequence[sa.ColumnElement[Any]], number: int, count: int) -> sa.ColumnElement[bool]:
        """Assign rows by a hash of their key, so that a row which is inserted later has its share as well."""
        return sa.func.abs(sa.func.hash_record_extended(sa.func.row(*key), 0) % count) == number - 1

    @override
    def write(self, connection: sa.Connection, target: Target, rows: Mapping[RowKey, RowKey]) -> list[sa.Row[Any]]:
        """Write all rows with one statement, from arrays.

        Its range of keys lets the planner start there, and not at the first row of the table.
        """
        keys = list(rows)
        types = {f"k{index}": item.type for index, item in enumerate(target.key)}
        types |= {f"c{index}": sa.Text() for index in range(len(target.columns))}
        arrays = [_Array(sa.bindparam(name, type_=NullType()), ARRAY(type_)) for name, type_ in types.items()]
        new = sa.func.unnest(*arrays).table_valued(*types, name="new").render_derived()
        same = [item == new.c[f"k{index}"] for index, item in enumerate(target.key)]
        key = sa.tuple_(*target.key)
        first, last = (_typed(target.key, values) for values in (keys[0], keys[-1]))
        statement = (
            sa.update(target.table)
            .values({item.name: sa.func.coalesce(new.c[f"c{i}"], item) for i, item in enumerate(target.columns)})
            .where(*same, key >= first, key <= last)
            .returning(*target.key, *target.columns)
        )
        values = [*zip(*keys, strict=True), *zip(*rows.values(), strict=True)]
        parameters = {name: list(items) for name, items in zip(types, values, strict=True)}
        return list(connection.execute(statement, parameters).all())  # iterating fetches one row at a time

    @override
    def widening(self, connection: sa.Connection, target: Target) -> list[str]:
        """Return it for columns that are not TEXT."""
        found = sa.inspect(connection).get_columns(target.table.name, schema=target.table.schema)
        types = {item["name"]: item["type"].compile(connection.dialect).split(" COLLATE ")[0] for item in found}
        quote = connection.dialect.identifier_preparer.quote
        narrow = [quote(item.name) for item in target.columns if types[item.name] != "TEXT"]
        return [f"{alter_table(connection, target)} ALTER COLUMN {name} TYPE TEXT" for name in narrow]

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
                if not _may_maintain(connection, table.replace("%%", "%")):
                    left.append("samples of old values may remain in pg_stats: ANALYZE it as the owner of the table")
                connection.exec_driver_sql(f"ANALYZE {table}")
        except DBAPIError as error:
            if not self.is_retryable(error):
                raise
            left.append("samples of old values may remain in pg_stats: ANALYZE had to wait for too long; run it again")
        return left

    @override
    def describe_scrub(self, table: str, *, online: bool) -> str:
        if online:
            return f"VACUUM takes a SHARE UPDATE EXCLUSIVE lock on {table}: reads and writes go on"
        return (
            f"VACUUM FULL takes an ACCESS EXCLUSIVE lock on {table}: others can neither read nor write it until it"
            " ends; it needs free space of the size of the table"
        )

    @override
    def scrub(self, connection: sa.Connection, name: str, *, online: bool, lock_timeout: float) -> list[str]:
        """Run `VACUUM (FULL, ANALYZE)`, or `VACUUM (ANALYZE)`, and verify that it did its work."""
        # VACUUM cannot run in a transaction, so the limit cannot end with one.
        connection.execute(sa.text(f"SET lock_timeout = {max(round(lock_timeout * 1000), 1)}"))
        try:
            old = 0 if online else _wait_for_older_transactions(connection, lock_timeout)
            plain = name.replace("%%", "%")  # for parameters and messages; drivers want it doubled in SQL
            before = _files(connection, plain)
            options = "ANALYZE" if online else "FULL, ANALYZE"
            self.retry(lambda: connection.exec_driver_sql(f"VACUUM ({options}) {name}"))
        finally:
            if not connection.invalidated:
                connection.execute(sa.text("RESET lock_timeout"))
        if not (_may_maintain(connection, plain) if online else before.isdisjoint(_files(connection, plain))):
            raise UnsupportedOperationError(
                f"plaintext remains in {plain}: this user may not VACUUM it; run scrub as the owner of the table"
            )
        if old:
            raise UnsupportedOperationError(
                f"plaintext may remain in {plain}: {old} transactions, prepared transactions or replication slots are"
                " older than this scrub, and VACUUM kept the row versions that they may still read;"
                " pg_stat_activity names them by backend_xmin and backend_xid; end them and run scrub again"
            )
        return [STAYS_ONLINE] if online else []


def _may_maintain(connection: sa.Connection, table: str) -> bool:
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


def _typed(key: Sequence[sa.ColumnElement[Any]], values: RowKey) -> sa.Tuple:
    return sa.tuple_(*(sa.cast(value, item.type) for item, value in zip(key, values, strict=True)))


class _Array(sa.Cast[Any]):
    """A parameter that is an array; psycopg sends it in binary, at a fortieth of the cost of text."""

    inherit_cache = True


@compiles(_Array)
def _compile_array(element: _Array, compiler: SQLCompiler, **options: Any) -> str:
    if compiler.dialect.driver not in {"psycopg", "psycopg_async"}:
        return str(compiler.visit_cast(element, **options))  # type: ignore[no-untyped-call]
    compiler.process(element.clause, **options)  # which registers the parameter
    return f"CAST(%({element.clause.key})b AS {compiler.process(element.typeclause, **options)})"


def _sqlstate(error: DBAPIError) -> str | None:
    """Return the five characters with which PostgreSQL identifies an error."""
    return getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None)
