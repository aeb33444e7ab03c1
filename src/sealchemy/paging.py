"""Reading a table page by page, in the order of its primary key."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import func, not_, select

from .errors import ColumnDefinitionError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sqlalchemy import ColumnElement, Row, Select

    from .backend import Key
    from .backends import Access


class Pages:
    """The rows of a table, or of one shard of it."""

    def __init__(self, access: Access, shard: tuple[int, int] | None = None) -> None:
        self._access, self._target = access, access.target
        self._only = [access.backend.in_shard(access.target.key, *shard)] if shard else []

    def select(self, after: Key | None, limit: int, *where: ColumnElement[bool]) -> Select[Any]:
        """Return the query for the next rows behind a key."""
        key = self._target.key
        behind = [] if after is None else [self._access.backend.behind(key, after)]
        query = select(*key, *self._target.columns).where(*where, *self._only, *behind)
        return query.order_by(*key).limit(limit)

    def read(self, size: int, *where: ColumnElement[bool]) -> Iterator[Sequence[Row[Any]]]:
        """Read pages of rows without locking them, each in a transaction of its own."""
        after: Key | None = None
        where = (*where, *self.until_now())
        while True:
            with self._access.transaction(write=False):
                rows = self._access.connection.execute(self.select(after, size, *where)).all()
            yield rows
            if len(rows) < size:
                return
            after = self.last_key(rows, after)

    def until_now(self) -> list[ColumnElement[bool]]:
        """Return the test for the rows up to the last one that there is now: a writer may append for ever."""
        key = self._target.key
        with self._access.transaction(write=False):
            query = select(*key).order_by(*(item.desc() for item in key)).limit(1)
            last = self._access.connection.execute(query).first()
        return [] if last is None else [not_(self._access.backend.behind(key, tuple(last)))]

    def count(self, *where: ColumnElement[bool]) -> int:
        """Return how many rows there are."""
        query = select(func.count()).select_from(self._target.table).where(*where, *self._only)
        with self._access.transaction(write=False):
            return self._access.connection.scalar(query) or 0

    def key(self, row: Row[Any]) -> Key:
        """Return the primary key of a row that `select` or `read` gave."""
        return tuple(row[: len(self._target.key)])

    def by_key(self, rows: Sequence[Row[Any]]) -> dict[Key, Key]:
        """Return the values of rows by their primary keys.

        Raises:
            ColumnDefinitionError: two rows have one, so that a value would go to the wrong one.

        """
        size = len(self._target.key)
        found = {self.key(row): tuple(row[size:]) for row in rows}
        if len(found) != len(rows):
            keys = [self.key(row) for row in rows]
            twice = next(key for key in keys if keys.count(key) > 1)
            message = f"table {self._target.name!r}: two rows have the primary key {twice}; nothing was changed here"
            raise ColumnDefinitionError(message)
        return found

    def last_key(self, rows: Sequence[Row[Any]], after: Key | None) -> Key:
        """Return the key to go on behind; one that does not advance would make the pages repeat for ever."""
        key = self.key(rows[-1])
        if key == after:
            message = (
                f"table {self._target.name!r}: the primary key {key} does not compare as it is stored (a real number?)"
            )
            raise ColumnDefinitionError(message)
        return key
