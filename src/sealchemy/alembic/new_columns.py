"""What autogenerate writes for new encrypted columns and blind indexes in a table that exists."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Any

from alembic.operations.ops import AddColumnOp, MigrateOperation

from sealchemy._column.blind_index.pairs import is_index, secret_of
from sealchemy._column.encrypted_type import encrypted_type

from .index_operations import AddBlindIndexOp

FILL = "# with a live application: in a later revision, once no process is left that does not know the index"


def let_column_be_null(operation: MigrateOperation) -> None:
    """Let a new column of a table that exists be NULL, until its rows have values.

    NOT NULL without a default fails there, or on MariaDB stores an empty plaintext, and the revision ends halfway.
    """
    if isinstance(operation, AddColumnOp) and (
        is_index(operation.column.type) or encrypted_type(operation.column.type)
    ):
        operation.column = operation.column._copy()  # noqa: SLF001 - as Alembic does
        operation.column.nullable = True


def fill_indexes(
    table: str, schema: str | None, new: Iterable[Any], stored: Container[str], bind_to: Mapping[str, Sequence[str]]
) -> Iterator[AddBlindIndexOp]:
    """Yield the operations that fill the indexes among the new columns of a table, if their secret has values."""
    for index in new:
        if not is_index(index.type) or (secret := secret_of(index).name) not in stored:
            continue
        bound = {secret: bind_to[secret]} if secret in bind_to else {}
        fill = AddBlindIndexOp(table, {secret: index.type.context}, schema=schema, bind_to=bound)
        fill.index, fill.normalize = {secret: index.name}, index.type.normalize
        fill.info["sealchemy_comment"] = FILL
        yield fill
