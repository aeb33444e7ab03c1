"""The CHECK with which the database itself refuses plaintext, and the width that ciphertext needs."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

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

_TOKEN = re.compile(r"""'(?:[^']|'')*' | "(?:[^"]|"")*" | `(?:[^`]|``)*` | [\w$]+""", re.VERBOSE)
"""A literal, a quoted name or a bare one."""


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
    for context in columns.values():
        _require_strict(bind, context)
    with access(bind, table, columns, schema, lock_timeout) as opened:
        check = _Check(opened)
        check.refuse_plaintext()
        for column in check.target.columns:
            check.add(column)


def is_required(bind: Engine | Connection, table: str, columns: Iterable[str], *, schema: str | None = None) -> bool:
    """Return whether the database refuses plaintext in one of these columns."""
    with access(bind, table, dict.fromkeys(columns, "any"), schema) as opened:
        return not {"valid", "not valid"}.isdisjoint(_Check(opened).existing().values())


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


def existing_checks(connection: Connection, schema: str | None, table: str, columns: Iterable[str]) -> dict[str, str]:
    """Return what the CHECKs of the names that are ours are, by name.

    `valid`, `not valid` on PostgreSQL, or `other` where the condition is not about this column: a column that was
    renamed takes its CHECK with it, under the name that it had.
    """
    names = {constraint_name(table, column): column for column in columns}
    found: dict[str, tuple[str | None, bool]]
    if connection.dialect.name == "sqlite":
        found = {name: (sqlite_schema.find_check(connection, schema, table, name), False) for name in names}
    else:
        constraints = inspect(connection).get_check_constraints(table, schema=schema)
        found = {
            str(item["name"]): (item["sqltext"], bool(item.get("dialect_options", {}).get("not_valid")))
            for item in constraints
        }
    return {
        name: "other" if not _is_about(sql, column) else "not valid" if is_not_valid else "valid"
        for name, column in names.items()
        for sql, is_not_valid in [found.get(name, (None, False))]
        if sql is not None
    }


def _is_about(sql: str, column: str) -> bool:
    """Return whether a condition is ours and names a column, however the database writes it."""
    tokens = _TOKEN.findall(sql)
    names = {token[1:-1].replace(token[0] * 2, token[0]) if token[0] in '"`' else token for token in tokens}
    return column in names and envelope.PREFIX in sql


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
        name = constraint_name(self.target.table.name, column.name)
        existing = self.existing()
        if existing.get(name) == "other":
            message = (
                f"{self.target.name}: its CHECK {name} has another condition than that {column.name} is encrypted:"
                " rename or drop it"
            )
            raise ColumnDefinitionError(message)
        if name not in existing:
            self.access.run(lambda: self._add_unvalidated(column, name))
        if self.is_postgresql and existing.get(name, "not valid") == "not valid":
            self._validate(name)

    def drop(self, column: ColumnElement[str]) -> None:
        name = constraint_name(self.target.table.name, column.name)
        if self.existing().get(name) not in {"valid", "not valid"}:
            return
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

    def existing(self) -> dict[str, str]:
        table, columns = self.target.table, [column.name for column in self.target.columns]
        with self.access.transaction(write=False):
            return existing_checks(self.connection, table.schema, table.name, columns)

    def _execute(self, sql: str) -> None:
        self.access.run(lambda: self.connection.exec_driver_sql(sql))


def _require_strict(bind: Engine | Connection, context: str) -> None:
    keys = binding(bind.dialect)
    keys.require_ring(context)
    if keys.stage(context) is not Rollout.STRICT:
        message = (
            f"{context}: its rollout stage is {keys.stage(context).value}: the database may only refuse plaintext once"
            " no process writes any, which is stage strict everywhere"
        )
        raise UnsupportedOperationError(message)
