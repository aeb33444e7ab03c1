"""Keep the digests of mapped objects in step with their secrets."""

from typing import Any, NamedTuple

from sqlalchemy import Column, Connection, event
from sqlalchemy.orm import Mapper, object_session
from sqlalchemy.orm.attributes import set_committed_value
from sqlalchemy.orm.base import NO_VALUE
from sqlalchemy.sql.elements import ClauseElement

from sealchemy._column.rows.parts import without_row
from sealchemy._column.wrappers import converting
from sealchemy._values.blind_index import PREFIX
from sealchemy._values.secret import hide
from sealchemy.errors import UnsupportedOperationError

from .lookups import SECRET_KEY


class IndexedAttribute(NamedTuple):
    """The keys of the attributes of an index and of its secret, and their columns."""

    key: str
    column: Column[Any]
    secret_key: str
    secret: Column[Any]


def indexed_attribute(mapper: Mapper[Any], key: str, column: Any) -> IndexedAttribute | None:
    """Return an index of a mapper; None if its secret is not mapped."""
    secret = column.table.c[column.info[SECRET_KEY]]
    attribute = mapper._columntoproperty.get(secret)
    return IndexedAttribute(key, column, attribute.key, secret) if attribute is not None else None


def refuse_assigned(_target: object, value: Any, old: Any, initiator: Any) -> Any:
    """Refuse a value for an index; `Session.merge` assigns the digest that an object has."""
    value = hide(value)
    if value is None or (isinstance(value, str) and value.startswith(PREFIX)):
        return None if old is NO_VALUE else old  # the flush writes the digest of the secret
    raise UnsupportedOperationError(
        f"{initiator.key}: a blind index is filled with the digest of its secret; assign the secret, and leave it out"
    )


def listen(mapper: Mapper[Any], attribute: IndexedAttribute) -> None:
    """Have the flushes of a mapper give its objects their digests."""

    def after_insert(_mapper: Mapper[Any], connection: Connection, state: Any) -> None:
        _set_digest(state, attribute, connection)

    def after_update(_mapper: Mapper[Any], connection: Connection, state: Any) -> None:
        if attribute.secret_key in state.committed_state:
            _set_digest(state, attribute, connection)

    def refresh(state: Any, _context: object, names: Any) -> None:
        """Forget a digest after synchronize_session="evaluate", which assigns the secret alone."""
        if names is not None and attribute.secret_key in names and attribute.key not in names:
            _expire(state, attribute)

    event.listen(mapper, "after_insert", after_insert, raw=True)
    event.listen(mapper, "after_update", after_update, raw=True)
    event.listen(mapper, "refresh", refresh, raw=True)


def _set_digest(state: Any, attribute: IndexedAttribute, connection: Connection) -> None:
    if attribute.secret_key in state.expired_attributes or isinstance(
        value := state.dict.get(attribute.secret_key), ClauseElement
    ):
        _expire(state, attribute)
        return
    type_: Any = attribute.column.type
    digest = converting(attribute.secret.type, connection.dialect, type_.digester(connection.dialect))
    set_committed_value(state.obj(), attribute.key, digest(without_row(value)))


def _expire(state: Any, attribute: IndexedAttribute) -> None:
    target = state.obj()
    if (session := object_session(target)) is not None and attribute.key in state.dict:
        session.expire(target, [attribute.key])
