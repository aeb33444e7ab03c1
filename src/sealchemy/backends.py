"""What differs between the databases when stored values are tested, locked and rewritten."""

from __future__ import annotations

import random
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from sqlalchemy import (
    Connection,
    Text,
    and_,
    bindparam,
    cast,
    collate,
    column,
    func,
    inspect,
    literal,
    or_,
    select,
    table,
    text,
    tuple_,
    update,
)
from sqlalchemy.exc import DBAPIError, NoSuchTableError
from sqlalchemy.types import NullType, String, TypeDecorator

from . import envelope
from .errors import ColumnDefinitionError, UnsupportedOperationError
from .redaction import SecretString

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from sqlalchemy import ColumnElement, Dialect, Engine, Select, TableClause

ATTEMPTS = 10

_Result = TypeVar("_Result")

Key = tuple[Any, ...]
"""A primary key, or the values of a row: one item a column."""

ANY_STORED_VALUE = f"{envelope.PREFIX}v1:{'?' * 12}:?*"
"""What every stored value of ours looks like, with `?` for one character and `*` for any number."""


@dataclass(frozen=True)
class Target:
    """Columns of one table, as the database has them, and the context of each."""

    table: TableClause
    key: tuple[ColumnElement[Any], ...]
    columns: tuple[ColumnElement[str], ...]
    contexts: tuple[str, ...]

    @property
    def name(self) -> str:
        """The table's name, with its schema."""
        return self.table.fullname


class _StoredText(TypeDecorator[str]):
    """Text that may still be plaintext, so that neither debug echo nor an error tracker shows it."""

    impl = Text
    cache_ok = True

    def process_result_value(self, value: str | None, dialect: Dialect) -> str | None:
        del dialect
        return _redact(value)


def _redact(value: str | None) -> str | None:
    return SecretString(value) if isinstance(value, str) else value


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
    pieces = [*keys, *(column(name, _StoredText()) for name in contexts)]
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


class Backend:
    """One kind of database; the base class does what every SQL database understands."""

    isolation_level: ClassVar[str] = "READ COMMITTED"

    def matches(self, stored: ColumnElement[str], pattern: str) -> ColumnElement[bool]:
        """Return the test of a column against a pattern of `?` and `*`, case-sensitive.

        It stops accidents, not an attacker: only authentication does.
        """
        raise NotImplementedError

    def can_store(self, plaintext: str) -> bool:
        """Return whether a text column keeps this text."""
        del plaintext
        return True

    def check_keys(self, connection: Connection, target: Target) -> None:
        """Raise `ColumnDefinitionError` if a primary key here does not name exactly one row."""

    def prepare(self, connection: Connection) -> None:
        """Set up the connection of a run."""

    @contextmanager
    def reading_anything(self, connection: Connection) -> Iterator[None]:
        """Read values that are not proper text without failing on them."""
        del connection
        yield

    def begin(self, connection: Connection, target: Target, lock_timeout: float, *, write: bool) -> None:
        """Do what comes first in a transaction: the time limit for locks in seconds, and the write lock."""

    def lock(self, statement: Select[Any], *, wait: bool) -> Select[Any]:
        """Lock the selected rows; those that others have locked are waited for or left out."""
        return statement.with_for_update(key_share=True, skip_locked=not wait)

    def write(self, connection: Connection, target: Target, rows: Mapping[Key, Key]) -> dict[Key, Key]:
        """Store new values by primary key, in key order, and return what the database then has.

        None leaves a column as it is.
        """
        values: dict[str, Any] = {
            item.name: func.coalesce(bindparam(f"c{index}", type_=Text()), item)
            for index, item in enumerate(target.columns)
        }
        found = and_(*(item == bindparam(f"k{index}") for index, item in enumerate(target.key)))
        statement = update(target.table).where(found).values(values)
        connection.execute(statement, [_parameters(key, new) for key, new in rows.items()])
        ordered = list(rows)
        key = tuple_(*target.key)
        written = select(*target.key, *target.columns).where(key >= ordered[0], key <= ordered[-1])
        return _split(target, connection.execute(written).all())

    def is_retryable(self, error: DBAPIError) -> bool:
        """Tell whether the transaction may simply be run again."""
        raise NotImplementedError

    def finish(self, connection: Connection, target: Target) -> list[str]:
        """Clean up after a run, and return what is left to do, in sentences."""
        raise NotImplementedError


