"""Alembic operations that change the definition of a table: its CHECK, and the width of its columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from alembic.operations import Operations

from sealchemy._rewriting.options import Options

from .columns_op import ColumnsOp


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

    @classmethod
    def invoke(
        cls,
        operations: Operations,
        table_name: str,
        columns: Mapping[str, str],
        *,
        schema: str | None = None,
        own_transaction: bool = True,
        lock_timeout: float = 5.0,
        ddl_patience: float = 300.0,
        bound: bool = False,
    ) -> None:
        """Have the database refuse plaintext, and with `bound` also values that are not bound to their row.

        The other arguments, and the errors, are those of `widen_columns`; a stage that is not STRICT is an error.
        """
        options = Options(lock_timeout=lock_timeout, ddl_patience=ddl_patience)
        operation = cls(
            table_name, columns, schema=schema, own_transaction=own_transaction, options=options, bound=bound
        )
        operations.invoke(operation)


@Operations.register_operation("allow_plaintext", "invoke")
class AllowPlaintextOp(_ColumnNamesOp):
    """Drop the CHECK of `require_encryption`."""

    name = "allow_plaintext"
    reverse_type = RequireEncryptionOp


@Operations.register_operation("widen_columns", "invoke")
class WidenColumnsOp(_ColumnNamesOp):
    """Make columns wide enough for ciphertext, before any process writes it."""

    name = "widen_columns"


class StayWideOp(_ColumnNamesOp):
    """The downgrade of `widen_columns`, which does nothing: narrower columns would cut values."""

    name = "stay_wide"
    reverse_type = WidenColumnsOp


@Operations.register_operation("allow_unbound", "invoke")
class AllowUnboundOp(_ColumnNamesOp):
    """Let values pass that are not bound to their row: the reverse of `require_encryption` with `bound`."""

    name = "allow_unbound"


WidenColumnsOp.reverse_type = StayWideOp
RequireEncryptionOp.reverse_type = AllowPlaintextOp
AllowUnboundOp.reverse_type = RequireEncryptionOp
