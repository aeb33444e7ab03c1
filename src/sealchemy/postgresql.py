"""PostgreSQL, as far as stored values are concerned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import JSON, Cast, Text, bindparam, cast, collate, func, inspect, text, tuple_, update
from sqlalchemy.dialects.postgresql import ARRAY, CITEXT, DOMAIN
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.types import NullType

from .backend import Backend, to_like
from .errors import ColumnDefinitionError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import ColumnElement, Connection, Row, Tuple
    from sqlalchemy.sql.compiler import SQLCompiler

    from .backend import Key, Target


class PostgreSQL(Backend):
    """PostgreSQL 14 and later."""

    def matches(self, stored: ColumnElement[str], pattern: str) -> ColumnElement[bool]:
        """Return `col COLLATE "C" LIKE ...`; the cast is for citext, whose LIKE ignores case."""
        return collate(cast(stored, Text), "C").like(to_like(pattern))

    def can_store(self, plaintext: str) -> bool:
        """Return whether there is no NUL in it."""
        return "\0" not in plaintext

    def check_keys(self, connection: Connection, target: Target) -> None:
        """Refuse keys whose parameters do not compare as they are stored.

        And a table with inheriting tables: its rows include theirs, under keys of their own.
        """
        for item in target.key:
            type_ = item.type.data_type if isinstance(item.type, DOMAIN) else item.type
            if isinstance(type_, ARRAY | JSON | NullType) or (type_ is not item.type and isinstance(type_, CITEXT)):
                message = f"table {target.name!r} cannot be rewritten: primary key {item.name} is of type {item.type!r}"
                raise ColumnDefinitionError(message)
        name = connection.dialect.identifier_preparer.format_table(target.table)
        heirs = text(
            "SELECT count(*) FROM pg_inherits JOIN pg_class ON pg_class.oid = inhparent"
            " WHERE inhparent = to_regclass(:name) AND relkind <> 'p'"
        )
        if connection.scalar(heirs, {"name": name.replace("%%", "%")}):
            message = f"table {target.name!r} cannot be rewritten: other tables inherit from it; name each of them"
            raise ColumnDefinitionError(message)

    def begin(self, connection: Connection, target: Target, lock_timeout: float, *, write: bool) -> None:
        """Set what lasts for this transaction only: a pooler may give the session to somebody else next."""
        del target, write
        # With row security on, rows that this user may not see would silently stay plaintext.
        settings = "SELECT set_config('lock_timeout', :timeout, true), set_config('row_security', 'off', true)"
        connection.execute(text(settings), {"timeout": f"{max(round(lock_timeout * 1000), 1)}ms"})

    def behind(self, key: Sequence[ColumnElement[Any]], after: Key) -> ColumnElement[bool]:
        """Return it with the types of the columns: a `real` does not compare with a double as it is stored."""
        return tuple_(*key) > _typed(key, after)

    def in_shard(self, key: Sequence[ColumnElement[Any]], number: int, count: int) -> ColumnElement[bool]:
        """Share rows out by a hash of their key, so that a row which is inserted later has its share as well."""
        return func.abs(func.hash_record_extended(func.row(*key), 0) % count) == number - 1

    def write(self, connection: Connection, target: Target, rows: Mapping[Key, Key]) -> list[Row[Any]]:
        """Write all rows with one statement, from arrays.

        Its range of keys lets the planner start there, not at the first row of the table.
        """
        keys = list(rows)
        types = {f"k{index}": item.type for index, item in enumerate(target.key)}
        types |= {f"c{index}": Text() for index in range(len(target.columns))}
        arrays = [_Array(bindparam(name, type_=NullType()), ARRAY(type_)) for name, type_ in types.items()]
        new = func.unnest(*arrays).table_valued(*types, name="new").render_derived()
        same = [item == new.c[f"k{index}"] for index, item in enumerate(target.key)]
        key = tuple_(*target.key)
        first, last = (_typed(target.key, values) for values in (keys[0], keys[-1]))
        statement = (
            update(target.table)
            .values({item.name: func.coalesce(new.c[f"c{i}"], item) for i, item in enumerate(target.columns)})
            .where(*same, key >= first, key <= last)
            .returning(*target.key, *target.columns)
        )
        values = [*zip(*keys, strict=True), *zip(*rows.values(), strict=True)]
        parameters = {name: list(items) for name, items in zip(types, values, strict=True)}
        return list(connection.execute(statement, parameters).all())  # iterating fetches one row at a time

    def widening(self, connection: Connection, target: Target) -> list[str]:
        """Return it for columns that are not TEXT."""
        found = inspect(connection).get_columns(target.table.name, schema=target.table.schema)
        types = {item["name"]: item["type"].compile(connection.dialect).split(" COLLATE ")[0] for item in found}
        quote = connection.dialect.identifier_preparer.quote
        narrow = [quote(item.name) for item in target.columns if types[item.name] != "TEXT"]
        return [f"ALTER COLUMN {name} TYPE TEXT" for name in narrow]

    def is_retryable(self, error: DBAPIError) -> bool:
        """Return whether it is a deadlock, a serialisation failure or a lock timeout."""
        return sqlstate(error) in {"40P01", "40001", "55P03"}

    def finish(self, connection: Connection, target: Target) -> list[str]:
        """Replace the planner's statistics: the old ones hold samples of the column."""
        left = ["old values are in the table's files until `sealchemy scrub`, and in WAL, replicas and backups"]
        try:
            with connection.begin():
                self.begin(connection, target, lock_timeout=60, write=False)
                table = connection.dialect.identifier_preparer.format_table(target.table)
                if not may_maintain(connection, table.replace("%%", "%")):
                    left.append("samples of old values may remain in pg_stats: ANALYZE it as the owner of the table")
                connection.exec_driver_sql(f"ANALYZE {table}")
        except DBAPIError as error:
            if not self.is_retryable(error):
                raise
            left.append("samples of old values may remain in pg_stats: ANALYZE had to wait for too long, run it again")
        return left


def may_maintain(connection: Connection, table: str) -> bool:
    """Return whether this user may VACUUM and ANALYZE a table, by its quoted name; otherwise it is only a warning."""
    query = text(
        "SELECT pg_has_role(relowner, 'USAGE') OR pg_has_role(datdba, 'USAGE') FROM pg_class, pg_database"
        " WHERE pg_class.oid = to_regclass(:name) AND datname = current_database()"
    )
    return bool(connection.scalar(query, {"name": table}))


def _typed(key: Sequence[ColumnElement[Any]], values: Key) -> Tuple:
    return tuple_(*(cast(value, item.type) for item, value in zip(key, values, strict=True)))


class _Array(Cast[Any]):
    """A parameter that is an array. psycopg sends it in binary, at a fortieth of the cost of text."""

    inherit_cache = True


@compiles(_Array)
def _compile_array(element: _Array, compiler: SQLCompiler, **options: Any) -> str:
    sql: str = compiler.visit_cast(element, **options)  # type: ignore[no-untyped-call]
    return sql.replace(")s AS", ")b AS") if compiler.dialect.driver.startswith("psycopg") else sql


def sqlstate(error: DBAPIError) -> str | None:
    """Return the five characters by which PostgreSQL names an error."""
    return getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None)
