"""Read a table in steps along its primary key, as columns."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple, TypeAlias

from sqlalchemy import ColumnElement, Integer, Select, bindparam, case, func, literal, literal_column, select

from sealchemy._databases.access import Access
from sealchemy._databases.stored_text import hide_values
from sealchemy._databases.table import RangeEnds, RowKey
from sealchemy.errors import ColumnDefinitionError

from .page import BATCH_BYTES, LARGE_ROW, Page

_COUNT = bindparam("sealchemy_count", type_=Integer())

Span: TypeAlias = tuple[RowKey | None, RowKey]
"""The rows after a key, and up to another one."""


class Query(NamedTuple):
    """A statement that selects rows, and its parameters."""

    statement: Select[Any]
    parameters: Mapping[str, Any]


class Pages:
    """The rows of a table, or of one shard or range of it.

    `first` is the key before the first of them, or None.

    Its statements are built once, with parameters for the bounds of a span: building one takes longer than to run it.
    """

    def __init__(
        self,
        access: Access,
        shard: tuple[int, int] | None = None,
        ends: RangeEnds = (None, None),
    ) -> None:
        self._access, self._target, self._database = access, access.target, access.database
        self.first, self._high_end = ends
        self.is_whole = ends == (None, None)
        self._only = [self._database.in_shard(access.target.key, *shard)] if shard else []
        sizes = [func.coalesce(self._database.size(item), 0) for item in self._target.columns]
        self._size: ColumnElement[Any] = sum(sizes[1:], sizes[0])
        self._small = [case((self._size <= LARGE_ROW, item)) for item in self._target.columns]
        self._low, self._high = (
            [bindparam(f"sealchemy_{name}_{index}", type_=item.type) for index, item in enumerate(access.target.key)]
            for name in ("low", "high")
        )
        self.within = cache(self._within)
        self._selecting, self._finding, self._going = cache(self._select), cache(self._find), cache(self._go)

    def bounds(self, span: Span) -> dict[str, Any]:
        """Return the parameters for a span."""
        low, high = span
        pairs = [*zip(self._low if low else (), low or (), strict=True), *zip(self._high, high, strict=True)]
        return {parameter.key: value for parameter, value in pairs}

    def _within(self, *, has_low: bool) -> tuple[ColumnElement[bool], ...]:
        """Return the tests for the rows of a span, which may begin with the table."""
        up_to = self._database.up_to(self._target.key, self._high)
        return (self._database.after(self._target.key, self._low), up_to) if has_low else (up_to,)

    def select(self, span: Span, limit: int | None = None, *where: ColumnElement[bool], lock: bool = False) -> Query:
        """Return the query for rows in the order of their keys; those that others have locked can be left out."""
        statement = self._selecting(where, has_low=span[0] is not None, has_limit=limit is not None, lock=lock)
        return Query(statement, self.bounds(span) | ({} if limit is None else {_COUNT.key: limit}))

    def _select(
        self, where: Sequence[ColumnElement[bool]], *, has_low: bool, has_limit: bool, lock: bool
    ) -> Select[Any]:
        query = self._selected(self._small).where(*self.within(has_low=has_low), *where, *self._only)
        query = query.order_by(*self._target.key).limit(_COUNT if has_limit else None)
        return self._database.lock(query, wait=False) if lock else query

    def _selected(self, values: Sequence[ColumnElement[Any]]) -> Select[Any]:
        return select(*self._target.key, *values, *self._target.parts.values(), self._size)

    def fetch(self, query: Query) -> Page:
        """Return the rows of a query of this class.

        They come from the driver's cursor: SQLAlchemy would log values that are not hidden yet, at echo="debug".

        Raises:
            ColumnDefinitionError: two rows have the same key, so a value could go to the wrong one.
        """
        connection, keys, parts = self._access.connection, len(self._target.key), -1 - len(self._target.parts)
        result: Any = connection.execute(*query)
        types = [item[1] for item in result.cursor.description]
        columns = _columns_of(result.cursor, len(self._target.selected) + 1)
        result.close()
        if columns is None:  # SQLAlchemy raises an error that shows nothing
            columns, types = _columns(connection.execute(*query).all(), len(self._target.selected) + 1), []
        values = zip(self._target.kinds, columns[keys:parts], strict=True)
        columns[keys:parts] = [hide_values(kind, column) for kind, column in values]  # before anything can fail
        for index, item in enumerate(self._target.key if types else ()):
            processor = item.type.dialect_impl(connection.dialect).result_processor(connection.dialect, types[index])
            if processor:
                columns[index] = list(map(processor, columns[index]))
        found = list(zip(*columns[:keys], strict=True))
        self._refuse_twins(found)
        return Page(found, columns[keys:parts], columns[parts:-1], [int(size) for size in columns[-1]])

    def read(self, query: Query, limit: int) -> tuple[Page, bool]:
        """Return as many rows of a query as are in memory at a time, and whether there may be more."""
        page = self.fetch(query)
        taken = page.rows_within(BATCH_BYTES)
        is_full = taken < len(page) or len(page) == limit
        return self.complete(page.take(range(taken)) if taken < len(page) else page), is_full

    def _refuse_twins(self, keys: Sequence[RowKey]) -> None:
        if len(set(keys)) != len(keys):
            twice = next(key for key in keys if keys.count(key) > 1)
            raise ColumnDefinitionError(
                f"table {self._target.name!r}: two rows have the primary key {twice}; nothing was changed here"
            )

    def rows(self, keys: Sequence[RowKey]) -> Page:
        """Return the rows with these keys that are still there, whatever their size."""
        return self.fetch(Query(self._database.with_keys(self._selected(self._target.columns), self._target, keys), {}))

    def lock_row(self, key: RowKey, *, wait: bool) -> Page:
        """Return the row with a key, locked, if it is still there; it may not wait for others to unlock it."""
        query = self._database.with_keys(self._selected(self._small), self._target, [key])
        return self.fetch(Query(self._database.lock(query, wait=wait), {}))

    def complete(self, page: Page) -> Page:
        """Return a page with the values of its large rows; all together have to be small enough."""
        _, groups = page.split()
        for keys in groups:
            found = self.rows(keys)
            places = {key: place for place, key in enumerate(found.keys)}
            for place, key in enumerate(page.keys):
                if key in places:
                    for values, more in zip(page.values, found.values, strict=True):
                        values[place] = more[places[key]]
        return page

    def keys(self, span: Span, *where: ColumnElement[bool]) -> list[RowKey]:
        """Return the keys of rows."""
        within = self.within(has_low=span[0] is not None)
        query = select(*self._target.key).where(*within, *where, *self._only)
        return [tuple(row) for row in self._access.connection.execute(query, self.bounds(span))]

    def has(self, span: Span, *where: ColumnElement[bool]) -> bool:
        """Return whether a span has such a row."""
        query = self._finding(where, has_low=span[0] is not None)
        return self._access.connection.scalar(query, self.bounds(span)) is not None

    def _find(self, where: Sequence[ColumnElement[bool]], *, has_low: bool) -> Select[Any]:
        query: Select[Any] = select(literal_column("1")).select_from(self._target.table)
        return query.where(*self.within(has_low=has_low), *where, *self._only).limit(1)

    def has_in_parts(self, where: ColumnElement[bool]) -> Iterator[bool]:
        """Yield, for one part of the table after the other, whether it has such a row."""
        query: Select[Any] = select(literal_column("1")).select_from(self._target.table)
        query = query.where(where, *self._only).limit(1)
        for part in self._database.parts.of(self._access.connection, self._target):
            yield self._access.connection.scalar(query.where(part)) is not None

    def last(self) -> RowKey | None:
        """Return the last key, where a walk ends: a writer may append for ever."""
        if self._high_end is not None:
            return self._high_end
        key = self._target.key
        query = select(*key).order_by(*(item.desc() for item in key)).limit(1)
        return self._key(Query(query, {}))

    def start(self, span: Span, count: int) -> Span:
        """Return the part of a span that has so many rows."""
        return span[0], self._ahead(span, count) or span[1]

    def _ahead(self, span: Span, count: int) -> RowKey | None:
        """Return the key of the row that is so many rows into a span, or None if it has fewer."""
        query = self._going(has_low=span[0] is not None)
        found = self._key(Query(query, {**self.bounds(span), _COUNT.key: count - 1}))
        if found is not None and found == span[0]:
            raise ColumnDefinitionError(
                f"table {self._target.name!r}: the primary key {found} does not equal the value in the table (a float?)"
            )
        return found

    def _go(self, *, has_low: bool) -> Select[Any]:
        key = self._target.key
        return select(*key).where(*self.within(has_low=has_low)).order_by(*key).offset(_COUNT).limit(1)

    def _key(self, query: Query) -> RowKey | None:
        found = self._access.connection.execute(*query).first()
        return None if found is None else tuple(found)

    def count(self, *where: ColumnElement[bool]) -> int:
        """Return the number of rows."""
        query, total = select(func.count()).select_from(self._target.table).where(*where, *self._only), 0
        if within := list(self._in_range()):
            with self._access.transaction(write=False):
                return self._access.connection.scalar(query.where(*within)) or 0
        with self._access.transaction(write=False, snapshot=True):
            for part in self._database.parts.of(self._access.connection, self._target):
                total += self._access.connection.scalar(query.where(part)) or 0
        return total

    def _in_range(self) -> Iterator[ColumnElement[bool]]:
        """Yield the tests for the rows between the ends, where a query has no span."""
        key = self._target.key
        for end, test in ((self.first, self._database.after), (self._high_end, self._database.up_to)):
            if end is not None:
                yield test(key, [literal(value, item.type) for value, item in zip(end, key, strict=True)])

    def count_within(self, span: Span) -> int:
        """Return the number of rows of a span, in the transaction of the connection."""
        within = self.within(has_low=span[0] is not None)
        query = select(func.count()).select_from(self._target.table).where(*within, *self._only)
        return self._access.connection.scalar(query, self.bounds(span)) or 0

    def is_empty(self) -> bool:
        """Return whether the table has no rows."""
        with self._access.transaction(write=False):
            return self._access.connection.execute(select(*self._target.key).limit(1)).first() is None


def _columns_of(cursor: Any, width: int) -> list[Any] | None:
    """Return what a cursor has; None if that fails, since the error may quote a value."""
    try:
        return _columns(cursor.fetchall(), width)
    except Exception:  # noqa: BLE001 - whatever it is
        return None


def _columns(rows: Sequence[Sequence[Any]], width: int) -> list[Any]:
    return list(zip(*rows, strict=True)) or [()] * width
