"""Alembic operations: `op.encrypt_columns` and its relatives.

Alembic finds them through the entry point in `plugin.py`, so a revision needs no import. Each operation works in
short transactions on a connection of its own, since a large table must not sit in one transaction.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from alembic.autogenerate.render import renderers  # not from alembic.autogenerate: this runs during its import
from alembic.operations import MigrateOperation, Operations
from sqlalchemy import text
from sqlalchemy.types import TypeDecorator

from . import checks
from .errors import UnsupportedOperationError
from .guard import EncryptedType
from .rewrite import DECRYPT, ENCRYPT, Operation, Options, Progress, check_before, rewrite

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from alembic.autogenerate.api import AutogenContext
    from sqlalchemy import Connection, Engine

logger = logging.getLogger("sealchemy")

_SECONDS_BETWEEN_LOGS = 5.0


def render_item(kind: str, item: Any, context: AutogenContext) -> str | Literal[False]:
    """Render the types of this package as what they are in the database: an encrypted column as `sa.Text()`.

    On MySQL and MariaDB as MEDIUMTEXT, since TEXT ends at 65 535 bytes there. So revisions import nothing from here,
    and outlive the models. Pass it to `context.configure(render_item=...)` in `env.py`; where `env.py` names the
    plugin, in `autogenerate_plugins=["alembic.autogenerate.*", "sealchemy"]`, that is done.
    """
    is_ours = isinstance(item, EncryptedType) or type(item).__module__.startswith("sealchemy.")
    if kind != "type" or not isinstance(item, TypeDecorator) or not is_ours:
        return False
    if isinstance(item, EncryptedType) and context.dialect.name in {"mysql", "mariadb"}:
        context.imports.add("from sqlalchemy.dialects import mysql")
        return "mysql.MEDIUMTEXT()"
    return f"{context.opts.get('sqlalchemy_module_prefix') or 'sa.'}{item.impl_instance!r}"


class ColumnsOp(MigrateOperation):
    """What the four operations share: a table, and its columns with their contexts.

    `mirror` is the operation of the downgrade, where autogenerate wants another than the opposite one.
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
            SealchemyError: as `sealchemy.rewrite.rewrite` and `sealchemy.checks` do.
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
        """Run the operation, as the others; `legacy_reader` is that of `sealchemy.rewrite.rewrite`."""
        operation = cls(table_name, columns, schema=schema, own_transaction=own_transaction)
        operation.legacy_reader = legacy_reader
        operations.invoke(operation)


