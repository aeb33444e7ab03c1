"""MariaDB and MySQL."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, literal, or_, text
from sqlalchemy.exc import DBAPIError
from typing_extensions import override

from .base import Database, alter_table, to_like
from .table import RowKey, Target

_TIMEOUTS = ("innodb_lock_wait_timeout", "lock_wait_timeout")  # for rows, and for the definition of a table


class MySQL(Database):
    """MariaDB 10.6 and later, MySQL 8.0.19 and later."""

    @override
    def matches(self, stored: ColumnElement[str], pattern: str) -> ColumnElement[bool]:
        """Return `col LIKE BINARY ...`: the usual collations ignore case."""
        return stored.op("LIKE BINARY", is_comparison=True)(literal(to_like(pattern)))

    @contextmanager
    @override
    def session(self, connection: Connection, lock_timeout: float) -> Iterator[None]:
        """Set the time limits for locks, which cannot be limited to a transaction."""
        before = connection.execute(text(f"SELECT {', '.join(f'@@{name}' for name in _TIMEOUTS)}")).one()
        self._set_timeouts(connection, [max(round(lock_timeout), 1)] * len(_TIMEOUTS))
        try:
            yield
        finally:
            connection.rollback()
            self._set_timeouts(connection, before)

    def _set_timeouts(self, connection: Connection, seconds: Sequence[int] | Row[Any]) -> None:
        settings = (f"SESSION {name} = {value}" for name, value in zip(_TIMEOUTS, seconds, strict=True))
        connection.execute(text(f"SET {', '.join(settings)}"))
        connection.commit()

    @override
    def after(self, key: Sequence[ColumnElement[Any]], previous: RowKey) -> ColumnElement[bool]:
        """Return it without a comparison of rows, for which these servers do not use the index."""
        first, *others = key
        beyond: ColumnElement[bool] = first > previous[0]
        return and_(first >= previous[0], or_(beyond, self.after(others, previous[1:]))) if others else beyond

    @override
    def unchanged(self, connection: Connection, target: Target) -> dict[str, Any]:
        """Return the columns with ON UPDATE CURRENT_TIMESTAMP."""
        query = text(
            "SELECT column_name FROM information_schema.columns WHERE table_name = :table"
            " AND table_schema = coalesce(:schema, database()) AND extra LIKE '%on update%'"
        )
        names = connection.scalars(query, {"table": target.table.name, "schema": target.table.schema})
        return {name: target.table.c[name] for name in names}

    @override
    def widening(self, connection: Connection, target: Target) -> list[str]:
        """Return it for columns that are neither MEDIUMTEXT nor LONGTEXT; a default is dropped, as it is plaintext."""
        query = text(
            "SELECT column_name, data_type, collation_name, is_nullable FROM information_schema.columns"
            " WHERE table_name = :table AND table_schema = coalesce(:schema, database())"
        )
        found = connection.execute(query, {"table": target.table.name, "schema": target.table.schema}).all()
        names, quote = {item.name for item in target.columns}, connection.dialect.identifier_preparer.quote
        return [
            f"{alter_table(connection, target)} MODIFY {quote(name)} MEDIUMTEXT COLLATE {collation}"
            f" {'NULL' if nullable == 'YES' else 'NOT NULL'}"
            for name, type_, collation, nullable in found
            if name in names and type_ not in {"mediumtext", "longtext"}
        ]

    @override
    def is_retryable(self, error: DBAPIError) -> bool:
        """Return whether it is a deadlock or a lock timeout."""
        return bool(error.orig and error.orig.args and error.orig.args[0] in {1205, 1213, 3572})

    @override
    def finish(self, connection: Connection, target: Target) -> list[str]:
        return ["the old rows are in free pages, the undo and binary logs, replicas and backups"]
