"""One kind of database: how stored values are tested, locked and written there, and the table they are in."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from sqlalchemy import Text, and_, bindparam, func, select, tuple_, update
from sqlalchemy.types import TypeDecorator

from . import envelope
from .errors import UnsupportedOperationError
from .redaction import SecretString

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sqlalchemy import ColumnElement, Connection, Dialect, Row, Select, TableClause
    from sqlalchemy.exc import DBAPIError
    from sqlalchemy.sql.type_api import _ResultProcessorType

Key = tuple[Any, ...]
"""A primary key, or the values of a row: one item a column."""

ANY_STORED_VALUE = f"{envelope.PREFIX}v1:{'?' * 12}:?*"
"""What every stored value of ours looks like, with `?` for one character and `*` for any number."""

_KEYS_IN_A_STATEMENT = 500  # SQLite takes no more than 32 766 parameters


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


class StoredText(TypeDecorator[str]):
    """Text that may still be plaintext, so that neither debug echo nor an error tracker shows it."""

    impl = Text
    cache_ok = True

    def result_processor(self, dialect: Dialect, coltype: object) -> _ResultProcessorType[str]:
        """Return the function that hides plaintext; it is called for each value that is read."""
        del dialect, coltype
        return _hide_plaintext


def _hide_plaintext(value: Any) -> Any:
    if isinstance(value, str):
        return value if value.startswith(envelope.PREFIX) else SecretString(value)
    return _Bytes() if isinstance(value, bytes | bytearray | memoryview) else value


class _Bytes:
    """Stands for bytes that SQLite has in a text column: nothing can be done with them, so they are not kept."""


_Bytes.__name__ = "bytes"  # as errors call what they cannot read


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

    @contextmanager
    def session(self, connection: Connection, lock_timeout: float) -> Iterator[None]:
        """Set up a connection for a run, and leave it as it was."""
        del connection, lock_timeout
        yield

    def begin(self, connection: Connection, target: Target, lock_timeout: float, *, write: bool) -> None:
        """Do what comes first in a transaction: the time limit for locks in seconds, and the write lock."""

    def lock(self, statement: Select[Any], *, wait: bool) -> Select[Any]:
        """Lock the selected rows; those that others have locked are waited for or left out."""
        return statement.with_for_update(key_share=True, skip_locked=not wait)

    def behind(self, key: Sequence[ColumnElement[Any]], after: Key) -> ColumnElement[bool]:
        """Return the test for the rows that come after one in the order of the primary key."""
        return tuple_(*key) > after

    def in_shard(self, key: Sequence[ColumnElement[Any]], number: int, count: int) -> ColumnElement[bool]:
        """Return the test for the rows of one share of `count`, which depends on their key alone."""
        del key, number, count
        message = "a run can be shared out on PostgreSQL only: leave the shard out, one process is as quick here"
        raise UnsupportedOperationError(message)

    def write(self, connection: Connection, target: Target, rows: Mapping[Key, Key]) -> list[Row[Any]]:
        """Store new values by primary key, in key order, and return what the database then has.

        None leaves a column as it is.
        """
        values: dict[str, Any] = {
            item.name: func.coalesce(bindparam(f"c{index}", type_=Text()), item)
            for index, item in enumerate(target.columns)
        }
        found = and_(*(item == bindparam(f"k{index}") for index, item in enumerate(target.key)))
        statement = update(target.table).where(found).values(values | self.untouched(connection, target))
        connection.execute(statement, [_parameters(key, new) for key, new in rows.items()])
        keys, written = list(rows), select(*target.key, *target.columns)
        return [
            row
            for start in range(0, len(keys), _KEYS_IN_A_STATEMENT)
            for row in connection.execute(
                written.where(tuple_(*target.key).in_(keys[start : start + _KEYS_IN_A_STATEMENT]))
            )
        ]

    def untouched(self, connection: Connection, target: Target) -> dict[str, Any]:
        """Return the columns that an UPDATE would change by itself, each set to what it is."""
        del connection, target
        return {}

    def widening(self, connection: Connection, target: Target) -> list[str]:
        """Return what to add to ALTER TABLE so that ciphertext fits into the columns."""
        del connection, target
        return []

    def is_retryable(self, error: DBAPIError) -> bool:
        """Tell whether the transaction may simply be run again."""
        raise NotImplementedError

    def finish(self, connection: Connection, target: Target) -> list[str]:
        """Clean up after a run, and return what is left to do, in sentences."""
        raise NotImplementedError


def to_like(pattern: str) -> str:
    """Return a pattern of `?` and `*` as LIKE writes it."""
    return pattern.replace("?", "_").replace("*", "%")


def _parameters(key: Key, values: Key) -> dict[str, Any]:
    named = {f"k{index}": item for index, item in enumerate(key)}
    return named | {f"c{index}": item for index, item in enumerate(values)}
