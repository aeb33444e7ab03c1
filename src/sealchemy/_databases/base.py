"""`Database`: how values are tested, locked, written, constrained and scrubbed on one kind of database."""

import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, NamedTuple, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.types import TypeEngine

from sealchemy._values.codecs import BYTES, JSON, TEXT, Plaintext
from sealchemy._values.envelope import PREFIX, ROW
from sealchemy.errors import UnsupportedOperationError

from .sql_names import names_in
from .table import RowKey, Target, inspecting, without_collation

ANY_ENCRYPTED_VALUE = f"{PREFIX}v1:{'?' * 12}:?*"
"""The pattern of every encrypted value, with `?` for one character and `*` for any number."""

ANY_BOUND_VALUE = f"{PREFIX}v1:{'?' * 12}:{ROW}?*"
"""The pattern of every encrypted value that is bound to its row."""

ATTEMPTS = 10

_Result = TypeVar("_Result")


class NamedCheck(NamedTuple):
    """A CHECK that a table has: its condition, and whether the existing rows satisfy it."""

    condition: str
    is_validated: bool


class NarrowColumn(NamedTuple):
    """A column whose type has a limit: its name, the type as it is declared, and the limit in characters or bytes."""

    name: str
    declared: str
    limit: int


class Database:
    """One kind of database; the base class does what every SQL database understands."""

    isolation_level: ClassVar[str] = "READ COMMITTED"

    locks_rows: ClassVar[bool] = True
    """Whether others may write while a transaction writes."""

    has_snapshots: ClassVar[bool] = True
    """Whether a transaction can see the same rows throughout without making others wait."""

    can_alter_types: ClassVar[bool] = True
    """Whether ALTER TABLE can change the type of a column."""

    validates_separately: ClassVar[bool] = False
    """Whether `add_check` leaves it to `VALIDATE CONSTRAINT` to look at the existing rows."""

    def refuse_missing(self, url: sa.URL) -> None:
        """Raise `UnsupportedOperationError` if connecting would create the database."""

    def matches(self, stored: sa.ColumnElement[str], pattern: str) -> sa.ColumnElement[bool]:
        """Return the test of a column against a pattern of `?` and `*`, case-sensitive.

        It stops accidents, not an attacker: only authentication does.
        """
        raise NotImplementedError

    def size(self, stored: sa.ColumnElement[str]) -> sa.ColumnElement[int]:
        """Return the size of a value in bytes."""
        return sa.func.octet_length(stored)

    def can_store(self, plaintext: str) -> bool:
        """Return whether a text column can hold this text."""
        return True

    def key_type(self, type_: TypeEngine[Any]) -> TypeEngine[Any]:
        """Return the type for parameters that are compared with a key column of this type."""
        return without_collation(type_)

    def kind_of(self, type_: TypeEngine[Any]) -> Plaintext | None:
        """Return the kind of plaintext that a column of this type can hold any value of."""
        if isinstance(type_, sa.JSON):
            return JSON
        if isinstance(type_, sa.LargeBinary | sa.BINARY | sa.VARBINARY):
            return BYTES
        return TEXT if isinstance(type_, sa.String) and not isinstance(type_, sa.Enum) else None

    def is_wide(self, type_: TypeEngine[Any], kind: Plaintext = TEXT) -> bool:
        """Return whether a column of this type, which holds this kind of plaintext, need not be widened."""
        return True

    def key_problem(self, connection: sa.Connection, target: Target) -> str | None:
        """Return what keeps the primary keys in this table from naming exactly one row each, if anything does."""
        return None

    def has_exact_keys(self, target: Target) -> bool:
        """Return whether keys of these types are certain to compare as the values in the table do."""
        return all(isinstance(type_, sa.Integer | sa.Uuid | sa.LargeBinary) for type_ in target.key_types)

    def is_in_transaction(self, connection: sa.Connection, target: Target) -> bool:
        """Return whether statements on this connection are committed together; `begin` has been called."""
        return True

    def storage_without_transactions(self, connection: sa.Connection, target: Target) -> str | None:
        """Return the storage engine of a table if it has no transactions."""
        return None

    def limited_columns(self, connection: sa.Connection, target: Target) -> list[NarrowColumn]:
        """Return the columns whose type has a limit."""
        return []

    def cuts_silently(self, connection: sa.Connection) -> str | None:
        """Return why the server would cut a value that is too long instead of refusing it, if it would."""
        return None

    def lock_holders(self, connection: sa.Connection, target: Target, *, older_than: float = 0) -> list[str]:
        """Describe the sessions that a change of the table's definition waits for, without their queries.

        `older_than` leaves out transactions of fewer seconds.
        """
        return []

    def ddl_wait(self, connection: sa.Connection, target: Target) -> float | None:
        """Return how long the next change of the table's definition should wait, where that is longer than usual."""
        return None

    @contextmanager
    def short_waits(self, connection: sa.Connection, seconds: float) -> Iterator[None]:
        """Wait no longer than this for the locks of a table's definition, where `begin` cannot set that."""
        yield

    def schema_of(self, connection: sa.Connection, table: str, schema: str | None) -> str | None:
        """Return the schema in which this connection finds a table."""
        return schema

    @contextmanager
    def session(self, connection: sa.Connection, lock_timeout: float) -> Iterator[None]:
        """Set up a connection for a run, and leave it as it was."""
        yield

    def lift_limits(self, connection: sa.Connection) -> None:
        """Let the statements of a transaction take as long as they need, where a role has a limit."""

    def begin(
        self,
        connection: sa.Connection,
        target: Target,
        lock_timeout: float,
        *,
        write: bool,
        owned: bool = False,
        walk: bool = False,
        snapshot: bool = False,
    ) -> None:
        """Start a transaction: set the time limit for locks, in seconds, and take the write lock where there is one.

        On a connection that is `owned`, statements have no time limit; with `walk`, they follow the primary key,
        whatever the planner would prefer. With `snapshot`, all of them see the same rows.
        """

    def lock(self, statement: sa.Select[Any], *, wait: bool) -> sa.Select[Any]:
        """Lock the selected rows; wait for rows that others have locked, or leave them out."""
        return statement.with_for_update(key_share=True, skip_locked=not wait)

    def after(self, key: Sequence[sa.ColumnElement[Any]], previous: RowKey) -> sa.ColumnElement[bool]:
        """Return the test for the rows that follow a key in the order of the primary key."""
        return sa.tuple_(*key) > previous

    def up_to(self, key: Sequence[sa.ColumnElement[Any]], last: RowKey) -> sa.ColumnElement[bool]:
        """Return the test for the rows up to a key, that one included."""
        return sa.tuple_(*key) <= last

    def in_shard(self, key: Sequence[sa.ColumnElement[Any]], number: int, count: int) -> sa.ColumnElement[bool]:
        """Return the test for the rows of one share of `count`, which depends on their key alone."""
        raise UnsupportedOperationError("only PostgreSQL supports shards; leave the shard out: one process is as fast")

    def write(
        self,
        connection: sa.Connection,
        target: Target,
        keys: Sequence[RowKey],
        values: Sequence[Sequence[str | None]],
        within: Sequence[sa.ColumnElement[bool]],
    ) -> None:
        """Store new values by primary key: for each column, one for each row. None leaves a column as it is.

        `within` is true of all these rows, and lets a planner find them where it could not by their keys.
        """
        new: dict[str, Any] = {
            item.name: sa.func.coalesce(sa.bindparam(f"c{index}", type_=item.type), item)
            for index, item in enumerate(target.columns)
        }
        same_key = sa.and_(*(item == sa.bindparam(f"k{index}") for index, item in enumerate(target.key)))
        statement = sa.update(target.table).where(same_key).values(new | self.unchanged(connection, target))
        names = [f"k{index}" for index in range(len(target.key))] + [f"c{index}" for index in range(len(values))]
        rows = zip(*zip(*keys, strict=True), *values, strict=True)
        connection.execute(statement, [dict(zip(names, row, strict=True)) for row in rows])

    def with_keys(self, query: sa.Select[Any], target: Target, keys: Sequence[RowKey]) -> sa.Select[Any]:
        """Return a query for the rows with these keys, of which there are not many."""
        return query.where(sa.tuple_(*target.key).in_(keys))

    def unchanged(self, connection: sa.Connection, target: Target) -> dict[str, Any]:
        """Return the columns that an UPDATE would change by itself, each set to its own value."""
        return {}

    def flush(self, connection: sa.Connection) -> None:
        """Let everything happen that a commit would still do, such as deferred triggers."""

    def columns_to_convert(self, connection: sa.Connection, target: Target) -> dict[str, str]:
        """Return the columns that are not text and have to become it, and their types."""
        return {}

    def widening(self, connection: sa.Connection, target: Target) -> dict[str, str]:
        """Return the clauses of ALTER TABLE that make the columns text that is wide enough for ciphertext, by column.

        After these, there may be more.
        """
        return {}

    def from_text(self, dialect: Dialect, table: sa.Table, column: str, type_: TypeEngine[Any]) -> str | None:
        """Return the statement that turns a column of text into JSON or bytes again, if there is one."""
        return None

    def widening_statement(self, connection: sa.Connection, target: Target, clauses: Iterable[str]) -> str:
        """Return the statement for such clauses."""
        return f"{alter_table(connection, target)} {', '.join(clauses)}"

    def copied_by_widening(self, connection: sa.Connection, target: Target) -> dict[str, str]:
        """Return the columns whose type cannot change without a copy of the table under a lock, and their types."""
        return {}

    def named_checks(self, connection: sa.Connection, table: str, schema: str | None) -> dict[str, NamedCheck]:
        """Return the CHECKs of a table that have a name."""
        with inspecting(connection) as inspector:
            return {
                str(item["name"]): NamedCheck(item["sqltext"], not item.get("dialect_options", {}).get("not_valid"))
                for item in inspector.get_check_constraints(table, schema=schema)
            }

    def names_in(self, condition: str) -> set[str]:
        """Return what may be the name of a column in the condition of a CHECK."""
        return names_in(condition)

    def add_check(self, connection: sa.Connection, target: Target, name: str, condition: str) -> None:
        """Add a CHECK, in the transaction of the connection."""
        connection.exec_driver_sql(
            f"{alter_table(connection, target)} ADD CONSTRAINT {_quote(connection, name)} CHECK ({condition})"
            f"{' NOT VALID' if self.validates_separately else ''}"
        )

    def validate_check(self, connection: sa.Connection, target: Target, name: str) -> None:
        """Check the existing rows, under a lock that lets others read and write."""
        sql = f"{alter_table(connection, target)} VALIDATE CONSTRAINT {_quote(connection, name)}"
        connection.exec_driver_sql(sql)

    def drop_check(self, connection: sa.Connection, target: Target, name: str) -> None:
        """Drop a CHECK, in the transaction of the connection."""
        connection.exec_driver_sql(f"{alter_table(connection, target)} DROP CONSTRAINT {_quote(connection, name)}")

    def is_retryable(self, error: DBAPIError) -> bool:
        """Return whether the transaction can simply be run again."""
        raise NotImplementedError

    def is_lost(self, error: DBAPIError) -> bool:
        """Return whether the connection is gone, or the server does not accept one now."""
        return error.connection_invalidated

    def is_cut_off(self, error: DBAPIError) -> bool:
        """Return whether a statement was ended by a time limit, or by somebody."""
        return False

    def retry(self, transaction: Callable[[], _Result], attempts: int = ATTEMPTS) -> _Result:
        """Run a transaction, and run it again after a deadlock or a lock timeout."""
        for attempt in range(attempts - 1):
            try:
                return transaction()
            except DBAPIError as error:
                if not self.is_retryable(error):
                    raise
            time.sleep(random.uniform(0.5, 1) * min(0.02 * 2**attempt, 1))  # noqa: S311 - spreads the attempts
        return transaction()

    def finish(self, connection: sa.Connection, target: Target) -> list[str]:
        """Clean up after a run, and return what is left to do, in sentences."""
        raise NotImplementedError

    def describe_scrub(self, table: str, *, online: bool) -> str:
        """Return what a scrub keeps others from doing, in a sentence.

        Raises:
            UnsupportedOperationError: there is no scrub on this kind of database.
        """
        raise UnsupportedOperationError(
            "scrub supports PostgreSQL and SQLite only; on other databases, rebuild the table with its own commands"
        )

    def scrub(self, connection: sa.Connection, name: str, *, online: bool, lock_timeout: float) -> list[str]:
        """Remove old row versions from a table's files; return what is left, in sentences. Raises as `scrub.scrub`.

        `connection` is in AUTOCOMMIT, and `name` is quoted.
        """
        raise NotImplementedError


def alter_table(connection: sa.Connection, target: Target) -> str:
    """Return the start of an ALTER TABLE statement."""
    return f"ALTER TABLE {connection.dialect.identifier_preparer.format_table(target.table)}"


def to_like(pattern: str) -> str:
    """Return a pattern of `?` and `*` in the syntax of LIKE."""
    return pattern.replace("?", "_").replace("*", "%")


def _quote(connection: sa.Connection, name: str) -> str:
    return connection.dialect.identifier_preparer.quote(name)
