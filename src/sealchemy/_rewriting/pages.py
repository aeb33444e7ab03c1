"""Read a table page by page, in the order of its primary key."""

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, func, not_, select

from sealchemy._databases.access import Access
from sealchemy._databases.table import RowKey
from sealchemy.errors import ColumnDefinitionError


class Pages:
    """The rows of a table, or of one shard of it."""

    def __init__(self, access: Access, shard: tuple[int, int] | None = None) -> None:
        self._access, self._target, self._database = access, access.target, access.database
        self._only = [self._database.in_shard(access.target.key, *shard)] if shard else []

    def select(self, previous: RowKey | None, limit: int, *where: ColumnElement[bool]) -> Select[Any]:
        """Return the query for the next rows after a key."""
        key = self._target.key
        after = [] if previous is None else [self._database.after(key, previous)]
        query = select(*self._target.selected).where(*where, *self._only, *after)
        return query.order_by(*key).limit(limit)

    def read(self, size: int, *where: ColumnElement[bool]) -> Iterator[Sequence[Row[Any]]]:
        """Read pages of rows without locking them, each in a transaction of its own."""
        previous: RowKey | None = None
        where = (*where, *self.until_now())
        while True:
            with self._access.transaction(write=False):
                rows = self._access.connection.execute(self.select(previous, size, *where)).all()
            yield rows
            if len(rows) < size:
                return
            previous = self.last_key(rows, previous)

    def until_now(self) -> list[ColumnElement[bool]]:
        """Return the test for the rows up to the one that is last now: a writer may append for ever."""
        key = self._target.key
        with self._access.transaction(write=False):
            query = select(*key).order_by(*(item.desc() for item in key)).limit(1)
            last = self._access.connection.execute(query).first()
        return [] if last is None else [not_(self._database.after(key, tuple(last)))]

    def count(self, *where: ColumnElement[bool]) -> int:
        """Return the number of rows."""
        query = select(func.count()).select_from(self._target.table).where(*where, *self._only)
        with self._access.transaction(write=False):
            return self._access.connection.scalar(query) or 0

    def is_empty(self) -> bool:
        """Return whether the table has no rows."""
        with self._access.transaction(write=False):
            return self._access.connection.execute(select(*self._target.key).limit(1)).first() is None

    def key(self, row: Row[Any]) -> RowKey:
        """Return the primary key of a row from `select` or `read`."""
        return tuple(row[: len(self._target.key)])

    def by_key(self, rows: Sequence[Row[Any]]) -> dict[RowKey, RowKey]:
        """Return the values of rows by their primary keys.

        Raises:
            ColumnDefinitionError: two rows have the same key, so a value could go to the wrong one.
        """
        size = len(self._target.key)
        found = {self.key(row): tuple(row[size:]) for row in rows}
        if len(found) != len(rows):
            keys = [self.key(row) for row in rows]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise ColumnDefinitionError(
                f"table {self._target.name!r}: two rows have the primary key {twice}; nothing was changed here"
            )
        return found

    def last_key(self, rows: Sequence[Row[Any]], previous: RowKey | None) -> RowKey:
        """Return the key to continue after; one that does not advance would repeat the page for ever."""
        key = self.key(rows[-1])
        if key == previous:
            raise ColumnDefinitionError(
                f"table {self._target.name!r}: the primary key {key} does not equal the value in the table (a float?)"
            )
        return key