class PostgreSQL(Backend):
    """PostgreSQL 13 and later."""

    def matches(self, stored: ColumnElement[str], pattern: str) -> ColumnElement[bool]:
        """Return `col COLLATE "C" LIKE ...`; the cast is for citext, whose LIKE ignores case."""
        return collate(cast(stored, Text), "C").like(_to_like(pattern))

    def can_store(self, plaintext: str) -> bool:
        """Return whether there is no NUL in it."""
        return "\0" not in plaintext

    def check_keys(self, connection: Connection, target: Target) -> None:
        """Refuse a table with inheriting tables: its rows include theirs, under keys of their own."""
        name = connection.dialect.identifier_preparer.format_table(target.table)
        heirs = text(
            "SELECT count(*) FROM pg_inherits JOIN pg_class ON pg_class.oid = inhparent"
            " WHERE inhparent = to_regclass(:name) AND relkind <> 'p'"
        )
        if connection.scalar(heirs, {"name": name.replace("%%", "%")}):
            message = f"table {target.name!r} cannot be rewritten: other tables inherit from it; name each of them"
            raise ColumnDefinitionError(message)

    def begin(self, connection: Connection, target: Target, lock_timeout: float, *, write: bool) -> None:
        """Set what lasts for this transaction only: a pooler may give the session to somebody else next."""
        del target, write
        # With row security on, rows that this user may not see would silently stay plaintext.
        settings = "SELECT set_config('lock_timeout', :timeout, true), set_config('row_security', 'off', true)"
        connection.execute(text(settings), {"timeout": f"{round(lock_timeout * 1000)}ms"})

    def write(self, connection: Connection, target: Target, rows: Mapping[Key, Key]) -> dict[Key, Key]:
        """Write all rows with one statement, from arrays."""
        keys, values = list(rows), list(rows.values())
        arrays = [list(part) for part in (*zip(*keys, strict=True), *zip(*values, strict=True))]
        parameters = (*arrays, *keys[0], *keys[-1])
        dialect = connection.dialect
        if dialect.driver in {"psycopg", "psycopg_async"}:
            # Binary arrays cost a fortieth of text ones; only this driver has the placeholder.
            sql = _update_from_arrays(target, dialect, lambda _index, type_: f"%b::{type_}")
            result = connection.exec_driver_sql(sql, parameters)
        else:
            sql = _update_from_arrays(target, dialect, lambda index, type_: f"CAST(:p{index} AS {type_})")
            result = connection.execute(text(sql), {f"p{index}": item for index, item in enumerate(parameters)})
        return _split(target, result.all())

    def is_retryable(self, error: DBAPIError) -> bool:
        """Return whether it is a deadlock, a serialisation failure or a lock timeout."""
        return sqlstate(error) in {"40P01", "40001", "55P03"}

    def finish(self, connection: Connection, target: Target) -> list[str]:
        """Replace the planner's statistics: the old ones hold samples of the column."""
        with connection.begin():
            connection.execute(text(f"ANALYZE {connection.dialect.identifier_preparer.format_table(target.table)}"))
        return ["the old rows are in the table's files until VACUUM FULL, and in WAL, replicas and backups"]


def _update_from_arrays(target: Target, dialect: Dialect, slot: Callable[[int, str], str]) -> str:
    """Return the UPDATE of one batch. Its range lets the planner start there, not at the first row."""
    quote = dialect.identifier_preparer.quote
    keys, columns = ([quote(item.name) for item in part] for part in (target.key, target.columns))
    key_types = [item.type.compile(dialect).split(" COLLATE ")[0] for item in target.key]
    types = [f"{type_}[]" for type_ in (*key_types, *(["text"] * len(columns)))] + key_types * 2
    slots = [slot(index, type_) for index, type_ in enumerate(types)]
    arrays, first, last = slots[: -2 * len(keys)], slots[-2 * len(keys) : -len(keys)], slots[-len(keys) :]
    names = [f"k{index}" for index in range(len(keys))] + [f"c{index}" for index in range(len(columns))]
    row = ", ".join(f"t.{key}" for key in keys)
    return (
        f"UPDATE {dialect.identifier_preparer.format_table(target.table)} AS t"  # noqa: S608
        f" SET {', '.join(f'{item} = coalesce(v.c{index}, t.{item})' for index, item in enumerate(columns))}"
        f" FROM unnest({', '.join(arrays)}) AS v({', '.join(names)})"
        f" WHERE {' AND '.join(f't.{key} = v.k{index}' for index, key in enumerate(keys))}"
        f" AND ({row}) >= ({', '.join(first)}) AND ({row}) <= ({', '.join(last)})"
        f" RETURNING {row}, {', '.join(f't.{item}' for item in columns)}"
    )


