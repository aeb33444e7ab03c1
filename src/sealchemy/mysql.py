"""MariaDB and MySQL, as far as stored values are concerned."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, literal, or_, text

from .backend import Backend, to_like

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sqlalchemy import ColumnElement, Connection
    from sqlalchemy.exc import DBAPIError

    from .backend import Key, Target

_TIMEOUTS = ("innodb_lock_wait_timeout", "lock_wait_timeout")  # for rows, and for the definition of a table


class MySQL(Backend):
    """MariaDB 10.6 and later, MySQL 8.0.19 and later."""

    def matches(self, stored: ColumnElement[str], pattern: str) -> ColumnElement[bool]:
        """Return `col LIKE BINARY ...`: the usual collations ignore case."""
        return stored.op("LIKE BINARY", is_comparison=True)(literal(to_like(pattern)))

    @contextmanager
    def session(self, connection: Connection, lock_timeout: float) -> Iterator[None]:
        """Set the time limits for locks, which have no form that ends with the transaction."""
        before = connection.execute(text(f"SELECT {', '.join(f'@@{name}' for name in _TIMEOUTS)}")).one()
        self._set_timeouts(connection, [max(round(lock_timeout), 1)] * len(_TIMEOUTS))
        try:
            yield
        finally:
            connection.rollback()
            self._set_timeouts(connection, before)

    def _set_timeouts(self, connection: Connection, seconds: Sequence[int]) -> None:
        settings = (f"SESSION {name} = {value}" for name, value in zip(_TIMEOUTS, seconds, strict=True))
        connection.execute(text(f"SET {', '.join(settings)}"))
        connection.commit()

    def behind(self, key: Sequence[ColumnElement[Any]], after: Key) -> ColumnElement[bool]:
        """Return it without a comparison of rows, for which these servers do not use the index."""
        first, *others = key
        beyond: ColumnElement[bool] = first > after[0]
        return and_(first >= after[0], or_(beyond, self.behind(others, after[1:]))) if others else beyond

    def untouched(self, connection: Connection, target: Target) -> dict[str, Any]:
        """Return the columns that are ON UPDATE CURRENT_TIMESTAMP."""
        query = text(
            "SELECT column_name FROM information_schema.columns WHERE table_name = :table"
            " AND table_schema = coalesce(:schema, database()) AND extra LIKE '%on update%'"
        )
        names = connection.scalars(query, {"table": target.table.name, "schema": target.table.schema})
        return {name: target.table.c[name] for name in names}

    def widening(self, connection: Connection, target: Target) -> list[str]:
        """Return it for columns that are neither MEDIUMTEXT nor LONGTEXT; a default, which is plaintext, goes."""
        query = text(
            "SELECT column_name, data_type, collation_name, is_nullable FROM information_schema.columns"
            " WHERE table_name = :table AND table_schema = coalesce(:schema, database())"
        )
        found = connection.execute(query, {"table": target.table.name, "schema": target.table.schema}).all()
        names, quote = {item.name for item in target.columns}, connection.dialect.identifier_preparer.quote
        return [
            f"MODIFY {quote(name)} MEDIUMTEXT COLLATE {collation} {'NULL' if nullable == 'YES' else 'NOT NULL'}"
            for name, type_, collation, nullable in found
            if name in names and type_ not in {"mediumtext", "longtext"}
        ]

    def is_retryable(self, error: DBAPIError) -> bool:
        """Return whether it is a deadlock or a lock timeout."""
        return bool(error.orig and error.orig.args and error.orig.args[0] in {1205, 1213, 3572})

    def finish(self, connection: Connection, target: Target) -> list[str]:
        """Return what stays."""
        del connection, target
        return ["the old rows are in free pages, the undo and binary logs, replicas and backups"]
