"""How an ORM flush writes to columns whose values are bound to their row.

An UPDATE of the ORM names its row by the primary key. So a new value goes to it with the row that the object has, and
a row that moves, because a column changed to which values are bound, takes its other secrets along: they are read,
locked, and encrypted again.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, NoReturn

from sqlalchemy import Column, Connection, MetaData, Table, event, false, select, update
from sqlalchemy.orm import Mapper, object_session
from sqlalchemy.orm.attributes import flag_modified, get_history
from sqlalchemy.orm.base import NO_VALUE, PASSIVE_NO_INITIALIZE
from sqlalchemy.orm.exc import StaleDataError
from sqlalchemy.sql.elements import ClauseElement
from sqlalchemy.types import NullType

from sealchemy._column.encrypted_type import EncryptedType, require_encrypted
from sealchemy._values.rows import RowValue
from sealchemy.errors import UnsupportedOperationError

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


_UNLOADED = object()


class _FlushValue(RowValue):
    """A value while its object is flushed, with the row that the object has, and what is in the object otherwise."""

    __slots__ = ("_attribute", "_target", "before")

    def __init__(self, value: Any, attribute: BoundAttribute, target: Any, before: Any) -> None:
        self._value, self._attribute, self._target, self.before = value, attribute, target, before

    @property
    def row(self) -> dict[str, Any]:  # type: ignore[override] # listeners may still change the object
        """The values of the attributes that the value is bound to, none of which may be None."""
        found = {name: getattr(self._target, key) for name, (key, _) in self._attribute.parts.items()}
        if None in found.values():
            _refuse_null(found, self._attribute)
        return found


def bound_attribute(mapper: Mapper[Any], key: str, column: Any) -> BoundAttribute:
    """Return an attribute of a mapper whose column has bound values."""
    names = require_encrypted(column.type).bind_to
    parts = find_parts(column, names) or ()
    keys = [mapper.get_property_by_column(part).key for part in parts]
    return BoundAttribute(key, column, dict(zip(names, zip(keys, parts, strict=True), strict=False)))


def listen(mapper: Mapper[Any], attributes: list[BoundAttribute]) -> None:
    """Have the flushes of a mapper write its bound values."""

    def before_update(_mapper: Mapper[Any], connection: Connection, state: Any) -> None:
        changed = [item for item in attributes if _is_changed(state, item.key)]
        moved = [item for item in attributes if item not in changed and _is_moved(state, item)]
        for item in changed:
            value = state.dict.get(item.key)
            if value is not None and not isinstance(value, RowValue | ClauseElement):
                state.dict[item.key] = _FlushValue(value, item, state.obj(), value)
        if moved:
            _take_along(moved, mapper, connection, state)

    def after_flush(_mapper: Mapper[Any], _connection: Connection, state: Any) -> None:
        _put_back(state, attributes)

    def refresh(state: Any, *_: object) -> None:
        """Take the value of a `RowValue`, which synchronize_session="evaluate" assigns."""
        for item in attributes:
            value = state.dict.get(item.key)
            if isinstance(value, RowValue) and not isinstance(value, _FlushValue):  # a flush is still to write that
                _take_value(state, item, value)

    event.listen(mapper, "before_update", before_update, raw=True)
    event.listen(mapper, "after_insert", after_flush, raw=True)
    event.listen(mapper, "after_update", after_flush, raw=True)
    event.listen(mapper, "refresh", refresh, raw=True)


def _put_back(state: Any, attributes: Iterable[BoundAttribute]) -> None:
    for item in attributes:
        value = state.dict.get(item.key)
        if not isinstance(value, RowValue):
            continue
        if not isinstance(value, _FlushValue):
            _take_value(state, item, value)
        elif value.before is _UNLOADED:
            state.dict.pop(item.key)
            state.committed_state.pop(item.key, None)
        else:
            state.dict[item.key] = value.before


def _take_value(state: Any, attribute: BoundAttribute, value: RowValue) -> None:
    """Replace a `RowValue` by its value; if it is for another row, the attribute is loaded again when it is read."""
    target, type_ = state.obj(), attribute.column.type
    is_other = any(state.dict.get(key, item) != item for (key, _), item in _named(attribute, value))
    if is_other and (session := object_session(target)) is not None:
        session.expire(target, [attribute.key])
        return
    inner = value.reveal()
    state.dict[attribute.key] = type_.kind.value.hide(inner) if isinstance(type_, EncryptedType) else inner


def _named(attribute: BoundAttribute, value: RowValue) -> Iterator[tuple[tuple[str, Any], object]]:
    return ((attribute.parts[name], item) for name, item in value.row.items() if name in attribute.parts)


def _is_changed(state: Any, key: str) -> bool:
    return key in state.committed_state and bool(_history(state, key).has_changes())


def _is_moved(state: Any, attribute: BoundAttribute) -> bool:
    return any(_is_changed(state, key) for key, _ in attribute.parts.values())


def _take_along(attributes: list[BoundAttribute], mapper: Mapper[Any], connection: Connection, state: Any) -> None:
    """Read the secrets of a row that moves, and have the flush write them again."""
    target = state.obj()
    for table in {item.column.table for item in attributes}:
        found = [item for item in attributes if item.column.table is table]
        row = _read_locked(table, found, mapper, connection, state)
        for item, value in zip(found, row, strict=False):
            before = state.dict.get(item.key, _UNLOADED)
            state.dict[item.key] = value
            flag_modified(target, item.key)
            if value is not None:
                state.dict[item.key] = _FlushValue(value, item, target, before)


def _refuse_null(row: dict[str, Any], attribute: BoundAttribute) -> NoReturn:
    part = next(column for name, (_, column) in attribute.parts.items() if row[name] is None)
    raise UnsupportedOperationError(
        f"{part} becomes NULL, and {attribute.column} is bound to it: its secret could not be read any more. Delete the"
        " row instead (a relationship does, with cascade='all, delete-orphan'), or give it another owner"
    )


def _read_locked(
    table: Table, attributes: list[BoundAttribute], mapper: Mapper[Any], connection: Connection, state: Any
) -> list[Any]:
    """Return the secrets of a row.

    Raises:
        StaleDataError: another session moved or deleted it.
    """
    names = (mapper.get_property_by_column(key).key for key in mapper.primary_key)
    identity = dict(zip(names, state.key[1], strict=True))
    # The keys of the mapper may be others than those of its table; a table that is joined has only its own.
    keys = [key for key in mapper.primary_key if key.table is table] or table.primary_key
    where = [key == identity[mapper.get_property_by_column(key).key] for key in keys]
    parts = {key: column for item in attributes for key, column in item.parts.values()}
    where += [column == old for key, column in parts.items() if (old := _committed(state, key)) is not NO_VALUE]
    query = select(*(item.column for item in attributes)).where(*where).with_for_update()
    compiler: Any = query.compile(dialect=connection.dialect)
    if not compiler.for_update_clause(query):
        # SQLite locks the file, and only when something is written.
        name = next(iter(table.c)).name
        bare = Table(table.name, MetaData(), Column(name, NullType()), schema=table.schema)
        connection.execute(update(bare).where(false()).values({name: bare.c[name]}))
    row = connection.execute(query).one_or_none()
    if row is None:
        message = f"a row of {table.name} was moved or deleted by another session; its secrets are bound to the row"
        raise StaleDataError(message)
    return list(row)


def _history(state: Any, key: str) -> Any:
    return get_history(state.obj(), key, PASSIVE_NO_INITIALIZE)


def _committed(state: Any, key: str) -> Any:
    """Return the value of an attribute that the database had when it was loaded, if that is known."""
    history = _history(state, key)
    values = history.deleted if history.has_changes() else history.unchanged
    return next(iter(values or ()), NO_VALUE)
