"""Alembic operations: `op.encrypt_columns` and its relatives, as they are called and reversed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from alembic.operations import Operations

from sealchemy._rewriting.options import Options

from .columns_op import ColumnsOp
from .definition_operations import AllowPlaintextOp, AllowUnboundOp, RequireEncryptionOp, StayWideOp, WidenColumnsOp

__all__ = [
    "AllowPlaintextOp",
    "AllowUnboundOp",
    "BindColumnsOp",
    "ColumnsOp",
    "DecryptColumnsOp",
    "EncryptColumnsOp",
    "RequireEncryptionOp",
    "RewriteOp",
    "StayWideOp",
    "UnbindColumnsOp",
    "WidenColumnsOp",
]


class RewriteOp(ColumnsOp):
    """An operation that rewrites values."""

    @classmethod
    def invoke(  # noqa: PLR0913 - Alembic makes the function in `op` from this signature
        cls,
        operations: Operations,
        table_name: str,
        columns: Mapping[str, str],
        *,
        schema: str | None = None,
        own_transaction: bool = True,
        accept: Collection[str] = (),
        lock_timeout: float = 5.0,
        ddl_patience: float = 300.0,
        batch_size: int = 1000,
        pause: float = 0.0,
        legacy_reader: Callable[[str], str | bytes] | None = None,
        kinds: Mapping[str, str] = {},
        bind_to: Mapping[str, Sequence[str]] | Sequence[str] = (),
    ) -> None:
        """Rewrite the values of the columns.

        Args:
            operations: `op`.
            table_name: the table, by its name in the database.
            columns: the context of each column, by column name.
            schema: its schema, if it is not the default one.
            own_transaction: False to work in the transaction that the migration's connection is in, for tests.
            accept: what `sealchemy plan` found and you accept by its label, such as `trigger:audit_accounts`.
            lock_timeout: seconds to wait for a row that another session has locked.
            ddl_patience: seconds for which to keep trying while others use the table; each attempt waits briefly.
            batch_size: rows in a transaction.
            pause: seconds to rest between two batches.
            legacy_reader: see `sealchemy.rewrite.rewrite`; `encrypt_columns` only.
            kinds: `"json"` or `"bytes"` for columns of `EncryptedJSON` or `EncryptedBytes`, by column name.
            bind_to: the columns that values are bound to, by their names in the database, in the order of the models:
                a sequence for all columns, or a mapping by column name.

        Raises:
            SealchemyError: as `sealchemy.rewrite.rewrite` does.
            UnsupportedOperationError: something stands in the way, as `sealchemy plan` shows it; the rollout stage is
                the wrong one; or offline mode (`--sql`).
            UnknownKeyError: values are under keys that are not in the ring.
        """
        options = Options(lock_timeout=lock_timeout, ddl_patience=ddl_patience, batch_size=batch_size, pause=pause)
        operation = cls(
            table_name,
            columns,
            schema=schema,
            own_transaction=own_transaction,
            accept=accept,
            options=options,
            legacy_reader=legacy_reader,
            kinds=kinds,
            bind_to=bind_to,
        )
        operations.invoke(operation)


@Operations.register_operation("encrypt_columns", "invoke")
class EncryptColumnsOp(RewriteOp):
    """Widen columns if that is still to do, and encrypt their plaintext in place."""

    name = "encrypt_columns"


@Operations.register_operation("decrypt_columns", "invoke")
class DecryptColumnsOp(RewriteOp):
    """Write the plaintext back; only with `alembic -x allow-plaintext=yes`, unless the table is empty.

    It also drops the CHECK of `require_encryption`, if there still is one, but only when every value can be read.
    """

    name = "decrypt_columns"
    reverse_type = EncryptColumnsOp


@Operations.register_operation("bind_columns", "invoke")
class BindColumnsOp(RewriteOp):
    """Bind encrypted values to their row, in place; in every stage but PREPARE."""

    name = "bind_columns"


@Operations.register_operation("unbind_columns", "invoke")
class UnbindColumnsOp(RewriteOp):
    """Turn values that are bound to their row into unbound ones; in stage BIND_PREPARE, unless the table is empty."""

    name = "unbind_columns"
    reverse_type = BindColumnsOp


EncryptColumnsOp.reverse_type = DecryptColumnsOp
BindColumnsOp.reverse_type = UnbindColumnsOp
