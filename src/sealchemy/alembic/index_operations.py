"""`op.add_blind_index`: a column with the digests of a secret, filled while the application runs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from alembic.operations import Operations

from sealchemy._rewriting.options import Options
from sealchemy.errors import ColumnDefinitionError

from .columns_op import ColumnsOp


class KeepDigestsOp(ColumnsOp):
    """The downgrade of `add_blind_index`: the digests go with their column, in an operation of its own."""

    name = "keep_digests"


@Operations.register_operation("add_blind_index", "invoke")
class AddBlindIndexOp(ColumnsOp):
    """Add the column of a blind index if it is missing, and give every row the digest of its secret."""

    name = "add_blind_index"
    reverse_type = KeepDigestsOp

    index: Mapping[str, str] = {}
    normalize: Callable[[str], str] | None = None

    @classmethod
    def invoke(  # noqa: PLR0913 - Alembic makes the function in `op` from this signature
        cls,
        operations: Operations,
        table_name: str,
        columns: Mapping[str, str],
        *,
        index: str | Mapping[str, str] = {},
        normalize: Callable[[str], str] | None = None,
        schema: str | None = None,
        own_transaction: bool = True,
        accept: Collection[str] = (),
        lock_timeout: float = 5.0,
        ddl_patience: float = 300.0,
        batch_size: int = 1000,
        pause: float = 0.0,
        bind_to: Mapping[str, Sequence[str]] | Sequence[str] = (),
    ) -> None:
        """Fill the indexes of secrets, after the last process that does not know them has ended.

        Every row is decrypted and hashed again, whatever its index has, so it can be run again. In stages PREPARE and
        MIGRATE, values that are not encrypted yet are hashed as well.

        Args:
            operations: `op`.
            table_name: the table, by its name in the database.
            columns: the context of each secret, by column name.
            index: the column of the index, for one secret; or these by the column names of the secrets. By default it
                is `<secret>_index`. A column that is missing is added, as VARCHAR(64).
            normalize: the function that `BlindIndex` is declared with.
            schema: its schema, if it is not the default one.
            own_transaction: False to work in the transaction that the migration's connection is in, for tests.
            accept: what `sealchemy plan` found and you accept by its label, such as `trigger:audit_accounts`.
            lock_timeout: seconds to wait for a row that another session has locked.
            ddl_patience: seconds for which to keep trying while others use the table; each attempt waits briefly.
            batch_size: rows in a transaction.
            pause: seconds to rest between two batches.
            bind_to: the columns that the secrets are bound to, as for `bind_columns`.

        Raises:
            MissingKeyError: the key ring has no index key.
            RewriteError: secrets cannot be read, or a release that does not know the index is still writing them.
            SealchemyError: as `sealchemy.rewrite.rewrite` does.
        """
        options = Options(lock_timeout=lock_timeout, ddl_patience=ddl_patience, batch_size=batch_size, pause=pause)
        operation = cls(
            table_name,
            columns,
            schema=schema,
            own_transaction=own_transaction,
            accept=accept,
            options=options,
            bind_to=bind_to,
        )
        operation.index = index_names(columns, index)
        operation.normalize = normalize
        operations.invoke(operation)


def index_names(columns: Mapping[str, str], index: str | Mapping[str, str]) -> dict[str, str]:
    """Return the column of each index by that of its secret."""
    if isinstance(index, str):
        if len(columns) != 1:
            raise ColumnDefinitionError("add_blind_index: for several columns, index takes a mapping by column name")
        index = dict.fromkeys(columns, index)
    if unknown := index.keys() - columns.keys():
        raise ColumnDefinitionError(f"index has {', '.join(sorted(unknown))}, which are not among the columns")
    names = {name: index.get(name, f"{name}_index") for name in columns}
    if both := sorted(columns.keys() & names.values()):
        raise ColumnDefinitionError(f"add_blind_index: {', '.join(both)} is a secret, and cannot be an index as well")
    return names
