"""Alembic operations: `op.encrypt_columns` and its relatives.

Each works in short transactions on a connection of its own, since a large table must not sit in one transaction.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from alembic.autogenerate.render import renderers  # not from alembic.autogenerate: this runs during its import
from alembic.operations import MigrateOperation, Operations
from sqlalchemy import Connection
from sqlalchemy.types import TypeDecorator

from sealchemy._column.statements import EncryptedType
from sealchemy._databases.access import Access, database_of, open_table
from sealchemy._databases.table import TableColumns
from sealchemy._rewriting import constraint
from sealchemy._rewriting.run import require_keys, run
from sealchemy.errors import UnsupportedOperationError
from sealchemy.rewrite import DECRYPT, ENCRYPT, Options, Progress

if TYPE_CHECKING:  # Alembic loads this module while it is itself being imported
    from alembic.autogenerate.api import AutogenContext
    from alembic.runtime.migration import MigrationContext

logger = logging.getLogger("sealchemy")

_SECONDS_BETWEEN_LOGS = 5.0


def render_item(kind: str, item: Any, context: AutogenContext) -> str | Literal[False]:
    """Render the types of this package as their types in the database: an encrypted column as `sa.Text()`.

    On MySQL and MariaDB that is MEDIUMTEXT. So revisions import nothing from here, and outlive the models. Pass this
    function to `context.configure(render_item=...)` in `env.py`; naming the plugin there, in
    `autogenerate_plugins=["alembic.autogenerate.*", "sealchemy"]`, does so as well.
    """
    is_ours = isinstance(item, EncryptedType) or type(item).__module__.startswith("sealchemy.")
    if kind != "type" or not isinstance(item, TypeDecorator) or not is_ours:
        return False
    implementation = item.load_dialect_impl(context.dialect)
    dialect = re.match(r"sqlalchemy\.dialects\.(\w+)", type(implementation).__module__)
    if dialect:
        context.imports.add(f"from sqlalchemy.dialects import {dialect[1]}")
        return f"{dialect[1]}.{implementation!r}"
    return f"{context.opts.get('sqlalchemy_module_prefix') or 'sa.'}{implementation!r}"


class ColumnsOp(MigrateOperation):
    """What the four operations share: a table, and its columns with their contexts.

    `mirror` is the operation of the downgrade, where autogenerate needs one other than the reverse.
    """

    name: ClassVar[str]
    reverse_type: ClassVar[type[ColumnsOp]]
    mirror: ColumnsOp | None = None

    def __init__(
        self,
        table_name: str,
        columns: Mapping[str, str],
        *,
        schema: str | None = None,
        own_transaction: bool = True,
    ) -> None:
        self.table_name, self.columns = table_name, dict(columns)
        self.schema, self.own_transaction = schema, own_transaction

    @classmethod
    def invoke(
        cls,
        operations: Operations,
        table_name: str,
        columns: Mapping[str, str],
        *,
        schema: str | None = None,
        own_transaction: bool = True,
    ) -> None:
        """Run the operation.

        Args:
            operations: `op`.
            table_name: the table, by its name in the database.
            columns: the context of each column, by column name. `require_encryption` and `allow_plaintext` take
                column names alone as well; the context is then `<table name>.<column name>`.
            schema: its schema, if it is not the default one.
            own_transaction: False to work in the transaction that the migration's connection is in, for tests.

        Raises:
            SealchemyError: as `sealchemy.rewrite.rewrite` does; or values are plaintext, a stage is not STRICT.
            UnsupportedOperationError: in offline mode (`--sql`).
        """
        operation = cls(table_name, columns, schema=schema, own_transaction=own_transaction)
        operations.invoke(operation)

    def reverse(self) -> ColumnsOp:
        """Return the operation of the downgrade."""
        return self.mirror or self.reverse_type(
            self.table_name, self.columns, schema=self.schema, own_transaction=self.own_transaction
        )

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """Return what `alembic check` prints."""
        return (self.name, self.schema, self.table_name, self.columns)


@Operations.register_operation("encrypt_columns", "invoke")
class EncryptColumnsOp(ColumnsOp):
    """Encrypt the plaintext of columns in place."""

    name = "encrypt_columns"
    legacy_reader: Callable[[str], str] | None = None

    @classmethod
    def invoke(
        cls,
        operations: Operations,
        table_name: str,
        columns: Mapping[str, str],
        *,
        schema: str | None = None,
        own_transaction: bool = True,
        legacy_reader: Callable[[str], str] | None = None,
    ) -> None:
        """Run the operation, as the others; for `legacy_reader`, see `sealchemy.rewrite.rewrite`."""
        operation = cls(table_name, columns, schema=schema, own_transaction=own_transaction)
        operation.legacy_reader = legacy_reader
        operations.invoke(operation)


@Operations.register_operation("decrypt_columns", "invoke")
class DecryptColumnsOp(ColumnsOp):
    """Write the plaintext back; only with `alembic -x allow-plaintext=yes`.

    It also drops the CHECK of `require_encryption`, if there still is one, but only when every value can be read.
    """

    name = "decrypt_columns"
    reverse_type = EncryptColumnsOp


class _ColumnNamesOp(ColumnsOp):
    """An operation that takes column names without contexts as well."""

    def __init__(self, table_name: str, columns: Mapping[str, str] | Iterable[str], **options: Any) -> None:
        if not isinstance(columns, Mapping):
            names = [columns] if isinstance(columns, str) else columns
            columns = {name: f"{table_name}.{name}" for name in names}
        super().__init__(table_name, columns, **options)


@Operations.register_operation("require_encryption", "invoke")
class RequireEncryptionOp(_ColumnNamesOp):
    """Make the database refuse plaintext in columns."""

    name = "require_encryption"


@Operations.register_operation("allow_plaintext", "invoke")
class AllowPlaintextOp(_ColumnNamesOp):
    """Drop the CHECK of `require_encryption`."""

    name = "allow_plaintext"
    reverse_type = RequireEncryptionOp


EncryptColumnsOp.reverse_type = DecryptColumnsOp
RequireEncryptionOp.reverse_type = AllowPlaintextOp


@Operations.implementation_for(EncryptColumnsOp)
def _encrypt_columns(operations: Operations, operation: EncryptColumnsOp) -> None:
    with _open(operations, operation, partial(require_keys, ENCRYPT)) as access:
        constraint.widen(access)
        report = run(access, ENCRYPT, Options(), _progress(operations), operation.legacy_reader)
    logger.info("encrypt %s: %d rows", report.table, report.rewritten)
    for sentence in report.left_behind:
        logger.warning("encrypt %s: %s", report.table, sentence)


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
    logger.info("decrypt %s: %d rows", report.table, report.rewritten)
    for sentence in report.left_behind:
        logger.warning("decrypt %s: %s", report.table, sentence)


@Operations.implementation_for(RequireEncryptionOp)
def _require_encryption(operations: Operations, operation: RequireEncryptionOp) -> None:
    with _open(operations, operation, constraint.require_strict) as access:
        constraint.require_encryption(access)


@Operations.implementation_for(AllowPlaintextOp)
def _allow_plaintext(operations: Operations, operation: AllowPlaintextOp) -> None:
    with _open(operations, operation) as access:
        constraint.allow_plaintext(access)


@renderers.dispatch_for(ColumnsOp)
def _render(_context: AutogenContext, operation: ColumnsOp) -> list[str]:
    schema = f", schema={operation.schema!r}" if operation.schema else ""
    call = f"op.{operation.name}({str(operation.table_name)!r}, {operation.columns!r}{schema})"
    comment = operation.info.get("sealchemy_comment")
    return [comment, call] if comment else [call]


@contextmanager
def _open(
    operations: Operations,
    operation: ColumnsOp,
    require: Callable[[Connection, Mapping[str, str]], object] | None = None,
) -> Iterator[Access]:
    """Open the table on a connection of its own, after a commit of the migration's work so far.

    Whatever `require` refuses is refused before that commit, so that the whole revision can be run again.
    """
    context, connection = operations.migration_context, operations.get_bind()
    if context.as_sql:
        raise UnsupportedOperationError(
            f"{operation.name} reads and encrypts rows, which a script written by --sql cannot; run the revision"
            " against the database, without --sql"
        )
    if require is not None:
        require(connection, operation.columns)
    wanted = TableColumns(operation.table_name, operation.columns, _schema(connection, operation))
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
