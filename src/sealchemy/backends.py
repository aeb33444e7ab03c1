"""The table, the connection and the backend that a rewriting works with."""

from __future__ import annotations

import random
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import Connection, column, inspect, table
from sqlalchemy.exc import DBAPIError, NoSuchTableError
from sqlalchemy.types import NullType, String

from . import envelope
from .backend import StoredText, Target
from .errors import ColumnDefinitionError, UnsupportedOperationError
from .mysql import MySQL
from .postgresql import PostgreSQL
from .sqlite import SQLite

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from sqlalchemy import Engine

    from .backend import Backend

ATTEMPTS = 10

_Result = TypeVar("_Result")


def load_target(
    connection: Connection, table_name: str, contexts: Mapping[str, str], schema: str | None = None
) -> Target:
    """Look the table up in the database.

    Args:
        connection: where it is.
        table_name: its name.
        contexts: the context of each column, by column name.
        schema: its schema, if it is not the default one.

    Raises:
        ColumnDefinitionError: the table or a column does not exist, a column is not text, or there is no
            primary key.

    """
    inspector = inspect(connection)
    try:
        found = {item["name"]: item["type"] for item in inspector.get_columns(table_name, schema=schema)}
    except NoSuchTableError:
        found = {}
    key = inspector.get_pk_constraint(table_name, schema=schema)["constrained_columns"] if found else []
    _check_table(table_name, contexts, found, key)
    # SQLite keeps in a key what SQLAlchemy's types cannot tell apart or read, so its values go as they are.
    untyped = connection.dialect.name == "sqlite"
    keys = [column(name, NullType() if untyped else found[name]) for name in key]
    pieces = [*keys, *(column(name, StoredText()) for name in contexts)]
    light = table(table_name, *pieces, schema=schema)
    target = Target(
        table=light,
        key=tuple(light.c[name] for name in key),
        columns=tuple(light.c[name] for name in contexts),
        contexts=tuple(envelope.check_context(context) for context in contexts.values()),
    )
    backend_of(connection).check_keys(connection, target)
    return target


def _check_table(name: str, contexts: Mapping[str, str], found: Mapping[str, Any], key: Sequence[str]) -> None:
    problem = None
    if not found:
        problem = "there is no such table in this database"
    elif not contexts:
        problem = "no column is named: give a mapping of column names to contexts"
    elif missing := [column_name for column_name in contexts if column_name not in found]:
        problem = f"it has no column {', '.join(missing)}; its columns are {', '.join(found)}"
    elif wrong := [item for item in contexts if not isinstance(found[item], String | NullType)]:
        problem = f"column {wrong[0]} is {found[wrong[0]]}, not text"
    elif not key:
        problem = "it has no primary key, and without one a row cannot be named: add one first"
    if problem is not None:
        message = f"table {name!r} cannot be rewritten: {problem}"
        raise ColumnDefinitionError(message)


_BACKENDS: dict[str, Backend] = {"postgresql": PostgreSQL(), "sqlite": SQLite(), "mysql": MySQL(), "mariadb": MySQL()}


def backend_of(connection: Connection | Engine) -> Backend:
    """Return the backend of a connection, or raise `UnsupportedOperationError` if there is none."""
    name = connection.dialect.name
    if name not in _BACKENDS:
        message = f"rewriting is not supported on {name}; it is on {', '.join(_BACKENDS)}"
        raise UnsupportedOperationError(message)
    return _BACKENDS[name]


@contextmanager
def connect(bind: Connection | Engine) -> Iterator[Connection]:
    """Return a connection of an engine, for transactions of our own; a connection is passed through."""
    if isinstance(bind, Connection):
        yield bind
        return
    with bind.connect() as connection:
        # Whatever the engine's own level is: without transactions a lock protects nothing.
        connection.execution_options(isolation_level=backend_of(bind).isolation_level)
        backend_of(bind).prepare(connection)
        connection.commit()
        with backend_of(bind).reading_anything(connection):
            yield connection


def retry(backend: Backend, transaction: Callable[[], _Result]) -> _Result:
    """Run a transaction, again if others were in the way: a deadlock, or a lock that was not to be had."""
    for attempt in range(ATTEMPTS - 1):
        try:
            return transaction()
        except DBAPIError as error:
            if not backend.is_retryable(error):
                raise
        time.sleep(random.uniform(0.5, 1) * min(0.02 * 2**attempt, 1))  # noqa: S311 - spreads the attempts
    return transaction()
