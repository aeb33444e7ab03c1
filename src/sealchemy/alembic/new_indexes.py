"""What autogenerate writes for a new blind index."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Any

from alembic.operations.ops import AddColumnOp, MigrateOperation

from sealchemy._column.blind_index.pairs import is_index, secret_of

from .index_operations import AddBlindIndexOp

FILL = "# with a live application: in a later revision, once no process is left that does not know the index"


def let_index_be_null(operation: MigrateOperation) -> None:
    """Let the column of a new index be NULL, until the rows have their digests."""
    if isinstance(operation, AddColumnOp) and is_index(operation.column.type):
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
