"""What `op.add_blind_index` does when a revision runs."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from alembic.operations import Operations
from sqlalchemy import Connection

from sealchemy._column.blind_index.index_type import BlindIndex
from sealchemy._column.engine_keys import engine_keys
from sealchemy._databases.table import inspecting
from sealchemy._inspection import preflight
from sealchemy._rewriting.blind_index import filling
from sealchemy._rewriting.blind_index.index_columns import IndexColumns, add_column, open_columns
from sealchemy.rewrite import REKEY

from .command_errors import implements
from .implementations import opened
from .index_operations import AddBlindIndexOp, KeepDigestsOp
from .progress import progress_of

logger = logging.getLogger("sealchemy")


@implements(AddBlindIndexOp)
def _add_blind_index(operations: Operations, operation: AddBlindIndexOp) -> None:
    def require(connection: Connection, columns: Mapping[str, str]) -> None:
        for context in columns.values():
            engine_keys(connection.dialect).digester(context)  # raises without a key

    with opened(operations, operation, require) as access:
        findings = preflight.inspect_columns(access)
        preflight.refuse_obstacles(access, findings, REKEY, operation.accept, widens=False)
        with inspecting(access.connection) as inspector:
            found = inspector.get_columns(access.target.table.name, access.target.table.schema)
        if access.owns_connection:
            access.connection.commit()
        for name in operation.index.values():
            if name not in {item["name"] for item in found}:
                add_column(access, name)
        for secret, context in operation.columns.items():
            type_ = BlindIndex(context, operation.normalize)
            name, bind_to = operation.index[secret], operation.bind_to.get(secret, ())
            table = access.target.table
            columns = IndexColumns(table.name, secret, name, type_, table.schema, bind_to)
            report = filling.fill(open_columns(access, columns), columns, operation.options, progress_of(operations))
            logger.info("%s %s.%s: %d rows", operation.name, report.table, columns.column, report.rewritten)


@implements(KeepDigestsOp)
def _keep_digests(_operations: Operations, _operation: KeepDigestsOp) -> None:
    """Do nothing: the digests go with their column."""
