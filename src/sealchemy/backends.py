"""The table, the connection and the backend that a rewriting works with."""

from __future__ import annotations

import random
import time
from contextlib import ExitStack, contextmanager, nullcontext
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import Connection, Engine, column, inspect, table
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

    from sqlalchemy import ColumnClause, Dialect
    from sqlalchemy.types import TypeEngine

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
    mapping = connection.get_execution_options().get("schema_translate_map") or {}
    if mapping.get(schema, schema) != schema:
        message = (
            f"table {table_name!r}: schema_translate_map makes {schema} {mapping[schema]}: pass that as the schema"
        )
        raise ColumnDefinitionError(message)
    inspector = inspect(connection)
    try:
        found = {item["name"]: item["type"] for item in inspector.get_columns(table_name, schema=schema)}
    except NoSuchTableError:
        found = {}
    key = inspector.get_pk_constraint(table_name, schema=schema)["constrained_columns"] if found else []
    _check_table(connection.engine.url.database, table_name, contexts, found, key)
    # SQLite keeps in a key what SQLAlchemy's types cannot tell apart or read, so its values go as they are.
    untyped = connection.dialect.name == "sqlite"
    keys = [column(name, NullType() if untyped else _without_collation(found[name])) for name in key]
    pieces = [*keys, *(column(name, StoredText()) for name in contexts)]
    others: list[ColumnClause[Any]] = [column(name) for name in found if name not in key and name not in contexts]
    light = table(table_name, *pieces, *others, schema=schema)
    target = Target(
        table=light,
        key=tuple(light.c[name] for name in key),
        columns=tuple(light.c[name] for name in contexts),
        contexts=tuple(envelope.check_context(context) for context in contexts.values()),
    )
    backend_of(connection).check_keys(connection, target)
    return target


def _without_collation(type_: TypeEngine[Any]) -> TypeEngine[Any]:
    """Return the type of parameters that are compared with a column of this type."""
    if not isinstance(type_, String):
        return type_
    plain = copy(type_)
    plain.collation = None
    return plain


def _check_table(
    database: str | None, name: str, contexts: Mapping[str, str], found: Mapping[str, Any], key: Sequence[str]
) -> None:
    problem = None
    if not found:
        problem = f"there is no such table in the database {database or ':memory:'!r}; create it first"
    elif not contexts:
        problem = "no column is named: give a mapping of column names to contexts"
    elif missing := [column_name for column_name in contexts if column_name not in found]:
        problem = f"it has no column {', '.join(missing)}; its columns are {', '.join(found)}"
    elif wrong := [item for item in contexts if not isinstance(found[item], String | NullType)]:
        problem = f"column {wrong[0]} is {found[wrong[0]]}, not text"
    elif not key:
        problem = "it has no primary key, and without one a row cannot be named: add one first"
    if problem is not None:
        message = f"table {name!r}: {problem}"
        raise ColumnDefinitionError(message)


_BACKENDS: dict[str, Backend] = {"postgresql": PostgreSQL(), "sqlite": SQLite(), "mysql": MySQL(), "mariadb": MySQL()}


def is_supported(dialect: Dialect) -> bool:
    """Return whether rows can be rewritten on databases of this kind."""
    return dialect.name in _BACKENDS


def backend_of(connection: Connection | Engine) -> Backend:
    """Return the backend of a connection, or raise `UnsupportedOperationError` if there is none."""
    name = connection.dialect.name
    if name not in _BACKENDS:
        message = f"rewriting is not supported on {name}; it is on {', '.join(_BACKENDS)}"
        raise UnsupportedOperationError(message)
    return _BACKENDS[name]


@dataclass(frozen=True, kw_only=True)
class Access:
    """A table, a connection to it, and how transactions there begin, end and are run again.

    On a connection that somebody else passed in, everything happens in the transaction that it is in.
    """

    connection: Connection
    backend: Backend
    target: Target
    lock_timeout: float
    owns_connection: bool

    @contextmanager
    def transaction(self, *, write: bool) -> Iterator[None]:
        """Begin a short transaction, and commit it."""
        with self.connection.begin() if self.owns_connection else nullcontext():
            self.backend.begin(self.connection, self.target, self.lock_timeout, write=write)
            yield

    def run(self, work: Callable[[], _Result], *, attempts: int = ATTEMPTS) -> _Result:
        """Return what `work` returns in a transaction, run again if others were in the way."""

        def transaction() -> _Result:
            with self.transaction(write=True):
                return work()

        return retry(self.backend, transaction, attempts if self.owns_connection else 1)


@contextmanager
def access(
    bind: Engine | Connection,
    table_name: str,
    contexts: Mapping[str, str],
    schema: str | None = None,
    lock_timeout: float = 5.0,
) -> Iterator[Access]:
    """Return the access to a table, on a connection of its own if `bind` is an engine.

    Raises:
        ColumnDefinitionError, UnsupportedOperationError: as `load_target` and `backend_of` do.

    """
    backend, owns_connection = backend_of(bind), isinstance(bind, Engine)
    with ExitStack() as stack:
        connection = stack.enter_context(bind.connect()) if isinstance(bind, Engine) else bind
        if owns_connection:
            # Whatever the engine's own level is: without transactions a lock protects nothing.
            connection.execution_options(isolation_level=backend.isolation_level)
            stack.enter_context(backend.session(connection, lock_timeout))
        target = load_target(connection, table_name, contexts, schema)
        if owns_connection:
            connection.commit()
        yield Access(
            connection=connection,
            backend=backend,
            target=target,
            lock_timeout=lock_timeout,
            owns_connection=owns_connection,
        )


def retry(backend: Backend, transaction: Callable[[], _Result], attempts: int = ATTEMPTS) -> _Result:
    """Run a transaction, again if others were in the way: a deadlock, or a lock that was not to be had."""
    for attempt in range(attempts - 1):
        try:
            return transaction()
        except DBAPIError as error:
            if not backend.is_retryable(error):
                raise
        time.sleep(random.uniform(0.5, 1) * min(0.02 * 2**attempt, 1))  # noqa: S311 - spreads the attempts
    return transaction()
