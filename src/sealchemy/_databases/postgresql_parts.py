"""Parts of a table on PostgreSQL, by where its rows are stored."""

from collections.abc import Iterator

import sqlalchemy as sa

from .postgresql_columns import quoted_name
from .table import Target

_BLOCKS = 16_384  # of 8 KiB, which are read in a moment
_FEWEST = 64  # of one partition

_SIZES = """
SELECT coalesce(max(pg_relation_size(relid) / current_setting('block_size')::int), 0), count(*)
FROM (SELECT relid FROM pg_partition_tree(to_regclass(:name)) UNION SELECT to_regclass(:name)) AS tables
"""


def parts(connection: sa.Connection, target: Target) -> Iterator[sa.ColumnElement[bool]]:
    """Yield tests for the blocks of the table, and at the same time of its partitions."""
    longest, tables = connection.execute(sa.text(_SIZES), {"name": quoted_name(connection, target)}).one()
    step = max(_BLOCKS // tables, _FEWEST)
    for start in range(0, max(longest, 1), step):
        up_to = f" AND ctid < '({start + step},0)'" if start + step < longest else ""
        yield sa.literal_column(f"ctid >= '({start},0)'{up_to}", sa.Boolean())
