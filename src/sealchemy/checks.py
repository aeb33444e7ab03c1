"""The CHECK with which the database itself refuses plaintext, and the width that ciphertext needs."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import Connection, Engine, Text, func, inspect, not_, select
from sqlalchemy import column as sql_column
from sqlalchemy.exc import IntegrityError

from . import envelope, sqlite_schema
from .backend import ANY_STORED_VALUE
from .backends import Access, access
from .engine import Rollout, binding
from .errors import ColumnDefinitionError, RewriteError, UnsupportedOperationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sqlalchemy import ColumnElement

_NAME_LIMIT = 63

_TOKEN = re.compile(
    r"""'(?:[^']|'')*' | ::\s*\w+ | COLLATE\s+"[^"]*" | "(?:[^"]|"")*" | `(?:[^`]|``)*` | [\w$]+""",
    re.VERBOSE | re.IGNORECASE,
)
"""A literal, a type or collation, a quoted name or a bare word."""


def constraint_name(table: str, column: str) -> str:
    """Return the name of the CHECK on a column, at most 63 characters."""
    name = f"ck_{table}_{column}_encrypted"
    if len(name.encode()) <= _NAME_LIMIT:
        return name
    return f"ck_{hashlib.sha256(name.encode()).hexdigest()[:16]}_encrypted"


def require_encryption(
    bind: Engine | Connection,
    table: str,
    columns: Mapping[str, str],
    *,
    schema: str | None = None,
    lock_timeout: float = 5.0,
) -> None:
    """Make the database refuse everything but stored values of ours in these columns.

    A column that is done already is left alone. On PostgreSQL a constraint is added NOT VALID and then
    validated, in two transactions: in one, the strong lock would be held through the scan.

    Raises:
        UnsupportedOperationError: the rollout stage of a column is not STRICT.
        RewriteError: there is plaintext; the text says how much.
        ColumnDefinitionError: the table or a column does not exist.

    """
    require_strict(bind, columns)
    with access(bind, table, columns, schema, lock_timeout) as opened:
        check = _Check(opened)
        check.refuse_plaintext()
        for column in check.target.columns:
            check.add(column)


def is_required(bind: Engine | Connection, table: str, columns: Iterable[str], *, schema: str | None = None) -> bool:
    """Return whether the database refuses plaintext in one of these columns."""
    with access(bind, table, dict.fromkeys(columns, "any"), schema) as opened:
        return any(_Check(opened).existing().values())


def allow_plaintext(
    bind: Engine | Connection,
    table: str,
    columns: Mapping[str, str],
    *,
    schema: str | None = None,
    lock_timeout: float = 5.0,
) -> None:
    """Drop what `require_encryption` added; the contexts do not matter."""
    with access(bind, table, dict.fromkeys(columns, "any"), schema, lock_timeout) as opened:
        check = _Check(opened)
        for column in check.target.columns:
            check.drop(column)


def widen(
    bind: Engine | Connection,
    table: str,
    columns: Mapping[str, str],
    *,
    schema: str | None = None,
    lock_timeout: float = 5.0,
) -> None:
    """Give these columns the type that ciphertext fits into, if they have another: TEXT, or MEDIUMTEXT."""
    with access(bind, table, columns, schema, lock_timeout) as opened:
        _Check(opened).widen()


class ExistingCheck(NamedTuple):
    """A CHECK of ours that the database has."""

    name: str
    is_validated: bool


def existing_checks(
    connection: Connection, schema: str | None, table: str, columns: Iterable[str]
) -> dict[str, list[ExistingCheck]]:
    """Return the CHECKs of ours on each column.

    They are known by what they say, since they keep their names where a table or a column is renamed.
    """
    found = [
        (name, sql, is_validated)
        for name, (sql, is_validated) in _named_checks(connection, schema, table).items()
        if name.startswith("ck_") and name.endswith("_encrypted") and envelope.PREFIX in sql
    ]
    return {
        column: [ExistingCheck(name, is_validated) for name, sql, is_validated in found if column in _names_in(sql)]
        for column in columns
    }


def _named_checks(connection: Connection, schema: str | None, table: str) -> dict[str, tuple[str, bool]]:
    if connection.dialect.name == "sqlite":
        return {name: (sql, True) for name, sql in sqlite_schema.named_checks(connection, schema, table).items()}
    return {
        str(item["name"]): (item["sqltext"], not item.get("dialect_options", {}).get("not_valid"))
        for item in inspect(connection).get_check_constraints(table, schema=schema)
    }


def _names_in(sql: str) -> set[str]:
    """Return the names in a condition; where they are in backquotes, which MariaDB does, bare words are none."""
    tokens = _TOKEN.findall(sql)
    quoted = {token[1:-1].replace(token[0] * 2, token[0]) for token in tokens if token[0] in '"`'}
    return quoted if "`" in {token[0] for token in tokens} else quoted.union(tokens)


