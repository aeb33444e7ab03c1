"""Helpers for the tests of applications: a key ring for each test, and a check of the stored values.

Enable the fixtures with `pytest_plugins = ["sealchemy.testing"]` in the top `conftest.py`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterator
from typing import TYPE_CHECKING, Any, overload

import pytest
from sqlalchemy import Engine, create_engine, inspect, select
from sqlalchemy.orm import InstrumentedAttribute, Mapper, Session
from sqlalchemy.pool import StaticPool

from ._column.encrypted_type import encrypted_type
from ._column.engine import attach_key_ring
from ._values.key_ring import KeyRing
from ._values.keys import Key
from .errors import SealchemyError
from .status import ColumnStatus, column_status

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession  # needs greenlet, which not every application has

__all__ = ["assert_encrypted", "encrypted_engine", "key_ring"]


@pytest.fixture
def key_ring() -> KeyRing:
    """Return a key ring with new keys, for this test alone."""
    return KeyRing(primary=Key.generate(), index_key=Key.generate())


@pytest.fixture
def encrypted_engine(key_ring: KeyRing) -> Iterator[Engine]:
    """Return an engine with `key_ring`, on an empty SQLite database in memory that all threads share."""
    engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    yield attach_key_ring(engine, key_ring)
    engine.dispose()


@overload
def assert_encrypted(session: Session, column: InstrumentedAttribute[Any]) -> None: ...
@overload
def assert_encrypted(session: AsyncSession, column: InstrumentedAttribute[Any]) -> Awaitable[None]: ...
def assert_encrypted(session: Any, column: InstrumentedAttribute[Any]) -> Awaitable[None] | None:
    """Assert that a column has values, and that all of them are encrypted and can be read with the engine's keys.

    It flushes the session, and checks the rows as its transaction sees them. For an `AsyncSession`, it returns what has
    to be awaited.

    Args:
        session: a session on the engine of the table.
        column: an attribute of a model, such as `Integration.access_token`.

    Raises:
        AssertionError: the column is not of an encrypted type, it has no values, or some of them are plaintext or
            cannot be read.
    """
    if hasattr(session, "registry"):  # a scoped session
        session = session()
    if hasattr(session, "run_sync"):
        return session.run_sync(assert_encrypted, column)  # type: ignore[no-any-return]
    mapper = inspect(getattr(column, "class_", None), raiseerr=False)
    found: list[Any] = mapper.column_attrs[column.key].columns if isinstance(mapper, Mapper) else []
    types = [encrypted_type(item.type) for item in found]
    if not found or None in types:
        raise AssertionError(
            f"{column} is not a mapped column of type EncryptedString, EncryptedJSON or EncryptedBytes"
        )
    session.flush()
    connection = session.connection(bind_arguments={"mapper": mapper})
    mapping = connection.get_execution_options().get("schema_translate_map") or {}
    for item, type_ in zip(found, types, strict=True):
        schema, context = mapping.get(item.table.schema, item.table.schema), type_.context if type_ else ""
        (stored,) = column_status(connection, item.table.name, {item.name: context}, schema=schema)
        _check_stored(stored)
    if problem := _find_unreadable(session, column):
        raise AssertionError(problem)
    return None


def _check_stored(stored: ColumnStatus) -> None:
    where = f"{stored.table}.{stored.column}"
    if stored.plaintext or stored.unknown:
        raise AssertionError(f"{where}: {stored.plaintext} values are plaintext, and {stored.unknown} are damaged")
    if not stored.keys:
        raise AssertionError(f"{where}: it has no values, so this proves nothing")


def _find_unreadable(session: Session, column: InstrumentedAttribute[Any]) -> str | None:
    try:
        session.scalars(select(column)).all()
    except SealchemyError as error:
        return str(error)
    return None
