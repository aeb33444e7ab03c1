"""What the operations do when a revision runs.

Each works in short transactions on a connection of its own, since a large table must not sit in one transaction.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from alembic.operations import Operations
from sqlalchemy import Connection

from sealchemy._databases.access import Access, database_of, open_table
from sealchemy._databases.table import TableColumns
from sealchemy._rewriting import constraint
from sealchemy._rewriting.run import require_keys, run
from sealchemy.errors import UnsupportedOperationError
from sealchemy.rewrite import DECRYPT, ENCRYPT, Options, Progress, Report

from .operations import AllowPlaintextOp, ColumnsOp, DecryptColumnsOp, EncryptColumnsOp, RequireEncryptionOp

if TYPE_CHECKING:  # Alembic loads this module while it is itself being imported
    from alembic.runtime.migration import MigrationContext

logger = logging.getLogger("sealchemy")

_SECONDS_BETWEEN_LOGS = 5.0


@Operations.implementation_for(EncryptColumnsOp)
def _encrypt_columns(operations: Operations, operation: EncryptColumnsOp) -> None:
    with _open(operations, operation, partial(require_keys, ENCRYPT)) as access:
        constraint.widen(access)
        report = run(access, ENCRYPT, Options(), _progress(operations), operation.legacy_reader)
    _log("encrypt", report)


@Operations.implementation_for(DecryptColumnsOp)
def _decrypt_columns(operations: Operations, operation: DecryptColumnsOp) -> None:
    environment = operations.migration_context.environment_context
    arguments = environment.get_x_argument(as_dictionary=True) if environment else {}
    if arguments.get("allow-plaintext") != "yes":
        raise UnsupportedOperationError(
            f"decrypt_columns writes the plaintext of {', '.join(operation.columns.values())} into the database, its"
            " logs and its backups. If that is what you want: alembic -x allow-plaintext=yes downgrade ..."
        )
    with _open(operations, operation, partial(require_keys, DECRYPT)) as access:
        if constraint.is_required(access):
            # First try to read every value: otherwise the CHECK would be gone for nothing.
            run(access, DECRYPT, Options(dry_run=True))
            constraint.allow_plaintext(access)
        report = run(access, DECRYPT, Options(), _progress(operations))
    _log("decrypt", report)


@Operations.implementation_for(RequireEncryptionOp)
def _require_encryption(operations: Operations, operation: RequireEncryptionOp) -> None:
    with _open(operations, operation, constraint.require_strict) as access:
        constraint.require_encryption(access)


@Operations.implementation_for(AllowPlaintextOp)
def _allow_plaintext(operations: Operations, operation: AllowPlaintextOp) -> None:
    with _open(operations, operation, columns=dict.fromkeys(operation.columns, "any")) as access:
        constraint.allow_plaintext(access)


@contextmanager
def _open(
    operations: Operations,
    operation: ColumnsOp,
    require: Callable[[Connection, Mapping[str, str]], object] | None = None,
    columns: Mapping[str, str] | None = None,
) -> Iterator[Access]:
    """Open the table on a connection of its own, after a commit of the migration's work so far.

    Whatever `require` refuses is refused before that commit, so that the whole revision can be run again. `columns`
    replaces the operation's own, whose contexts may be malformed where they do not matter.
    """
    context, connection = operations.migration_context, operations.get_bind()
    if context.as_sql:
        raise UnsupportedOperationError(
            f"{operation.name} reads and encrypts rows, which a script written by --sql cannot; run the revision"
            " against the database, without --sql"
        )
    if require is not None:
        require(connection, operation.columns)
    wanted = TableColumns(operation.table_name, columns or operation.columns, _schema(connection, operation))
    if not operation.own_transaction:
        with open_table(connection, wanted) as access:
            yield access
        return
    _refuse_foreign_transaction(context, connection, operation)
    # Without the commit, another connection would not see what earlier revisions of this run did.
    with context.autocommit_block(), open_table(operations.get_bind().engine, wanted) as access:
        yield access


def _refuse_foreign_transaction(context: MigrationContext, connection: Connection, operation: ColumnsOp) -> None:
    # Alembic can commit a transaction that it began itself; for another one it has an `assert`, which -O removes.
    if connection.in_transaction() and context._transaction is None:  # noqa: SLF001 - there is no public name
        raise UnsupportedOperationError(
            f"{operation.name} works in transactions of its own, but env.py handed Alembic a connection that is"
            " already in one; hand it a connection outside a transaction, or, in a test, pass own_transaction=False"
        )


def _schema(connection: Connection, operation: ColumnsOp) -> str | None:
    """Return where the migration's connection finds the table: another connection may look elsewhere."""
    mapping = connection.get_execution_options().get("schema_translate_map") or {}
    schema = mapping.get(operation.schema, operation.schema)
    return database_of(connection.dialect).schema_of(connection, operation.table_name, schema)


def _log(name: str, report: Report) -> None:
    logger.info("%s %s: %d rows", name, report.table, report.rewritten)
    for sentence in report.left_behind:
        logger.warning("%s %s: %s", name, report.table, sentence)


def _progress(operations: Operations) -> Callable[[Progress], None]:
    environment = operations.migration_context.environment_context
    attributes = environment.config.attributes if environment else {}
    progress: Callable[[Progress], None] = attributes.get("sealchemy_progress", _log_progress())
    return progress


def _log_progress() -> Callable[[Progress], None]:
    last = time.monotonic()

    def log(progress: Progress) -> None:
        nonlocal last
        if time.monotonic() - last >= _SECONDS_BETWEEN_LOGS:
            last = time.monotonic()
            logger.info("%s: %s, %d of %d rows", *progress)

    return log
