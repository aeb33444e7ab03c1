"""Boundaries on PostgreSQL that divide a table into ranges of about the same number of rows."""

from collections.abc import Sequence

import sqlalchemy as sa

from .postgresql_arrays import typed
from .postgresql_columns import quoted_name
from .table import RowKey, Target

_BLOCKS_PER_RANGE = 20  # so that the largest of 64 ranges has less than twice the mean

_BLOCKS = """
SELECT coalesce(sum(pg_relation_size(relid)), 0) / current_setting('block_size')::int
FROM (SELECT relid FROM pg_partition_tree(to_regclass(:name)) UNION SELECT to_regclass(:name)) AS tables
"""


def boundaries(connection: sa.Connection, target: Target, parts: int) -> list[tuple[str, ...]]:
    """Return at most `parts - 1` keys, from a sample of the table's blocks; it needs no statistics."""
    blocks = int(connection.scalar(sa.text(_BLOCKS), {"name": quoted_name(connection, target)}) or 0)
    percent = min(100.0, 100 * parts * _BLOCKS_PER_RANGE / max(blocks, 1))
    sample = sa.tablesample(target.table, sa.func.system(percent), name="sample")
    key = [sa.column(item.name, item.type) for item in target.key]
    part = sa.func.ntile(parts).over(order_by=key).label("sealchemy_part")
    numbered = sa.select(*key, part).select_from(sample).subquery()
    found, number = [numbered.c[item.name] for item in key], numbered.c.sealchemy_part
    following = sa.func.lead(number).over(order_by=found).label("sealchemy_next")
    pairs = sa.select(*numbered.c, following).subquery()
    texts = [sa.cast(pairs.c[item.name], sa.Text) for item in key]
    is_last = pairs.c.sealchemy_next > pairs.c.sealchemy_part
    query = sa.select(*texts).where(is_last).order_by(pairs.c.sealchemy_part)
    return [tuple(row) for row in connection.execute(query)]


def key_of(connection: sa.Connection, target: Target, text: Sequence[str]) -> RowKey:
    """Return the key that a text stands for."""
    values = [sa.cast(sa.literal(item, sa.Text), key.type) for item, key in zip(text, target.key, strict=True)]
    return tuple(connection.execute(sa.select(*values)).one())


def is_before(connection: sa.Connection, target: Target, low: RowKey, high: RowKey) -> bool:
    """Return whether a key comes before another one in the order of the table."""
    first, second = (
        typed(target.key, [sa.literal(item, key.type) for item, key in zip(row, target.key, strict=True)])
        for row in (low, high)
    )
    return bool(connection.scalar(sa.select(first < second)))
