"""`ColumnsOp`, which the operations share."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
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