class SQLite(Backend):
    """SQLite 3.35 and later."""

    isolation_level = "SERIALIZABLE"

    def matches(self, stored: ColumnElement[str], pattern: str) -> ColumnElement[bool]:
        """Return `col GLOB ...`: LIKE ignores case here."""
        return stored.op("GLOB", is_comparison=True)(literal(pattern))

    def check_keys(self, connection: Connection, target: Target) -> None:
        """Refuse NULL in a primary key, which SQLite allows: such rows have no order and no name."""
        nameless = or_(*(item.is_(None) for item in target.key))
        if connection.scalar(select(literal(1)).select_from(target.table).where(nameless).limit(1)):
            message = f"table {target.name!r} cannot be rewritten: it has rows whose primary key is NULL; give them one"
            raise ColumnDefinitionError(message)

    def prepare(self, connection: Connection) -> None:
        """Have what is overwritten filled with zeros."""
        connection.execute(text("PRAGMA secure_delete = ON"))

    @contextmanager
    def reading_anything(self, connection: Connection) -> Iterator[None]:
        """Have a text that is not UTF-8 read as one with lone surrogates, which is then reported by its key."""
        driver: Any = connection.connection.driver_connection
        before = driver.text_factory
        driver.text_factory = lambda content: content.decode("utf-8", "surrogateescape")
        try:
            yield
        finally:
            driver.text_factory = before

    def begin(self, connection: Connection, target: Target, lock_timeout: float, *, write: bool) -> None:
        """Take the write lock, in whatever way this engine begins its transactions."""
        del lock_timeout  # here it is the `timeout` of the driver's connect()
        if write:
            item = target.key[0]
            connection.execute(update(target.table).values({item.name: item}).where(text("0")))

    def lock(self, statement: Select[Any], *, wait: bool) -> Select[Any]:
        """Return the statement as it is: there is one writer."""
        del wait
        return statement

    def is_retryable(self, error: DBAPIError) -> bool:
        """Return whether another connection has the write lock."""
        return getattr(error.orig, "sqlite_errorname", "").startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))

    def finish(self, connection: Connection, target: Target) -> list[str]:
        """Move the write-ahead log into the file: until then the old pages are still there."""
        del target
        busy = checkpoint(connection)
        left = ["free pages from before, and backups, may still hold plaintext: VACUUM"]
        if busy:
            left.append("plaintext may remain in the file: another connection kept the WAL checkpoint from ending")
        return left


def checkpoint(connection: Connection) -> bool:
    """Move SQLite's write-ahead log into the file and empty it; return whether somebody was in the way."""
    cursor = connection.connection.cursor()  # a checkpoint runs in no transaction, and SQLAlchemy begins one
    cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    row: Any = cursor.fetchone()
    cursor.close()
    return bool(row[0])


class MySQL(Backend):
    """MariaDB 10.6 and later, MySQL 8 and later."""

    def matches(self, stored: ColumnElement[str], pattern: str) -> ColumnElement[bool]:
        """Return `col LIKE BINARY ...`: the usual collations ignore case."""
        return stored.op("LIKE BINARY", is_comparison=True)(literal(_to_like(pattern)))

    def is_retryable(self, error: DBAPIError) -> bool:
        """Return whether it is a deadlock or a lock timeout."""
        return bool(error.orig and error.orig.args and error.orig.args[0] in {1205, 1213, 3572})

    def finish(self, connection: Connection, target: Target) -> list[str]:
        """Return what stays."""
        del connection, target
        return ["the old rows are in free pages, the binary log, replicas and backups"]


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


def sqlstate(error: DBAPIError) -> str | None:
    """Return the five characters by which PostgreSQL names an error."""
    return getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None)


def _to_like(pattern: str) -> str:
    return pattern.replace("?", "_").replace("*", "%")


def _parameters(key: Key, values: Key) -> dict[str, Any]:
    named = {f"k{index}": item for index, item in enumerate(key)}
    return named | {f"c{index}": item for index, item in enumerate(values)}


def check_distinct(target: Target, keys: Sequence[Key]) -> None:
    """Raise `ColumnDefinitionError` if two rows have one primary key: a value would go to the wrong one."""
    if len(set(keys)) != len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        message = f"table {target.name!r}: two rows have the primary key {twice}; nothing was changed in this batch"
        raise ColumnDefinitionError(message)


def _split(target: Target, rows: Sequence[Any]) -> dict[Key, Key]:
    size = len(target.key)
    check_distinct(target, [tuple(row[:size]) for row in rows])
    return {tuple(row[:size]): tuple(map(_redact, row[size:])) for row in rows}