@Operations.register_operation("decrypt_columns", "invoke")
class DecryptColumnsOp(ColumnsOp):
    """Write the plaintext back; only with `alembic -x allow-plaintext=yes`.

    It drops what `require_encryption` added, if it is still there, but only when every value can be read.
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
    """Drop what `require_encryption` added."""

    name = "allow_plaintext"
    reverse_type = RequireEncryptionOp


EncryptColumnsOp.reverse_type = DecryptColumnsOp
RequireEncryptionOp.reverse_type = AllowPlaintextOp


@Operations.implementation_for(EncryptColumnsOp)
def _encrypt_columns(operations: Operations, operation: EncryptColumnsOp) -> None:
    with _bind(operations, operation, partial(check_before, ENCRYPT)) as (bind, schema):
        checks.widen(bind, operation.table_name, operation.columns, schema=schema)
        _rewrite(ENCRYPT, bind, schema, operations, operation, operation.legacy_reader)


@Operations.implementation_for(DecryptColumnsOp)
def _decrypt_columns(operations: Operations, operation: DecryptColumnsOp) -> None:
    environment = operations.migration_context.environment_context
    arguments = environment.get_x_argument(as_dictionary=True) if environment else {}
    if arguments.get("allow-plaintext") != "yes":
        message = (
            f"decrypt_columns writes the plaintext of {', '.join(operation.columns.values())} into the database, its"
            " logs and its backups. If that is what you want: alembic -x allow-plaintext=yes downgrade ..."
        )
        raise UnsupportedOperationError(message)
    with _bind(operations, operation, partial(check_before, DECRYPT)) as (bind, schema):
        if checks.is_required(bind, operation.table_name, operation.columns, schema=schema):
            # Without a value that cannot be read, or the CHECK would be gone and nothing gained.
            rewrite(
                DECRYPT, bind, operation.table_name, operation.columns, schema=schema, options=Options(dry_run=True)
            )
            checks.allow_plaintext(bind, operation.table_name, operation.columns, schema=schema)
        _rewrite(DECRYPT, bind, schema, operations, operation)


@Operations.implementation_for(RequireEncryptionOp)
def _require_encryption(operations: Operations, operation: RequireEncryptionOp) -> None:
    with _bind(operations, operation, checks.require_strict) as (bind, schema):
        checks.require_encryption(bind, operation.table_name, operation.columns, schema=schema)


@Operations.implementation_for(AllowPlaintextOp)
def _allow_plaintext(operations: Operations, operation: AllowPlaintextOp) -> None:
    with _bind(operations, operation, lambda _bind, _columns: None) as (bind, schema):
        checks.allow_plaintext(bind, operation.table_name, operation.columns, schema=schema)


@renderers.dispatch_for(ColumnsOp)
def _render(_context: AutogenContext, operation: ColumnsOp) -> list[str]:
    schema = f", schema={operation.schema!r}" if operation.schema else ""
    call = f"op.{operation.name}({str(operation.table_name)!r}, {operation.columns!r}{schema})"
    comment = operation.info.get("sealchemy_comment")
    return [comment, call] if comment else [call]


@contextmanager
def _bind(
    operations: Operations, operation: ColumnsOp, check: Callable[[Connection, Mapping[str, str]], object]
) -> Iterator[tuple[Engine | Connection, str | None]]:
    """Return what to work on, and the table's schema: the engine, behind a commit of what the migration did so far.

    What `check` refuses is refused before that commit, so that the revision can be run again as a whole.
    """
    context = operations.migration_context
    if context.as_sql:
        message = (
            f"{operation.name} reads and encrypts rows, which a script written by --sql cannot: run the revision"
            " against the database, without --sql"
        )
        raise UnsupportedOperationError(message)
    check(operations.get_bind(), operation.columns)
    schema = _schema(operations.get_bind(), operation)
    if not operation.own_transaction:
        yield operations.get_bind(), schema
        return
    with ExitStack() as stack:
        try:
            # Without the commit, another connection would not see what earlier revisions of this run did.
            stack.enter_context(context.autocommit_block())
        except AssertionError:
            inside = True
        else:
            inside = False
        if inside:
            message = (
                f"{operation.name} works in transactions of its own, but env.py handed Alembic a connection that is"
                " already in one: hand it a connection outside a transaction, or, in a test, pass own_transaction=False"
            )
            raise UnsupportedOperationError(message)
        yield operations.get_bind().engine, schema


def _schema(connection: Connection, operation: ColumnsOp) -> str | None:
    """Return where the migration's connection finds the table: another connection has another search_path."""
    mapping = connection.get_execution_options().get("schema_translate_map") or {}
    schema: str | None = mapping.get(operation.schema, operation.schema)
    if schema is not None or connection.dialect.name != "postgresql":
        return schema
    found = text(
        "SELECT nspname FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace"
        " WHERE pg_class.oid = to_regclass(quote_ident(:name))"
    )
    schema = connection.scalar(found, {"name": operation.table_name})
    return None if schema is None else str(schema)


def _rewrite(
    what: Operation,
    bind: Engine | Connection,
    schema: str | None,
    operations: Operations,
    operation: ColumnsOp,
    legacy_reader: Callable[[str], str] | None = None,
) -> None:
    environment = operations.migration_context.environment_context
    attributes = environment.config.attributes if environment else {}
    report = rewrite(
        what,
        bind,
        operation.table_name,
        operation.columns,
        schema=schema,
        progress=attributes.get("sealchemy_progress", _log_progress()),
        legacy_reader=legacy_reader,
    )
    logger.info("%s %s: %d rows", what.name, report.table, report.rewritten)
    for sentence in report.left_behind:
        logger.warning("%s %s: %s", what.name, report.table, sentence)


def _log_progress() -> Callable[[Progress], None]:
    last = time.monotonic()

    def log(progress: Progress) -> None:
        nonlocal last
        if time.monotonic() - last >= _SECONDS_BETWEEN_LOGS:
            last = time.monotonic()
            logger.info("%s: %s, %d of %d rows", *progress)

    return log
