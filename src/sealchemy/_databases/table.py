"""A table to work on: as it is named by the caller, and as it is found in the database."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

from sqlalchemy import (
    ColumnClause,
    ColumnElement,
    Connection,
    Enum,
    Integer,
    TableClause,
    Text,
    Uuid,
    cast,
    column,
    func,
    inspect,
    literal_column,
    table,
    type_coerce,
)
from sqlalchemy.engine import Inspector
from sqlalchemy.exc import NoSuchTableError
from sqlalchemy.types import NullType, String, TypeEngine

from sealchemy._values.codecs import KINDS, TEXT, Plaintext
from sealchemy._values.envelope import require_context
from sealchemy.errors import ColumnDefinitionError

from .stored_text import StoredText

RowKey: TypeAlias = tuple[Any, ...]
"""A primary key, or the values of a row: one item a column."""


KeyText: TypeAlias = tuple[str, ...]
"""A primary key, each column as the database's text."""

RangeEnds: TypeAlias = tuple[RowKey | None, RowKey | None]
"""The key before the first row of a range, and that of the last one; None is an open end."""


class TableColumns(NamedTuple):
    """Columns of one table, as a caller names them.

    Attributes:
        name: the table's name.
        columns: the context of each column, by column name.
        schema: the table's schema, if it is not the default one.
        kinds: `json` or `bytes` for columns that do not hold text, by name; None to take the kind from the column's
            type in the database.
        bind_to: the columns that the values of a column are bound to, by name.
    """

    name: str
    columns: Mapping[str, str]
    schema: str | None = None
    kinds: Mapping[str, str] | None = MappingProxyType({})
    bind_to: Mapping[str, Sequence[str]] = MappingProxyType({})


@dataclass(frozen=True)
class Target:
    """Columns of one table, as the database has them, and the context of each.

    Attributes:
        kinds: the kind of plaintext of each column.
        types: the kind that each column's type in the database holds by itself.
        bind_to: the names of the columns that the values of each column are bound to.
        parts: the texts of all of these, by name.
    """

    table: TableClause
    key: tuple[ColumnElement[Any], ...]
    columns: tuple[ColumnElement[str], ...]
    contexts: tuple[str, ...]
    key_types: tuple[TypeEngine[Any], ...]
    kinds: tuple[Plaintext, ...]
    types: tuple[Plaintext, ...]
    bind_to: tuple[tuple[str, ...], ...]
    parts: Mapping[str, ColumnElement[str]]

    @property
    def selected(self) -> tuple[ColumnElement[Any], ...]:
        """What is selected of each row: its key, the values, and the parts of the row that they are bound to."""
        return (*self.key, *self.columns, *self.parts.values())

    @property
    def name(self) -> str:
        """The table's name, with its schema."""
        return self.table.fullname


def look_up(
    connection: Connection,
    wanted: TableColumns,
    key_type: Callable[[TypeEngine[Any]], TypeEngine[Any]],
    kind_of: Callable[[TypeEngine[Any]], Plaintext | None],
) -> Target:
    """Look a table up in the database.

    Args:
        connection: the database.
        wanted: the table and its columns.
        key_type: returns the type for parameters that are compared with a key column of some type.
        kind_of: returns the kind of plaintext that a column of some type holds.

    Raises:
        ColumnDefinitionError: the table or a column does not exist, a column holds another kind of value, or there is
            no primary key.
    """
    name, contexts, schema, wanted_kinds, bind_to = wanted
    _refuse_translation(connection, name, schema)
    with inspecting(connection) as inspector:
        try:
            found = {item["name"]: item["type"] for item in inspector.get_columns(name, schema=schema)}
        except NoSuchTableError:
            found = {}
        key = inspector.get_pk_constraint(name, schema=schema)["constrained_columns"] if found else []
    wants_columns, database = wanted_kinds is not None, connection.engine.url.database  # or only the key
    problem = _find_problem(database, contexts, found, key, wants_columns=wants_columns)
    parts = list(dict.fromkeys(part for bound in bind_to.values() for part in bound))
    problem = problem or next((problem for part in parts if (problem := _find_wrong_part(part, found, contexts))), None)
    types = {item: kind_of(found[item]) or TEXT for item in contexts if item in found}
    kinds = {item: type_.name for item, type_ in types.items()}
    if wanted_kinds is not None:
        kinds = dict.fromkeys(contexts, TEXT.name) | dict(wanted_kinds)
    problem = problem or _find_wrong_type(found, {item: kind_of(found[item]) for item in types}, kinds)
    if problem is not None:
        raise ColumnDefinitionError(f"table {name!r}: {problem}")
    pieces = [column(item, key_type(found[item])) for item in key]
    pieces += [column(item, StoredText(kinds[item], type_.name)) for item, type_ in types.items()]
    others: list[ColumnClause[Any]] = [column(item) for item in found if item not in key and item not in contexts]
    light = table(name, *pieces, *others, schema=schema)
    return Target(
        table=light,
        key=tuple(light.c[item] for item in key),
        columns=tuple(light.c[item] for item in contexts),
        contexts=tuple(require_context(context) for context in contexts.values()),
        key_types=tuple(found[item] for item in key),
        kinds=tuple(KINDS[kinds[item]] for item in types),
        types=tuple(types.values()),
        bind_to=tuple(tuple(bind_to.get(item, ())) for item in contexts),
        parts={part: _text_of_part(light.c[part], found[part]) for part in parts},
    )


