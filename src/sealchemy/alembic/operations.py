"""Alembic operations: `op.encrypt_columns` and its relatives, as they are called, reversed and rendered."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from alembic.autogenerate.render import renderers  # not from alembic.autogenerate: this runs during its import
from alembic.operations import MigrateOperation, Operations
from sqlalchemy.types import TypeDecorator

from sealchemy._column.encrypted_type import EncryptedType

if TYPE_CHECKING:  # Alembic loads this module while it is itself being imported
    from alembic.autogenerate.api import AutogenContext


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


@renderers.dispatch_for(ColumnsOp)
def _render(_context: AutogenContext, operation: ColumnsOp) -> list[str]:
    schema = f", schema={operation.schema!r}" if operation.schema else ""
    call = f"op.{operation.name}({str(operation.table_name)!r}, {operation.columns!r}{schema})"
    comment = operation.info.get("sealchemy_comment")
    return [comment, call] if comment else [call]
