"""MariaDB and MySQL, as far as stored values are concerned."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import literal

from .backend import Backend, to_like

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Connection
    from sqlalchemy.exc import DBAPIError

    from .backend import Target


class MySQL(Backend):
    """MariaDB 10.6 and later, MySQL 8 and later."""

    def matches(self, stored: ColumnElement[str], pattern: str) -> ColumnElement[bool]:
        """Return `col LIKE BINARY ...`: the usual collations ignore case."""
        return stored.op("LIKE BINARY", is_comparison=True)(literal(to_like(pattern)))

    def is_retryable(self, error: DBAPIError) -> bool:
        """Return whether it is a deadlock or a lock timeout."""
        return bool(error.orig and error.orig.args and error.orig.args[0] in {1205, 1213, 3572})

    def finish(self, connection: Connection, target: Target) -> list[str]:
        """Return what stays."""
        del connection, target
        return ["the old rows are in free pages, the binary log, replicas and backups"]
