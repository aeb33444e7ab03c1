"""A table to work on: as it is named by the caller, and as it is found in the database."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from sqlalchemy import JSON, ColumnClause, ColumnElement, Connection, TableClause, Text, column, inspect, table
from sqlalchemy.engine import Dialect, Inspector
from sqlalchemy.exc import NoSuchTableError
from sqlalchemy.types import NullType, String, TypeDecorator, TypeEngine
from typing_extensions import override

from sealchemy._values.envelope import PREFIX, require_context
from sealchemy._values.secret import hide
from sealchemy.errors import ColumnDefinitionError

RowKey: TypeAlias = tuple[Any, ...]
"""A primary key, or the values of a row: one item a column."""


class TableColumns(NamedTuple):
    """Columns of one table, as a caller names them.

    Attributes:
        name: the table's name.
        columns: the context of each column, by column name.
        schema: the table's schema, if it is not the default one.
    """

    name: str
    columns: Mapping[str, str]
    schema: str | None = None


@dataclass(frozen=True)
class Target:
    """Columns of one table, as the database has them, and the context of each."""

    table: TableClause
    key: tuple[ColumnElement[Any], ...]
    columns: tuple[ColumnElement[str], ...]
    contexts: tuple[str, ...]
    key_types: tuple[TypeEngine[Any], ...]

    @property
    def name(self) -> str:
        """The table's name, with its schema."""
        return self.table.fullname


class StoredText(TypeDecorator[str]):
    """Text that may still be plaintext, so that neither debug echo nor an error tracker shows it."""

    impl = Text
    cache_ok = True

    @override
    def result_processor(self, dialect: Dialect, coltype: object) -> Any:
        """Return the function that hides plaintext; it is called for each value that is read."""
        return _hide_plaintext


def _hide_plaintext(value: Any) -> Any:
    # Bytes, which SQLite may have in a text column, become their type: they cannot be used, so they are not kept.
    return value if isinstance(value, str) and value.startswith(PREFIX) else hide(value)


def look_up(
    connection: Connection,
    wanted: TableColumns,
    key_type: Callable[[TypeEngine[Any]], TypeEngine[Any]],
    is_text: Callable[[TypeEngine[Any]], bool],
) -> Target:
    """Look a table up in the database.

    Args:
        connection: the database.
        wanted: the table and its columns.
        key_type: returns the type for parameters that are compared with a key column of some type.
        is_text: returns whether a column of some type can hold any text.

    Raises:
        ColumnDefinitionError: the table or a column does not exist, a column is not text, or there is no
            primary key.
    """
    name, contexts, schema = wanted
    _refuse_translation(connection, name, schema)
    with inspecting(connection) as inspector:
        try:
            found = {item["name"]: item["type"] for item in inspector.get_columns(name, schema=schema)}
        except NoSuchTableError:
            found = {}
        key = inspector.get_pk_constraint(name, schema=schema)["constrained_columns"] if found else []
    problem = _find_problem(connection.engine.url.database, contexts, found, key, is_text)
    if problem is not None:
        raise ColumnDefinitionError(f"table {name!r}: {problem}")
    pieces = [column(item, key_type(found[item])) for item in key] + [column(item, StoredText()) for item in contexts]
    others: list[ColumnClause[Any]] = [column(item) for item in found if item not in key and item not in contexts]
    light = table(name, *pieces, *others, schema=schema)
    return Target(
        table=light,
        key=tuple(light.c[item] for item in key),
        columns=tuple(light.c[item] for item in contexts),
        contexts=tuple(require_context(context) for context in contexts.values()),
        key_types=tuple(found[item] for item in key),
    )


@contextmanager
def inspecting(connection: Connection) -> Iterator[Inspector]:
    """Inspect a database; afterwards, errors of the connection are redacted as before.

    SQLAlchemy's reflection of MySQL turns the events of errors off, and leaves them off on this connection.
    """
    before = connection.get_execution_options().get("skip_user_error_events", False)
    try:
        yield inspect(connection)
    finally:
        connection.execution_options(skip_user_error_events=before)


def _describe_type(name: str, type_: TypeEngine[Any]) -> str:
    declared = "of a type that SQLAlchemy does not know" if isinstance(type_, NullType) else type_
    advice = "it cannot hold ciphertext"
    if isinstance(type_, JSON):
        advice = "turn it into text first, with the application: it would read and write a JSON document as text"
    return f"column {name} is {declared}, not text: {advice}"


def without_collation(type_: TypeEngine[Any]) -> TypeEngine[Any]:
    """Return the type of parameters that are compared with a column of this type."""
    if not isinstance(type_, String):
        return type_
    plain = copy(type_)
    plain.collation = None
    return plain


def _refuse_translation(connection: Connection, name: str, schema: str | None) -> None:
    mapping = connection.get_execution_options().get("schema_translate_map") or {}
    if mapping.get(schema, schema) != schema:
        raise ColumnDefinitionError(
            f"table {name!r}: schema_translate_map turns {schema} into {mapping[schema]}; pass that as the schema"
        )


def _find_problem(
    database: str | None,
    contexts: Mapping[str, str],
    found: Mapping[str, Any],
    key: Sequence[str],
    is_text: Callable[[TypeEngine[Any]], bool],
) -> str | None:
    if not found:
        return f"there is no such table in the database {database or ':memory:'!r}; create it first"
    if not contexts:
        return "no column is named; give a mapping of column names to contexts"
    if missing := [item for item in contexts if item not in found]:
        return f"it has no column {', '.join(missing)}; its columns are {', '.join(found)}"
    if wrong := [item for item in contexts if not is_text(found[item])]:
        return _describe_type(wrong[0], found[wrong[0]])
    if not key:
        return "it has no primary key, and without one a row cannot be named; add one first"
    return None
