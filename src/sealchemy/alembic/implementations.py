"""What the operations do when a revision runs.

Each works in short transactions on a connection of its own, since a large table must not sit in one transaction.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from alembic.operations import Operations
from sqlalchemy import Connection

from sealchemy._databases.access import Access, database_of, open_table
from sealchemy._databases.table import TableColumns
from sealchemy._inspection import preflight
from sealchemy._inspection.guarded import rewrite_if_clear
from sealchemy._rewriting import constraint
from sealchemy._rewriting.pages import Pages
from sealchemy._rewriting.run import run
from sealchemy._rewriting.stages import refuse_legacy_reader, require_binding, require_keys, require_strict
from sealchemy.errors import UnsupportedOperationError
from sealchemy.rewrite import BIND, DECRYPT, ENCRYPT, UNBIND

from . import script
from .command_errors import implements
from .guards import refuse_planted_copies, refuse_planted_plaintext, require_consent
from .operations import (
    AllowPlaintextOp,
    AllowUnboundOp,
    BindColumnsOp,
    ColumnsOp,
    DecryptColumnsOp,
    EncryptColumnsOp,
    RequireEncryptionOp,
    RewriteOp,
    StayWideOp,
    UnbindColumnsOp,
    WidenColumnsOp,
)
from .progress import log_report, progress_of

if TYPE_CHECKING:  # Alembic loads this module while it is itself being imported
    from alembic.runtime.migration import MigrationContext

logger = logging.getLogger("sealchemy")


@implements(EncryptColumnsOp)
def _encrypt_columns(operations: Operations, operation: EncryptColumnsOp) -> None:
    with opened(operations, operation, partial(require_keys, ENCRYPT)) as access:
        refuse_planted_plaintext(access)
        report = rewrite_if_clear(
            access,
            ENCRYPT,
            operation.options,
            operation.accept,
            widen=partial(_widen, access),
            progress=progress_of(operations),
            legacy_reader=operation.legacy_reader,
        )
    log_report("encrypt", report)


@implements(DecryptColumnsOp)
def _decrypt_columns(operations: Operations, operation: DecryptColumnsOp) -> None:
    refuse_legacy_reader(DECRYPT, operation.legacy_reader)
    was_empty = False

    def require(connection: Connection, columns: Mapping[str, str]) -> None:
        nonlocal was_empty
        require_keys(DECRYPT, connection, columns)
        with open_table(connection, _wanted(connection, operation)) as access:
            was_empty = Pages(access).is_empty()
        if not was_empty:
            require_consent(operations, operation)

    with opened(operations, operation, require) as access:
        is_empty = was_empty and Pages(access).is_empty()
        if was_empty and not is_empty:
            require_consent(operations, operation)
        findings = preflight.inspect_columns(access)
        preflight.refuse_obstacles(access, findings, DECRYPT, operation.accept, widens=False)
        if constraint.is_required(access):
            # First try to read every value: otherwise the CHECK would be gone for nothing.
            run(access, DECRYPT, replace(operation.options, dry_run=True))
            constraint.allow_plaintext(access)
        if is_empty:
            return  # no one consented to decrypting rows that are inserted from now on
        report = run(access, DECRYPT, operation.options, progress_of(operations))
    log_report("decrypt", report)


@implements(BindColumnsOp)
def _bind_columns(operations: Operations, operation: BindColumnsOp) -> None:
    require_binding(BIND, operation.bind_to, operation.columns)
    refuse_legacy_reader(BIND, operation.legacy_reader)
    with opened(operations, operation, partial(require_keys, BIND)) as access:
        refuse_planted_copies(access)
        report = rewrite_if_clear(access, BIND, operation.options, operation.accept, progress=progress_of(operations))
    log_report("bind", report)


@implements(UnbindColumnsOp)
def _unbind_columns(operations: Operations, operation: UnbindColumnsOp) -> None:
    require_binding(UNBIND, operation.bind_to, operation.columns)
    refuse_legacy_reader(UNBIND, operation.legacy_reader)

    def require(connection: Connection, columns: Mapping[str, str]) -> None:
        with open_table(connection, _wanted(connection, operation)) as access:
            if Pages(access).is_empty():
                return
        require_keys(UNBIND, connection, columns)

    with opened(operations, operation, require) as access:
        if Pages(access).is_empty():
            return
        if constraint.required_columns(access, bound=True):
            # First try to read every value: otherwise the CHECK would be gone for nothing.
            run(access, UNBIND, replace(operation.options, dry_run=True))
            constraint.allow_unbound(access)
        report = rewrite_if_clear(access, UNBIND, operation.options, operation.accept, progress=progress_of(operations))
    log_report("unbind", report)


@implements(WidenColumnsOp)
def _widen_columns(operations: Operations, operation: WidenColumnsOp) -> None:
    with opened(operations, operation, columns=dict.fromkeys(operation.columns, "any")) as access:
        preflight.refuse_obstacles_to_widening(access)
        _widen(access)


@implements(StayWideOp)
def _stay_wide(_operations: Operations, _operation: StayWideOp) -> None:
    """Do nothing: narrower columns would cut values."""


@implements(RequireEncryptionOp)
def _require_encryption(operations: Operations, operation: RequireEncryptionOp) -> None:
    if operations.migration_context.as_sql:
        script.require_encryption(operations, operation)
        return
    with opened(operations, operation, partial(require_strict, bound=operation.bound)) as access:
        constraint.require_encryption(access, bound=operation.bound)


@implements(AllowPlaintextOp)
def _allow_plaintext(operations: Operations, operation: AllowPlaintextOp) -> None:
    if operations.migration_context.as_sql:
        script.allow_plaintext(operations, operation)
        return
    with opened(operations, operation, columns=dict.fromkeys(operation.columns, "any")) as access:
        constraint.allow_plaintext(access)


@implements(AllowUnboundOp)
def _allow_unbound(operations: Operations, operation: AllowUnboundOp) -> None:
    with opened(operations, operation, columns=dict.fromkeys(operation.columns, "any")) as access:
        constraint.allow_unbound(access)


def _widen(access: Access) -> None:
    if columns := constraint.widen(access):
        name = access.target.name
        logger.warning("widen %s: %s: %s", name, ", ".join(columns), constraint.AFTER_WIDENING)


@contextmanager
def opened(
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
    wanted = _wanted(connection, operation, columns)
    limits = operation.options.lock_timeout, operation.options.ddl_patience
    if not operation.own_transaction:
        with open_table(connection, wanted, *limits, any_key=columns is not None) as access:
            yield access
        return
    _refuse_foreign_transaction(context, connection, operation)
    # Without the commit, another connection would not see what earlier revisions of this run did.
    with (
        context.autocommit_block(),
        open_table(operations.get_bind().engine, wanted, *limits, any_key=columns is not None) as access,
    ):
        yield access


def _wanted(connection: Connection, operation: ColumnsOp, columns: Mapping[str, str] | None = None) -> TableColumns:
    schema = _schema(connection, operation)
    kinds = operation.kinds if isinstance(operation, RewriteOp) else None
    return TableColumns(operation.table_name, columns or operation.columns, schema, kinds, operation.bind_to)


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