class _Check:
    """The definition of one table, changed in transactions that wait for nobody for long."""

    def __init__(self, opened: Access) -> None:
        self.access, self.connection, self.target = opened, opened.connection, opened.target
        connection = opened.connection
        self.is_sqlite = connection.dialect.name == "sqlite"
        self.is_postgresql = connection.dialect.name == "postgresql"
        self.quote = connection.dialect.identifier_preparer.quote
        self.alter = f"ALTER TABLE {connection.dialect.identifier_preparer.format_table(opened.target.table)}"

    def refuse_plaintext(self) -> None:
        with self.access.transaction(write=False):
            for column in self.target.columns:
                query = select(func.count()).select_from(self.target.table).where(not_(self._test(column)))
                if count := self.connection.scalar(query):
                    message = (
                        f"{self.target.name}.{column.name}: {count} values are no stored values of sealchemy, so the"
                        " database cannot be told to refuse such: run encrypt_columns first"
                    )
                    raise RewriteError(message)

    def add(self, column: ColumnElement[str]) -> None:
        existing = self.existing()[column.name]
        if not existing:
            name = constraint_name(self.target.table.name, column.name)
            self._refuse_taken(name, column)
            self.access.run(lambda: self._add_unvalidated(column, name))
            existing = [ExistingCheck(name, is_validated=not self.is_postgresql)]
        if not any(check.is_validated for check in existing):
            self._validate(existing[0].name)

    def _refuse_taken(self, name: str, column: ColumnElement[str]) -> None:
        with self.access.transaction(write=False):
            taken = name in _named_checks(self.connection, self.target.table.schema, self.target.table.name)
        if taken:
            message = (
                f"{self.target.name}: its CHECK {name} has another condition than that {column.name} is encrypted:"
                " rename or drop it"
            )
            raise ColumnDefinitionError(message)

    def drop(self, column: ColumnElement[str]) -> None:
        for check in self.existing()[column.name]:
            self._drop(check.name)

    def _drop(self, name: str) -> None:
        if self.is_sqlite:
            table = self.target.table
            self.access.run(lambda: sqlite_schema.drop_check(self.connection, table.schema, table.name, name))
        else:
            self._execute(f"{self.alter} DROP CONSTRAINT {self.quote(name)}")

    def widen(self) -> None:
        with self.access.transaction(write=False):
            statements = self.access.backend.widening(self.connection, self.target)
        for statement in statements:
            self._execute(f"{self.alter} {statement}")

    def _test(self, column: ColumnElement[str]) -> ColumnElement[bool]:
        return self.access.backend.matches(column, ANY_STORED_VALUE)

    def _add_unvalidated(self, column: ColumnElement[str], name: str) -> None:
        bare: ColumnElement[str] = sql_column(column.name, Text())  # a table's name does not fit its partitions
        test = self._test(bare).compile(self.connection, compile_kwargs={"literal_binds": True})
        if self.is_sqlite:
            table = self.target.table
            sqlite_schema.add_check(self.connection, table.schema, table.name, name, str(test))
        else:
            option = " NOT VALID" if self.is_postgresql else ""
            self.connection.exec_driver_sql(f"{self.alter} ADD CONSTRAINT {self.quote(name)} CHECK ({test}){option}")

    def _validate(self, name: str) -> None:
        """Scan the table under a lock that lets everybody read and write."""
        try:
            self._execute(f"{self.alter} VALIDATE CONSTRAINT {self.quote(name)}")
        except IntegrityError:
            # Left in place, it would fail each update of the rows that violate it.
            self._execute(f"{self.alter} DROP CONSTRAINT {self.quote(name)}")
        else:
            return
        message = (
            f"{self.target.name}: plaintext was written while {name} was added, which is dropped again: bring every"
            " process to rollout stage strict, run encrypt_columns, then this again"
        )
        raise RewriteError(message)

    def existing(self) -> dict[str, list[ExistingCheck]]:
        table, columns = self.target.table, [column.name for column in self.target.columns]
        with self.access.transaction(write=False):
            return existing_checks(self.connection, table.schema, table.name, columns)

    def _execute(self, sql: str) -> None:
        self.access.run(lambda: self.connection.exec_driver_sql(sql))


def require_strict(bind: Engine | Connection, columns: Mapping[str, str]) -> None:
    """Raise `UnsupportedOperationError` unless the rollout stage of every context is STRICT."""
    keys = binding(bind.dialect)
    for context in columns.values():
        keys.require_ring(context)
        if keys.stage(context) is not Rollout.STRICT:
            message = (
                f"{context}: its rollout stage is {keys.stage(context).value}: the database may only refuse plaintext"
                " once no process writes any, which is stage strict everywhere"
            )
            raise UnsupportedOperationError(message)
