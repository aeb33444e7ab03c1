"""`Database`: how values are tested, locked, written and scrubbed on one kind of database."""

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeAlias, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.types import TypeEngine

from sealchemy._values.codecs import BYTES, JSON, TEXT, Plaintext
from sealchemy.errors import UnsupportedOperationError

from .definition import Definition
from .parallel import Parallel
from .parts import Parts
from .replication import Replication
from .table import RowKey, Target, without_collation

ATTEMPTS = 10

Elements: TypeAlias = Sequence[sa.ColumnElement[Any]]

Writer: TypeAlias = Callable[[Sequence[RowKey], Sequence[Sequence[str | None]], Mapping[str, Any]], None]
"""It takes the keys of rows, and for each column their new values: None leaves a value as it is. The last argument are
the parameters of the test that is true of these rows."""

_Result = TypeVar("_Result")


class TransactionOptions(NamedTuple):
    """What a transaction needs.

    Attributes:
        lock_timeout: seconds to wait for locks.
        write: whether it writes.
        owned: whether the connection is not the caller's, so that statements may have no time limit.
        walk: whether its statements follow the primary key or the blocks, whatever the planner would prefer.
        snapshot: whether all of them see the same rows.
    """

    lock_timeout: float
    write: bool
    owned: bool = False
    walk: bool = False
    snapshot: bool = False


class Database(Definition):
    """One kind of database; the base class does what every SQL database understands."""

    isolation_level: ClassVar[str] = "READ COMMITTED"

    locks_rows: ClassVar[bool] = True
    """Whether others may write while a transaction writes."""

    parallel: ClassVar[Parallel] = Parallel()
    """What runs that share a table ask."""

    parts: ClassVar[Parts] = Parts()

    has_snapshots: ClassVar[bool] = True
    """Whether a transaction can see the same rows throughout without making others wait."""

    def refuse_missing(self, url: sa.URL) -> None:
        """Raise `UnsupportedOperationError` if connecting would create the database."""

    def in_folder(self, url: sa.URL, folder: Path) -> sa.URL:
        """Return a URL that means the same from any working folder, if it is meant from this one."""
        return url

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

    def schema_of(self, connection: sa.Connection, table: str, schema: str | None) -> str | None:
        """Return the schema in which this connection finds a table."""
        return schema

    @contextmanager
    def session(self, connection: sa.Connection, lock_timeout: float) -> Iterator[None]:
        """Set up a connection for a run, and leave it as it was."""
        yield

    def lift_limits(self, connection: sa.Connection) -> None:
        """Let the statements of a transaction take as long as they need, where a role has a limit."""

    def begin(self, connection: sa.Connection, target: Target, options: TransactionOptions) -> None:
        """Start a transaction: set its limits, and take the write lock where there is one."""

    def lock(self, statement: sa.Select[Any], *, wait: bool) -> sa.Select[Any]:
        """Lock the selected rows; wait for rows that others have locked, or leave them out."""
        return statement.with_for_update(key_share=True, skip_locked=not wait)

    def after(self, key: Elements, previous: Elements) -> sa.ColumnElement[bool]:
        """Return the test for the rows that follow a key in the order of the primary key."""
        return sa.tuple_(*key) > sa.tuple_(*previous)

    def up_to(self, key: Elements, last: Elements) -> sa.ColumnElement[bool]:
        """Return the test for the rows up to a key, that one included."""
        return sa.tuple_(*key) <= sa.tuple_(*last)

    def in_shard(self, key: Elements, number: int, count: int) -> sa.ColumnElement[bool]:
        """Return the test for the rows of one share of `count`, which depends on their key alone."""
        raise UnsupportedOperationError("only PostgreSQL supports shards; leave the shard out: one process is as fast")

    def replication(self, max_lag: float | None, max_wal_retained: int | None) -> Replication:
        """Return what tells whether standbys, or replication slots, are farther behind than that."""
        raise UnsupportedOperationError("only PostgreSQL supports max_lag and max_wal_retained; leave them out")

    def writer(self, connection: sa.Connection, target: Target, within: Sequence[sa.ColumnElement[bool]]) -> Writer:
        """Return the function that stores new values by primary key.

        `within` is true of all these rows, and lets a planner find them where it could not by their keys.
        """
        keys: list[sa.BindParameter[Any]] = [sa.bindparam(f"sealchemy_k{index}") for index in range(len(target.key))]
        values = [sa.bindparam(f"sealchemy_c{index}", type_=item.type) for index, item in enumerate(target.columns)]
        new: dict[str, Any] = {
            item.name: sa.func.coalesce(value, item) for item, value in zip(target.columns, values, strict=True)
        }
        same_key = [item == key for item, key in zip(target.key, keys, strict=True)]
        statement = sa.update(target.table).where(*same_key).values(new | self.unchanged(connection, target))
        names = [parameter.key for parameter in (*keys, *values)]

        def write(keys: Sequence[RowKey], values: Sequence[Sequence[str | None]], _parameters: Any) -> None:
            rows = zip(*zip(*keys, strict=True), *values, strict=True)
            connection.execute(statement, [dict(zip(names, row, strict=True)) for row in rows])

        return write

    def with_keys(self, query: sa.Select[Any], target: Target, keys: Sequence[RowKey]) -> sa.Select[Any]:
        """Return a query for the rows with these keys, of which there are not many."""
        return query.where(sa.tuple_(*target.key).in_(keys))

    def unchanged(self, connection: sa.Connection, target: Target) -> dict[str, Any]:
        """Return the columns that an UPDATE would change by itself, each set to its own value."""
        return {}

    def flush(self, connection: sa.Connection) -> None:
        """Let everything happen that a commit would still do, such as deferred triggers."""

    def is_retryable(self, error: DBAPIError) -> bool:
        """Return whether the transaction can simply be run again."""
        raise NotImplementedError

    def is_lost(self, error: DBAPIError) -> bool:
        """Return whether the connection is gone, or the server does not accept one now."""
        return error.connection_invalidated

    def is_cut_off(self, error: DBAPIError) -> bool:
        """Return whether a statement was cancelled, by a time limit or by an administrator."""
        return False

    refusals: ClassVar[Mapping[Any, str]] = {}
    """What to do about errors of the database, by the code that `code_of` returns."""

    def code_of(self, error: DBAPIError) -> Any:
        """Return the code by which the database identifies an error."""
        return None

    def explain(self, error: DBAPIError) -> str:
        """Return what the database refused and why, and what to do, without a value."""
        code, said = self.code_of(error), ""
        if error.hide_parameters and not error.params:  # the engine redacts its errors
            said = str(error.orig).strip().partition("\n")[0]
        names = f"{type(error.orig).__name__}{f' {code}' if code else ''}"
        what, repair = "the database refused a statement", self.refusals.get(code)
        if self.is_lost(error):
            what, repair = "there is no connection to the database", "check its URL, the user and the password"
        return "; ".join(filter(None, (f"{what}: {names}{f': {said}' if said else ''}", repair)))

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

    def scrub(
        self, connection: sa.Connection, name: str, schema: str | None, *, online: bool, lock_timeout: float
    ) -> list[str]:
        """Remove old row versions from a table's files; return what is left, in sentences. Raises as `scrub.scrub`.

        `connection` is in AUTOCOMMIT, and `name` is quoted, with the schema.
        """
        raise NotImplementedError
