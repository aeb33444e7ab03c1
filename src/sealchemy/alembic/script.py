"""What the operations that change the definition of a table write into a script (`alembic upgrade --sql`)."""

from __future__ import annotations

from collections.abc import Iterator

from alembic.operations import Operations
from sqlalchemy import text
from sqlalchemy.sql.elements import TextClause

from sealchemy._databases.access import database_of
from sealchemy._databases.base import Database
from sealchemy._databases.encryption_check import quoted
from sealchemy._rewriting.constraint import constraint_name
from sealchemy.errors import UnsupportedOperationError

from .columns_op import ColumnsOp


def require_encryption(operations: Operations, operation: ColumnsOp) -> None:
    """Write the CHECK of each column, validated in a transaction of its own where the database can do that."""
    context = operations.migration_context
    for name, condition in _checks(operations, operation):
        for statement in _database(operations, operation).check_script(_table(operations, operation), name, condition):
            with context.autocommit_block():
                operations.execute(_literal(statement))


def allow_plaintext(operations: Operations, operation: ColumnsOp) -> None:
    """Write the statements that drop the CHECKs with the names that `require_encryption` gives them."""
    _database(operations, operation)
    for name, _condition in _checks(operations, operation):
        operations.execute(_literal(f"ALTER TABLE {_table(operations, operation)} DROP CONSTRAINT {name}"))


def _database(operations: Operations, operation: ColumnsOp) -> Database:
    dialect = operations.migration_context.dialect
    database = database_of(dialect)
    if not database.can_alter_checks:
        raise UnsupportedOperationError(
            f"{operation.name} edits the definition of a table here, which a script written by --sql cannot; run the"
            " revision against the database, without --sql"
        )
    return database


def _checks(operations: Operations, operation: ColumnsOp) -> Iterator[tuple[str, str]]:
    """Yield the quoted name of each CHECK, and its condition."""
    dialect = operations.migration_context.dialect
    check = next(item for item in database_of(dialect).encryption_checks if item.is_bound is operation.bound)
    for column in operation.columns:
        yield quoted(dialect, constraint_name(operation.table_name, column)), check.on(quoted(dialect, column))


def _table(operations: Operations, operation: ColumnsOp) -> str:
    names = filter(None, (operation.schema, operation.table_name))
    return ".".join(quoted(operations.migration_context.dialect, str(name)) for name in names)


def _literal(sql: str) -> TextClause:
    return text(sql.replace(":", "\\:"))
