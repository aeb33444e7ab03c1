"""Parts of a table on PostgreSQL, by where its rows are stored."""

from collections.abc import Iterator

import sqlalchemy as sa

from .postgresql_columns import quoted_name
from .table import Target

_BLOCKS = 16_384  # of 8 KiB, which are read in a moment

_LONGEST = """
SELECT coalesce(max(pg_relation_size(relid) / current_setting('block_size')::int), 0)
FROM (SELECT relid FROM pg_partition_tree(to_regclass(:name)) UNION SELECT to_regclass(:name)) AS tables
"""


def parts(connection: sa.Connection, target: Target) -> Iterator[sa.ColumnElement[bool]]:
    """Yield tests for the blocks of the table, and at the same time of its partitions."""
    blocks = connection.scalar(sa.text(_LONGEST), {"name": quoted_name(connection, target)}) or 0
    for start in range(0, blocks, _BLOCKS):
        yield sa.literal_column(f"ctid >= '({start},0)' AND ctid < '({start + _BLOCKS},0)'", sa.Boolean())
