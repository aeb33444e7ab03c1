"""Alembic operations: `op.encrypt_columns` and its relatives, as they are called and reversed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, ClassVar

from alembic.operations import MigrateOperation, Operations

from sealchemy._rewriting.options import Options
from sealchemy._rewriting.stages import spread
from sealchemy.errors import ColumnDefinitionError


class ColumnsOp(MigrateOperation):
    """What the operations share: a table, its columns with their contexts, and how they are run.

    `mirror` is the operation of the downgrade, where autogenerate needs one other than the reverse.
    """

    name: ClassVar[str]
    reverse_type: ClassVar[type[ColumnsOp]]
    mirror: MigrateOperation | None = None

    def __init__(  # noqa: PLR0913 - all but the first two are options
        self,
        table_name: str,
        columns: Mapping[str, str],
        *,
        schema: str | None = None,
        own_transaction: bool = True,
        accept: Collection[str] = (),
        options: Options = Options(),  # noqa: B008 - it cannot be changed
        legacy_reader: Callable[[str], str | bytes] | None = None,
        kinds: Mapping[str, str] = {},
        bind_to: Mapping[str, Sequence[str]] | Sequence[str] = (),
        bound: bool = False,
    ) -> None:
        if not isinstance(columns, Mapping) or not isinstance(kinds, Mapping):
            raise ColumnDefinitionError(f"{self.name}: columns and kinds take a mapping by column name")
        self.table_name, self.columns, self.kinds = table_name, dict(columns), dict(kinds)
        self.bind_to, self.bound = spread(self.columns, bind_to), bound
        self.schema, self.own_transaction = schema, own_transaction
        self.accept, self.options, self.legacy_reader = accept, options, legacy_reader

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
    ) -> None:
        """Change the definition of the columns.

        Args:
            operations: `op`.
            table_name: the table, by its name in the database.
            columns: the context of each column, by column name; or column names alone, whose contexts are then
                `<table name>.<column name>`.
            schema: its schema, if it is not the default one.
            own_transaction: False to work in the transaction that the migration's connection is in, for tests.
            lock_timeout: seconds to wait for a row that another session has locked.
            ddl_patience: seconds for which to keep trying while others use the table; each attempt waits briefly.

        Raises:
            RewriteError: there is plaintext; or others used the table for all that time.
            SealchemyError: a stage is not STRICT; the table or a column is not as it must be.
            UnsupportedOperationError: in offline mode (`--sql`).
        """
        options = Options(lock_timeout=lock_timeout, ddl_patience=ddl_patience)
        operations.invoke(cls(table_name, columns, schema=schema, own_transaction=own_transaction, options=options))

    def reverse(self) -> MigrateOperation:
        """Return the operation of the downgrade."""
        return self.mirror or self.reverse_type(
            self.table_name,
            self.columns,
            schema=self.schema,
            own_transaction=self.own_transaction,
            accept=self.accept,
            kinds=self.kinds,
            bind_to=self.bind_to,
            bound=self.bound,
        )

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """Return what `alembic check` prints."""
        return (self.name, self.schema, self.table_name, self.columns)


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
        bound: bool = False,
        schema: str | None = None,
        own_transaction: bool = True,
        lock_timeout: float = 5.0,
        ddl_patience: float = 300.0,
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


EncryptColumnsOp.reverse_type = DecryptColumnsOp
BindColumnsOp.reverse_type = UnbindColumnsOp
WidenColumnsOp.reverse_type = StayWideOp
RequireEncryptionOp.reverse_type = AllowPlaintextOp
