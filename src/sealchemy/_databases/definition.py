"""`Definition`: how the definition of a table is read, changed and constrained on one kind of database."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeEngine

from sealchemy._values.codecs import TEXT, Plaintext

from .encryption_check import EncryptionCheck
from .table import Target, inspecting


class NamedCheck(NamedTuple):
    """A CHECK that a table has: its condition, and whether the existing rows satisfy it."""

    condition: str
    is_validated: bool


class NarrowColumn(NamedTuple):
    """A column whose type has a limit: its name, the type as it is declared, and the limit in characters or bytes."""

    name: str
    declared: str
    limit: int


class Definition:
    """What a kind of database knows of columns, types, CHECKs, and the locks of ALTER TABLE."""

    can_alter_types: ClassVar[bool] = True
    """Whether ALTER TABLE can change the type of a column."""

    can_alter_checks: ClassVar[bool] = True
    """Whether ALTER TABLE can add and drop a CHECK."""

    validates_separately: ClassVar[bool] = False
    """Whether `add_check` leaves it to `VALIDATE CONSTRAINT` to look at the existing rows."""

    def is_wide(self, type_: TypeEngine[Any], kind: Plaintext = TEXT) -> bool:
        """Return whether a column of this type, which holds this kind of plaintext, need not be widened."""
        return True

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

    encryption_checks: ClassVar[Sequence[EncryptionCheck]]
    """The conditions of CHECKs that refuse what is not encrypted: the first two are those of today."""

    @contextmanager
    def short_waits(self, connection: sa.Connection, seconds: float) -> Iterator[None]:
        """Wait no longer than this for the locks of a table's definition, where `begin` cannot set that."""
        yield

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

    def add_check(
        self, connection: sa.Connection, target: Target, name: str, condition: str, replaced: Sequence[str] = ()
    ) -> None:
        """Add a CHECK and drop those that it replaces, in the transaction of the connection and in one statement."""
        drops = "".join(f"DROP CONSTRAINT {_quote(connection, other)}, " for other in replaced)
        connection.exec_driver_sql(
            f"{alter_table(connection, target)} {drops}ADD CONSTRAINT {_quote(connection, name)} CHECK ({condition})"
            f"{' NOT VALID' if self.validates_separately else ''}"
        )

    def check_script(self, table: str, name: str, condition: str) -> Iterator[str]:
        """Yield the statements that add a CHECK, each for a transaction of its own; the names are quoted."""
        yield f"ALTER TABLE {table} ADD CONSTRAINT {name} CHECK ({condition})"

    def validate_check(self, connection: sa.Connection, target: Target, name: str) -> None:
        """Check the existing rows, under a lock that lets others read and write."""
        sql = f"{alter_table(connection, target)} VALIDATE CONSTRAINT {_quote(connection, name)}"
        connection.exec_driver_sql(sql)

    def drop_check(self, connection: sa.Connection, target: Target, name: str) -> None:
        """Drop a CHECK, in the transaction of the connection."""
        connection.exec_driver_sql(f"{alter_table(connection, target)} DROP CONSTRAINT {_quote(connection, name)}")


def alter_table(connection: sa.Connection, target: Target) -> str:
    """Return the start of an ALTER TABLE statement."""
    return f"ALTER TABLE {connection.dialect.identifier_preparer.format_table(target.table)}"


def _quote(connection: sa.Connection, name: str) -> str:
    return connection.dialect.identifier_preparer.quote(name)