def _find_wrong_part(name: str, found: Mapping[str, TypeEngine[Any]], contexts: Mapping[str, str]) -> str | None:
    if name in contexts:
        return f"values cannot be bound to {name}, which is encrypted itself"
    type_ = found.get(name)
    if type_ is None:
        return f"it has no column {name}, which values are to be bound to; its columns are {', '.join(found)}"
    if getattr(type_, "zerofill", False):
        return f"column {name} is ZEROFILL, which adds digits to the texts that values would be bound to"
    if isinstance(type_, Integer | Uuid) or (
        isinstance(type_, String) and not isinstance(type_, Enum) and type_.__visit_name__ != "CITEXT"
    ):
        return None
    return f"column {name} is {type_}; values can be bound to columns of integers, texts and UUIDs"


def _text_of_part(part: ColumnElement[Any], type_: TypeEngine[Any]) -> ColumnElement[str]:
    """Return a column that values are bound to as text, as `sealchemy._column.rows.parts` has it."""
    if isinstance(type_, String):
        return type_coerce(part, Text()) + literal_column("''", Text())  # cuts the blanks of CHAR where reading does
    text = cast(part, String())
    return func.replace(text, "-", "") if isinstance(type_, Uuid) else text


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


def _find_wrong_type(
    found: Mapping[str, TypeEngine[Any]], types: Mapping[str, Plaintext | None], kinds: Mapping[str, str]
) -> str | None:
    for name, kind in kinds.items():
        if name not in types:
            return f"kinds has {name!r}, which is not among the columns"
        if kind not in KINDS:
            return f"kinds says that {name} is {kind!r}; it takes {', '.join(map(repr, KINDS))}"
    for name, type_ in types.items():
        if type_ is None:
            declared = "of a type that SQLAlchemy does not know" if isinstance(found[name], NullType) else found[name]
            return (
                f"column {name} is {declared}, not text: it cannot hold ciphertext; change its type to text first"
                " (op.alter_column), and declare how its text is read, as the guide on types of your own shows"
            )
        if type_ not in {TEXT, KINDS[kinds[name]]}:
            return (
                f"column {name} is {found[name]}, not {kinds[name]}: declare it as EncryptedJSON or EncryptedBytes (in"
                f" an operation: kinds={{{name!r}: {type_.name!r}}}), or turn it into text first, with the application"
            )
    return None


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
    *,
    wants_columns: bool,
) -> str | None:
    if not found:
        return f"there is no such table in the database {database or ':memory:'!r}; create it first"
    if wants_columns and not contexts:
        return "no column is named; give a mapping of column names to contexts"
    if missing := [item for item in contexts if item not in found]:
        return f"it has no column {', '.join(missing)}; its columns are {', '.join(found)}"
    if not key:
        return "it has no primary key, and without one a row cannot be named; add one first"
    return None
