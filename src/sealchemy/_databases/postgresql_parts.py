"""Parts of a table on PostgreSQL, by where its rows are stored."""

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy.types import UserDefinedType
from typing_extensions import override

from .parts import Parts
from .postgresql_columns import quoted_name
from .table import Target

_BYTES = 128 * 2**20  # with those of large values, which are read in a moment

_TABLES = "(SELECT relid FROM pg_partition_tree(to_regclass(:name)) UNION SELECT to_regclass(:name)) AS tables"
_SIZES = f"""
SELECT coalesce(max(pg_relation_size(relid) / current_setting('block_size')::int), 0),
    coalesce(sum(pg_table_size(relid)), 0)
FROM {_TABLES}
"""  # noqa: S608 - constants
_REPLACED = f"""
SELECT count(*) FROM pg_class JOIN {_TABLES} ON relid = oid
WHERE relkind = 'r' AND relfilenode <> pg_relation_filenode(oid)
"""  # noqa: S608 - as above
"""A row of pg_class is that of the snapshot; the function returns what is true now."""


class _TID(UserDefinedType[str]):
    cache_ok = True

    def get_col_spec(self, **_options: Any) -> str:
        return "tid"


class PostgreSQLParts(Parts):
    """The blocks of a table, and at the same time those of its partitions."""

    are_short = True

    @override
    def of(self, connection: sa.Connection, target: Target) -> Iterator[sa.ColumnElement[bool]]:
        """Yield tests for blocks; the last one has no end, as outside of a snapshot the table may grow meanwhile."""
        longest, size = connection.execute(sa.text(_SIZES), {"name": quoted_name(connection, target)}).one()
        step = max(int(longest * _BYTES // max(size, 1)), 1)
        place = sa.literal_column("ctid", _TID())
        for start in range(0, max(longest, 1), step):
            after = place >= sa.cast(sa.literal(f"({start},0)"), _TID())
            is_last = start + step >= longest
            yield after if is_last else sa.and_(after, place < sa.cast(sa.literal(f"({start + step},0)"), _TID()))

    @override
    def are_replaced(self, connection: sa.Connection, target: Target) -> bool:
        return bool(connection.scalar(sa.text(_REPLACED), {"name": quoted_name(connection, target)}))
