"""Keep the digests of mapped objects in step with their secrets."""

from collections.abc import Callable
from typing import Any, NamedTuple

from sqlalchemy import Column, Connection, event
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import Mapper, object_session
from sqlalchemy.orm.base import NO_VALUE
from sqlalchemy.sql.elements import ClauseElement

from sealchemy._column.rows.parts import without_row
from sealchemy._column.rows.wrappers import converting
from sealchemy._values.blind_index import PREFIX
from sealchemy._values.secret import hide
from sealchemy.errors import UnsupportedOperationError

from .pairs import secret_of


class IndexedAttribute(NamedTuple):
    """The keys of the attributes of an index and of its secret, and their columns."""

    key: str
    column: Column[Any]
    secret_key: str
    secret: Column[Any]


def indexed_attribute(mapper: Mapper[Any], key: str, column: Any) -> IndexedAttribute | None:
    """Return an index of a mapper; None if its secret is not mapped."""
    secret = secret_of(column)
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
        _set_digest(state, attribute, connection.dialect)

    def after_update(_mapper: Mapper[Any], connection: Connection, state: Any) -> None:
        if attribute.secret_key in state.committed_state:
            _set_digest(state, attribute, connection.dialect)

    def refresh(state: Any, _context: object, names: Any) -> None:
        """Renew a digest after synchronize_session="evaluate", which assigns the secret alone."""
        session = object_session(state.obj())
        if session and names is not None and attribute.secret_key in names and attribute.key not in names:
            _set_digest(state, attribute, session.get_bind(mapper).dialect)

    event.listen(mapper, "after_insert", after_insert, raw=True)
    event.listen(mapper, "after_update", after_update, raw=True)
    event.listen(mapper, "refresh", refresh, raw=True)


def _set_digest(state: Any, attribute: IndexedAttribute, dialect: Dialect) -> None:
    value = state.dict.get(attribute.secret_key)
    if isinstance(value, ClauseElement) or attribute.secret_key in state.expired_attributes:
        _expire(state, attribute)
        return
    key, digest = attribute.key, _digester(dialect, attribute)
    state.dict[key] = digest(without_row(value))
    state.committed_state.pop(key, None)


def _digester(dialect: Dialect, attribute: IndexedAttribute) -> Callable[[Any], str | None]:
    """Return the function that makes the digest of a secret, and keep it with the dialect."""
    type_: Any = attribute.column.type
    known, secret_type = type_._dialect_info(dialect), attribute.secret.type  # where SQLAlchemy keeps its processors
    if secret_type not in known:
        known[secret_type] = converting(secret_type, dialect, type_.digester(dialect))
    found: Callable[[Any], str | None] = known[secret_type]
    return found


def _expire(state: Any, attribute: IndexedAttribute) -> None:
    target = state.obj()
    if (session := object_session(target)) is not None and attribute.key in state.dict:
        session.expire(target, [attribute.key])
