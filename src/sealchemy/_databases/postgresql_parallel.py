"""What runs that share a table ask PostgreSQL."""

from collections.abc import Sequence

import sqlalchemy as sa
from typing_extensions import override

from .parallel import Parallel
from .postgresql_columns import quoted_name
from .table import KeyText, RangeEnds, RowKey, Target

_BLOCKS_PER_RANGE = 20  # so that the largest of 64 ranges has less than twice the mean

_SIZE = """
SELECT coalesce(sum(pg_relation_size(relid)), 0), current_setting('block_size')::int
FROM (SELECT relid FROM pg_partition_tree(to_regclass(:name)) UNION SELECT to_regclass(:name)) AS tables
"""


_IDENTITY = """
SELECT concat_ws(' ', extract(epoch FROM pg_postmaster_start_time()), oid, CAST(to_regclass(:name) AS oid))
FROM pg_database WHERE datname = current_database()
"""


class PostgreSQLParallel(Parallel):
    """Boundaries come from samples of the blocks, and transactions have ids that anyone can ask about."""

    @override
    def size(self, connection: sa.Connection, target: Target) -> int:
        return int(connection.scalar(sa.text(_SIZE), {"name": quoted_name(connection, target)}) or 0)

    @override
    def boundaries(self, connection: sa.Connection, target: Target, parts: int) -> list[KeyText]:
        """Return at most `parts - 1` keys, from a sample of the table's blocks; it needs no statistics."""
        size, block = connection.execute(sa.text(_SIZE), {"name": quoted_name(connection, target)}).one()
        percent = min(100.0, 100 * parts * _BLOCKS_PER_RANGE / max(int(size) // block, 1))
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

    @override
    def range_ends(self, connection: sa.Connection, target: Target, ends: Sequence[KeyText | None]) -> RangeEnds | None:
        """Return the keys that texts stand for; None if they are in the wrong order."""
        low, high = (
            [sa.cast(sa.literal(item, sa.Text), key.type) for item, key in zip(text, target.key, strict=True)]
            if text
            else None
            for text in ends
        )
        first, last = (tuple(connection.execute(sa.select(*end)).one()) if end else None for end in (low, high))
        if first and last and not _is_before(connection, target, first, last):
            return None
        return first, last

    @override
    def identity(self, connection: sa.Connection, target: Target) -> str:
        return str(connection.scalar(sa.text(_IDENTITY), {"name": quoted_name(connection, target)}))

    @override
    def transaction_id(self, connection: sa.Connection) -> str:
        return str(connection.scalar(sa.text("SELECT CAST(pg_current_xact_id() AS text)")))

    @override
    def transaction_status(self, connection: sa.Connection, transaction: str) -> str | None:
        query = sa.text("SELECT pg_xact_status(CAST(CAST(:id AS text) AS xid8))")
        found = connection.scalar(query, {"id": transaction})
        return None if found is None else str(found)


def _is_before(connection: sa.Connection, target: Target, first: RowKey, last: RowKey) -> bool:
    """Return whether a key comes before another one in the collations of the columns, as in a walk."""
    rows = [
        sa.select(*(sa.cast(sa.literal(item, key.type), key.type) for item, key in zip(row, target.key, strict=True)))
        for row in (first, last)
    ]
    no_rows = sa.select(*target.key).select_from(target.table).where(sa.false())
    both = no_rows.union_all(*rows).subquery()
    found = connection.execute(sa.select(*both.c).order_by(*both.c).limit(1)).one()
    return first != last and tuple(found) == first
