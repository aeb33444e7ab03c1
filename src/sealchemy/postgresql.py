"""PostgreSQL, as far as stored values are concerned."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import Text, cast, collate, text

from .backend import Backend, split_rows, to_like
from .errors import ColumnDefinitionError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sqlalchemy import ColumnElement, Connection, Dialect
    from sqlalchemy.exc import DBAPIError

    from .backend import Key, Target


class PostgreSQL(Backend):
    """PostgreSQL 13 and later."""

    def matches(self, stored: ColumnElement[str], pattern: str) -> ColumnElement[bool]:
        """Return `col COLLATE "C" LIKE ...`; the cast is for citext, whose LIKE ignores case."""
        return collate(cast(stored, Text), "C").like(to_like(pattern))

    def can_store(self, plaintext: str) -> bool:
        """Return whether there is no NUL in it."""
        return "\0" not in plaintext

    def check_keys(self, connection: Connection, target: Target) -> None:
        """Refuse a table with inheriting tables: its rows include theirs, under keys of their own."""
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
        connection.execute(text(settings), {"timeout": f"{round(lock_timeout * 1000)}ms"})

    def write(self, connection: Connection, target: Target, rows: Mapping[Key, Key]) -> dict[Key, Key]:
        """Write all rows with one statement, from arrays."""
        keys, values = list(rows), list(rows.values())
        arrays = [list(part) for part in (*zip(*keys, strict=True), *zip(*values, strict=True))]
        parameters = (*arrays, *keys[0], *keys[-1])
        dialect = connection.dialect
        if dialect.driver in {"psycopg", "psycopg_async"}:
            # Binary arrays cost a fortieth of text ones; only this driver has the placeholder.
            sql = _update_from_arrays(target, dialect, lambda _index, type_: f"%b::{type_}")
            result = connection.exec_driver_sql(sql, parameters)
        else:
            sql = _update_from_arrays(target, dialect, lambda index, type_: f"CAST(:p{index} AS {type_})")
            result = connection.execute(text(sql), {f"p{index}": item for index, item in enumerate(parameters)})
        return split_rows(target, result.all())

    def is_retryable(self, error: DBAPIError) -> bool:
        """Return whether it is a deadlock, a serialisation failure or a lock timeout."""
        return _sqlstate(error) in {"40P01", "40001", "55P03"}

    def finish(self, connection: Connection, target: Target) -> list[str]:
        """Replace the planner's statistics: the old ones hold samples of the column."""
        with connection.begin():
            connection.execute(text(f"ANALYZE {connection.dialect.identifier_preparer.format_table(target.table)}"))
        return ["the old rows are in the table's files until VACUUM FULL, and in WAL, replicas and backups"]


def _update_from_arrays(target: Target, dialect: Dialect, slot: Callable[[int, str], str]) -> str:
    """Return the UPDATE of one batch. Its range lets the planner start there, not at the first row."""
    quote = dialect.identifier_preparer.quote
    keys, columns = ([quote(item.name) for item in part] for part in (target.key, target.columns))
    key_types = [item.type.compile(dialect).split(" COLLATE ")[0] for item in target.key]
    types = [f"{type_}[]" for type_ in (*key_types, *(["text"] * len(columns)))] + key_types * 2
    slots = [slot(index, type_) for index, type_ in enumerate(types)]
    arrays, first, last = slots[: -2 * len(keys)], slots[-2 * len(keys) : -len(keys)], slots[-len(keys) :]
    names = [f"k{index}" for index in range(len(keys))] + [f"c{index}" for index in range(len(columns))]
    row = ", ".join(f"t.{key}" for key in keys)
    return (
        f"UPDATE {dialect.identifier_preparer.format_table(target.table)} AS t"  # noqa: S608
        f" SET {', '.join(f'{item} = coalesce(v.c{index}, t.{item})' for index, item in enumerate(columns))}"
        f" FROM unnest({', '.join(arrays)}) AS v({', '.join(names)})"
        f" WHERE {' AND '.join(f't.{key} = v.k{index}' for index, key in enumerate(keys))}"
        f" AND ({row}) >= ({', '.join(first)}) AND ({row}) <= ({', '.join(last)})"
        f" RETURNING {row}, {', '.join(f't.{item}' for item in columns)}"
    )


def _sqlstate(error: DBAPIError) -> str | None:
    """Return the five characters by which PostgreSQL names an error."""
    return getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None)
