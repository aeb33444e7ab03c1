"""MariaDB and MySQL."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, literal, or_, text
from sqlalchemy.dialects.mysql import LONGBLOB, LONGTEXT, MEDIUMBLOB, MEDIUMTEXT, SET, TINYBLOB
from sqlalchemy.exc import DBAPIError
from sqlalchemy.types import TypeEngine
from typing_extensions import override

from sealchemy._values.codecs import BYTES, JSON, TEXT, Plaintext

from . import mysql_keys, refusals
from .base import Database, Elements, TransactionOptions, Writer
from .definition import NarrowColumn
from .encryption_check import by_regular_expression, by_start, to_like
from .mysql_catalog import column_definition, is_versioned, read_catalog
from .mysql_conversion import columns_to_convert, to_text, with_type
from .mysql_join import can_join, join_and_update
from .table import RowKey, Target

_LIMITED = {"char", "varchar", "tinytext", "text"}

_TIMEOUTS = ("innodb_lock_wait_timeout", "lock_wait_timeout")  # for rows, and for the definition of a table


class MySQL(Database):
    """MariaDB 10.6 and later, MySQL 8.0.19 and later."""

    encryption_checks = (
        *by_regular_expression("{} regexp '(?s-i)^", "(?!.)'"),  # $ would be true before a newline as well
        *by_regular_expression("regexp_like({}, '(?s-i)^", "(?!.)')"),  # as MySQL shows it
        *by_start("{} like cast('", "' as char charset binary)", to_like),
    )

    @override
    def matches(self, stored: ColumnElement[str], pattern: str) -> ColumnElement[bool]:
        """Return `col LIKE BINARY ...`: the usual collations ignore case."""
        return stored.op("LIKE BINARY", is_comparison=True)(literal(to_like(pattern)))

    @override
    def kind_of(self, type_: TypeEngine[Any]) -> Plaintext | None:
        """Return the kind; SQLAlchemy treats a SET as text, but it cannot hold any text."""
        if isinstance(type_, TINYBLOB | MEDIUMBLOB | LONGBLOB):
            return BYTES
        return None if isinstance(type_, SET) else super().kind_of(type_)

    @override
    def is_wide(self, type_: TypeEngine[Any], kind: Plaintext = TEXT) -> bool:
        """Return whether it is MEDIUMTEXT or LONGTEXT; as the latter MariaDB describes JSON, too."""
        return isinstance(type_, MEDIUMTEXT) or (isinstance(type_, LONGTEXT) and kind is not JSON)

    @override
    def key_problem(self, connection: Connection, target: Target) -> str | None:
        return mysql_keys.key_problem(target)

    @override
    def has_exact_keys(self, target: Target) -> bool:
        return mysql_keys.has_exact_keys(target)

    @override
    def is_in_transaction(self, connection: Connection, target: Target) -> bool:
        return not connection.scalar(text("SELECT @@autocommit"))

    @override
    def storage_without_transactions(self, connection: Connection, target: Target) -> str | None:
        query = (
            "SELECT t.engine, e.transactions FROM information_schema.tables t LEFT JOIN information_schema.engines e"
            " ON e.engine = t.engine WHERE t.table_name = :table AND t.table_schema = coalesce(:schema, database())"
        )
        found = read_catalog(connection, target, query)
        return next((engine or "unknown" for engine, transactions in found if transactions != "YES"), None)

    @override
    def lock_holders(self, connection: Connection, target: Target, *, older_than: float = 0) -> list[str]:
        """Describe the oldest transactions: these servers do not tell whose locks they hold."""
        query = text(
            "SELECT trx_mysql_thread_id, user, command, timestampdiff(SECOND, trx_started, now())"
            " FROM information_schema.innodb_trx JOIN information_schema.processlist ON id = trx_mysql_thread_id"
            " WHERE id <> connection_id() AND timestampdiff(SECOND, trx_started, now()) >= :older_than"
            " ORDER BY trx_started LIMIT 3"
        )
        try:
            return [
                f"connection {thread}, user {user}, {command}, in a transaction of {seconds} s"
                for thread, user, command, seconds in connection.execute(query, {"older_than": older_than})
            ]
        except DBAPIError:  # it takes the PROCESS privilege
            return []

    @override
    def cuts_silently(self, connection: Connection) -> str | None:
        modes = str(connection.scalar(text("SELECT @@sql_mode"))).split(",")
        is_strict = not {"STRICT_TRANS_TABLES", "STRICT_ALL_TABLES"}.isdisjoint(modes)
        return None if is_strict else "the connection's sql_mode is not strict"

    @contextmanager
    @override
    def short_waits(self, connection: Connection, seconds: float) -> Iterator[None]:
        """Wait for one second, the shortest time that these servers know."""
        before = connection.execute(text("SELECT @@lock_wait_timeout")).scalar_one()
        connection.execute(text("SET SESSION lock_wait_timeout = 1"))
        connection.commit()
        try:
            yield
        finally:
            connection.rollback()
            connection.execute(text(f"SET SESSION lock_wait_timeout = {before}"))
            connection.commit()

    @contextmanager
    @override
    def session(self, connection: Connection, lock_timeout: float) -> Iterator[None]:
        """Set the time limits for locks, which cannot be limited to a transaction.

        SHOW CREATE TABLE writes backslashes as the usual sql_mode reads them.
        """
        before = connection.execute(text(f"SELECT {', '.join(f'@@{name}' for name in _TIMEOUTS)}")).one()
        mode = str(connection.execute(text("SELECT @@sql_mode")).scalar_one())
        self._set_timeouts(connection, [max(round(lock_timeout), 1)] * len(_TIMEOUTS))
        self._set_mode(connection, ",".join(item for item in mode.split(",") if item != "NO_BACKSLASH_ESCAPES"))
        try:
            yield
        finally:
            connection.rollback()
            self._set_timeouts(connection, before)
            self._set_mode(connection, mode)

    def _set_mode(self, connection: Connection, mode: str) -> None:
        connection.execute(text("SET SESSION sql_mode = :mode"), {"mode": mode})
        connection.commit()

    def _set_timeouts(self, connection: Connection, seconds: Sequence[int] | Row[Any]) -> None:
        settings = (f"SESSION {name} = {value}" for name, value in zip(_TIMEOUTS, seconds, strict=True))
        connection.execute(text(f"SET {', '.join(settings)}"))
        connection.commit()

    @override
    def begin(self, connection: Connection, target: Target, options: TransactionOptions) -> None:
        """Have the transaction, which begins with the next statement, see the same rows throughout."""
        if options.snapshot:
            connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))

    @override
    def after(self, key: Elements, previous: Elements) -> ColumnElement[bool]:
        """Return it without a comparison of rows, for which these servers do not use the index."""
        first, *others = key
        beyond: ColumnElement[bool] = first > previous[0]
        return and_(first >= previous[0], or_(beyond, self.after(others, previous[1:]))) if others else beyond

    @override
    def up_to(self, key: Elements, last: Elements) -> ColumnElement[bool]:
        first, *others = key
        before: ColumnElement[bool] = first < last[0]
        reached: ColumnElement[bool] = first <= last[0]
        return and_(reached, or_(before, self.up_to(others, last[1:]))) if others else reached

    @override
    def writer(self, connection: Connection, target: Target, within: Sequence[ColumnElement[bool]]) -> Writer:
        """Return it for rows with the same columns at once, if their keys are integers: others have a collation."""
        unchanged, write_each = self.unchanged(connection, target), super().writer(connection, target, within)

        def write(
            keys: Sequence[RowKey], values: Sequence[Sequence[str | None]], parameters: Mapping[str, Any]
        ) -> None:
            if can_join(target, values):
                join_and_update(connection, target, keys, values, unchanged)
            else:
                write_each(keys, values, parameters)

        return write

    @override
    def unchanged(self, connection: Connection, target: Target) -> dict[str, Any]:
        """Return the columns with ON UPDATE CURRENT_TIMESTAMP."""
        query = text(
            "SELECT column_name FROM information_schema.columns WHERE table_name = :table"
            " AND table_schema = coalesce(:schema, database()) AND extra LIKE '%on update%'"
        )
        names = connection.scalars(query, {"table": target.table.name, "schema": target.table.schema})
        return {name: target.table.c[name] for name in names}

    @override
    def limited_columns(self, connection: Connection, target: Target) -> list[NarrowColumn]:
        names = {item.name for item in target.columns}
        query = (
            "SELECT column_name, column_type, character_octet_length, data_type FROM information_schema.columns"
            " WHERE table_name = :table AND table_schema = coalesce(:schema, database())"
        )
        return [
            NarrowColumn(name, declared, int(size or 0))
            for name, declared, size, type_ in read_catalog(connection, target, query)
            if name in names and type_.lower() in _LIMITED
        ]

    @override
    def widening(self, connection: Connection, target: Target) -> dict[str, str]:
        """Return it for columns of less than MEDIUMTEXT, and of other types; everything but the type stays."""
        clauses = {
            item.name: "MODIFY " + with_type(column_definition(connection, target, item.name), "MEDIUMTEXT")
            for item in self.limited_columns(connection, target)
        }
        return clauses | to_text(connection, target)

    @override
    def columns_to_convert(self, connection: Connection, target: Target) -> dict[str, str]:
        """Return those of JSON, which is LONGTEXT with a CHECK on MariaDB, and of bytes."""
        return columns_to_convert(connection, target)

    @override
    def widening_statement(self, connection: Connection, target: Target, clauses: Iterable[str]) -> str:
        statement = super().widening_statement(connection, target, (item.replace("%", "%%") for item in clauses))
        keep = "SET STATEMENT system_versioning_alter_history = KEEP FOR "
        return f"{keep if is_versioned(connection, target) else ''}{statement}"

    @override
    def copied_by_widening(self, connection: Connection, target: Target) -> dict[str, str]:
        """Return it for every column: these servers copy the table to change a type."""
        limited = {item.name: item.declared for item in self.limited_columns(connection, target)}
        return limited | self.columns_to_convert(connection, target)

    refusals = refusals.MYSQL

    @override
    def code_of(self, error: DBAPIError) -> int | None:
        code = error.orig.args[0] if error.orig and error.orig.args else None
        return code if isinstance(code, int) else None

    @override
    def is_lost(self, error: DBAPIError) -> bool:
        """Return whether the connection is gone, or the server cannot be reached."""
        code = error.orig.args[0] if error.orig and error.orig.args else None
        return super().is_lost(error) or code in {1040, 1053, 1927, 2002, 2003, 2006, 2013}

    @override
    def is_retryable(self, error: DBAPIError) -> bool:
        """Return whether it is a deadlock or a lock timeout."""
        return bool(error.orig and error.orig.args and error.orig.args[0] in {1205, 1213, 3572})

    @override
    def finish(self, connection: Connection, target: Target) -> list[str]:
        return ["the old rows are in free pages, the undo and binary logs, replicas and backups"]
