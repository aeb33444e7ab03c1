"""Helpers for the tests of applications: a key ring that lives as long as a test, and a look at what is stored.

The fixtures are found with `pytest_plugins = ["sealchemy.testing"]` in the top `conftest.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import create_engine, inspect, select
from sqlalchemy.orm import Mapper
from sqlalchemy.pool import StaticPool

from .engine import attach_key_ring
from .errors import SealchemyError
from .guard import EncryptedType
from .keys import Key, KeyRing
from .status import column_status

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine
    from sqlalchemy.orm import InstrumentedAttribute, Session

    from .status import ColumnStatus

__all__ = ["assert_encrypted", "encrypted_engine", "key_ring"]


@pytest.fixture
def key_ring() -> KeyRing:
    """Return a key ring with a new key, for this test alone."""
    return KeyRing(primary=Key.generate())


@pytest.fixture
def encrypted_engine(key_ring: KeyRing) -> Iterator[Engine]:
    """Return an engine with `key_ring`, on an empty SQLite database in memory that all threads share."""
    engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    yield attach_key_ring(engine, key_ring)
    engine.dispose()


def assert_encrypted(session: Session, column: InstrumentedAttribute[Any]) -> None:
    """Assert that what is stored in a column is ciphertext that the engine's keys can read, and that there is some.

    It flushes the session, and looks at the rows as its transaction sees them.

    Args:
        session: of the engine that has the table.
        column: an attribute of a model, such as `Integration.access_token`.

    Raises:
        AssertionError: the column is not an `EncryptedString`, plaintext or something that cannot be read is stored in
            it, or nothing is.

    """
    mapper = inspect(getattr(column, "class_", None), raiseerr=False)
    found: list[Any] = mapper.column_attrs[column.key].columns if isinstance(mapper, Mapper) else []
    if not found or not all(isinstance(item.type, EncryptedType) for item in found):
        message = f"{column} is no mapped column of type EncryptedString"
        raise AssertionError(message)
    session.flush()
    connection = session.connection(bind_arguments={"mapper": mapper})
    mapping = connection.get_execution_options().get("schema_translate_map") or {}
    for item in found:
        schema = mapping.get(item.table.schema, item.table.schema)
        (stored,) = column_status(connection, item.table.name, {item.name: item.type.context}, schema=schema)
        _check_stored(stored)
    if problem := _what_cannot_be_read(session, column):
        raise AssertionError(problem)


def _check_stored(stored: ColumnStatus) -> None:
    where = f"{stored.table}.{stored.column}"
    if stored.plaintext or stored.unknown:
        message = f"{where}: {stored.plaintext} values are plaintext, and {stored.unknown} are damaged"
        raise AssertionError(message)
    if not stored.keys:
        message = f"{where}: nothing is stored there, so nothing is shown"
        raise AssertionError(message)


def _what_cannot_be_read(session: Session, column: InstrumentedAttribute[Any]) -> str | None:
    try:
        session.scalars(select(column)).all()
    except SealchemyError as error:
        return str(error)
    return None
