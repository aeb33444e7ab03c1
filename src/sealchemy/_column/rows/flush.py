"""How an ORM flush writes to columns whose values are bound to their row.

An UPDATE of the ORM names its row by the primary key. So a new value goes to it with the row that the object has, and
a row that moves, because a column changed to which values are bound, takes its other secrets along: they are read,
locked, and encrypted again.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

from sqlalchemy import Column, Connection, Table, column, event, false, inspect, select, update
from sqlalchemy import table as light_table
from sqlalchemy.orm import Mapper
from sqlalchemy.orm.attributes import flag_modified
from sqlalchemy.orm.base import NO_VALUE
from sqlalchemy.orm.exc import StaleDataError
from sqlalchemy.sql.elements import ClauseElement

from sealchemy._column.encrypted_type import encrypted_type
from sealchemy._values.rows import RowValue
from sealchemy._values.secret import hide

from .parts import find_parts


class BoundAttribute(NamedTuple):
    """An attribute whose values are bound to others: its key, its column, and the keys and columns of these.

    Attributes:
        key: of the attribute.
        column: its column.
        parts: by name in `bind_to`: the key of the attribute, and its column.
    """

    key: str
    column: Column[Any]
    parts: dict[str, tuple[str, Any]]


class _FlushValue(RowValue):
    """A value while its object is flushed; `is_loaded` says whether it stays in the object."""

    __slots__ = ("is_loaded",)

    def __init__(self, value: Any, row: dict[str, Any], *, is_loaded: bool) -> None:
        super().__init__(value, **row)
        self.is_loaded = is_loaded


def bound_attribute(mapper: Mapper[Any], key: str, column: Any) -> BoundAttribute:
    """Return an attribute of a mapper whose column has bound values."""
    names = getattr(encrypted_type(column.type), "bind_to", ())
    parts = find_parts(column, names) or ()
    keys = [mapper.get_property_by_column(part).key for part in parts]
    return BoundAttribute(key, column, dict(zip(names, zip(keys, parts, strict=True), strict=False)))


def listen(mapper: Mapper[Any], attributes: list[BoundAttribute]) -> None:
    """Have the flushes of a mapper write its bound values."""

    def before_update(_mapper: Mapper[Any], connection: Connection, target: Any) -> None:
        state = inspect(target)
        moved = [item for item in attributes if _is_moved(state, item)]
        _take_along([item for item in moved if not _is_changed(state, item.key)], mapper, connection, target)
        for item in attributes:
            value = state.dict.get(item.key)
            is_bare = value is not None and not isinstance(value, RowValue | ClauseElement)
            if is_bare and _is_changed(state, item.key):
                row = {name: getattr(target, key) for name, (key, _) in item.parts.items()}
                state.dict[item.key] = _FlushValue(value, row, is_loaded=True)

    def after_update(_mapper: Mapper[Any], _connection: Connection, target: Any) -> None:
        _put_back(inspect(target), attributes)

    def refresh(target: Any, *_: object) -> None:
        """Take the value of a `RowValue`, which synchronize_session="evaluate" assigns."""
        _put_back(inspect(target), attributes)

    event.listen(mapper, "before_update", before_update)
    event.listen(mapper, "after_update", after_update)
    event.listen(mapper, "refresh", refresh)


def _put_back(state: Any, attributes: Iterable[BoundAttribute]) -> None:
    for item in attributes:
        value = state.dict.get(item.key)
        if isinstance(value, RowValue):
            if getattr(value, "is_loaded", True):
                inner = value.get_secret_value()
                state.dict[item.key] = hide(inner) if isinstance(inner, str) else inner
            else:
                state.dict.pop(item.key)
                state.committed_state.pop(item.key, None)


def _is_changed(state: Any, key: str) -> bool:
    return bool(state.attrs[key].history.has_changes())


def _is_moved(state: Any, attribute: BoundAttribute) -> bool:
    return any(_is_changed(state, key) for key, _ in attribute.parts.values())


def _take_along(attributes: list[BoundAttribute], mapper: Mapper[Any], connection: Connection, target: Any) -> None:
    """Read the secrets of a row that moves, and have the flush write them again."""
    state: Any = inspect(target)
    for table in {item.column.table for item in attributes}:
        found = [item for item in attributes if item.column.table is table]
        row = _read_locked(table, found, mapper, connection, state)
        for item, value in zip(found, row, strict=False):
            is_loaded = item.key in state.dict
            state.dict[item.key] = value
            flag_modified(target, item.key)
            if value is not None:
                new = {name: getattr(target, key) for name, (key, _) in item.parts.items()}
                state.dict[item.key] = _FlushValue(value, new, is_loaded=is_loaded)


def _read_locked(
    table: Table, attributes: list[BoundAttribute], mapper: Mapper[Any], connection: Connection, state: Any
) -> list[Any]:
    """Return the secrets of a row.

    Raises:
        StaleDataError: another session moved or deleted it.
    """
    identity = dict(
        zip((mapper.get_property_by_column(key).key for key in mapper.primary_key), state.key[1], strict=True)
    )
    where = [key == identity[mapper.get_property_by_column(key).key] for key in table.primary_key]
    parts = {key: column for item in attributes for key, column in item.parts.values()}
    query = select(*(item.column for item in attributes), *parts.values()).where(*where).with_for_update()
    compiler: Any = query.compile(dialect=connection.dialect)
    if not compiler.for_update_clause(query):
        # SQLite locks the file, and only when something is written.
        name = next(iter(table.primary_key)).name
        bare = light_table(table.name, column(name), schema=table.schema)
        connection.execute(update(bare).where(false()).values({name: bare.c[name]}))
    row = connection.execute(query).one_or_none()
    old = {key: _committed(state, key) for key in parts}
    found = {} if row is None else dict(zip(parts, row[len(attributes) :], strict=True))
    if row is None or any(value is not NO_VALUE and value != found[key] for key, value in old.items()):
        message = f"a row of {table.name} was moved or deleted by another session; its secrets are bound to the row"
        raise StaleDataError(message)
    return list(row[: len(attributes)])


def _committed(state: Any, key: str) -> Any:
    """Return the value of an attribute that the database had when it was loaded, if that is known."""
    history = state.attrs[key].history
    values = history.deleted if history.has_changes() else history.unchanged
    return next(iter(values or ()), NO_VALUE)
