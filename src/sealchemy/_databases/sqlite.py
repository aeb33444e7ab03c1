"""SQLite."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from operator import methodcaller
from pathlib import Path
from typing import Any

from sqlalchemy import (
    URL,
    ColumnElement,
    Connection,
    LargeBinary,
    Select,
    cast,
    func,
    literal,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.types import NullType, TypeEngine
from typing_extensions import override

from sealchemy._values.codecs import BYTES, TEXT, Plaintext
from sealchemy._values.envelope import HEADER_SIZE, PREFIX, ROW
from sealchemy.errors import UnsupportedOperationError

from . import refusals, sqlite_schema
from .base import Database, TransactionOptions, Writer
from .definition import NamedCheck
from .encryption_check import SHORTEST, EncryptionCheck, by_start
from .table import RowKey, Target


def _strict_check(*, bound: bool) -> EncryptionCheck:
    """Return the condition: the header, base64 up to the end, and neither bytes nor anything after a NUL."""
    after_header, after_row = HEADER_SIZE + 1, HEADER_SIZE + len(ROW) + 1
    start = f"{PREFIX}v1:{'[0-9a-f]' * 12}:{ROW if bound else ''}*"
    either = f"CASE substr({{}}, {after_header}, {len(ROW)}) WHEN '{ROW}' THEN {after_row} ELSE {after_header} END"
    base64 = f"rtrim(substr({{}}, {after_row if bound else either}), '=')"
    return EncryptionCheck(
        f"typeof({{}}) <> 'blob' AND instr({{}}, char(0)) = 0 AND {{}} GLOB '{start}'"
        f" AND {base64} NOT GLOB '*[^A-Za-z0-9+/]*' AND length({base64}) >= {SHORTEST} AND {{}} NOT GLOB '*==='",
        is_bound=bound,
    )


class SQLite(Database):
    """SQLite 3.35 and later."""

    isolation_level = "SERIALIZABLE"
    locks_rows = False
    has_snapshots = False  # without WAL, a reader makes writers wait
    can_alter_types = can_alter_checks = False

    encryption_checks = (_strict_check(bound=False), _strict_check(bound=True), *by_start("{} GLOB '", "'"))

    @override
    def refuse_missing(self, url: URL) -> None:
        """Refuse a file that does not exist, which the driver would create."""
        if not Path(url.database or "").is_file():
            raise UnsupportedOperationError(f"there is no database {url.database!r} here; set DATABASE_URL or --url")

    @override
    def in_folder(self, url: URL, folder: Path) -> URL:
        is_file = url.database and not url.database.startswith((":memory:", "file:"))
        return url.set(database=str(folder / str(url.database))) if is_file else url

    @override
    def matches(self, stored: ColumnElement[str], pattern: str) -> ColumnElement[bool]:
        """Return `col GLOB ...`: LIKE ignores case here."""
        return stored.op("GLOB", is_comparison=True)(literal(pattern))

    @override
    def size(self, stored: ColumnElement[str]) -> ColumnElement[int]:
        return func.length(cast(stored, LargeBinary))

    @override
    def key_type(self, type_: TypeEngine[Any]) -> TypeEngine[Any]:
        """Return no type: a key may hold values that SQLAlchemy's types cannot read, or tell apart."""
        return NullType()

    @override
    def kind_of(self, type_: TypeEngine[Any]) -> Plaintext | None:
        """Return the kind; a column without a type holds text as well."""
        return TEXT if isinstance(type_, NullType) else super().kind_of(type_)

    @override
    def key_problem(self, connection: Connection, target: Target) -> str | None:
        """Return the problem of NULL in a primary key, which SQLite allows: such rows have neither order nor name."""
        is_nameless = or_(*(item.is_(None) for item in target.key))
        if connection.scalar(select(literal(1)).select_from(target.table).where(is_nameless).limit(1)):
            return "it has rows whose primary key is NULL; give them one"
        return None

    @override
    def is_in_transaction(self, connection: Connection, target: Target) -> bool:
        driver: Any = connection.connection.driver_connection
        return bool(driver.in_transaction)

    @override
    def lock_holders(self, connection: Connection, target: Target, *, older_than: float = 0) -> list[str]:
        return [] if older_than else ["another connection to this file, which is reading or writing it"]

    @contextmanager
    @override
    def short_waits(self, connection: Connection, seconds: float) -> Iterator[None]:
        before = connection.exec_driver_sql("PRAGMA busy_timeout").scalar_one()
        connection.exec_driver_sql(f"PRAGMA busy_timeout = {round(seconds * 1000)}")
        connection.commit()
        try:
            yield
        finally:
            connection.exec_driver_sql(f"PRAGMA busy_timeout = {before}")
            connection.commit()

    @contextmanager
    @override
    def session(self, connection: Connection, lock_timeout: float) -> Iterator[None]:
        """Overwrite old values with zeros, and read text that is not UTF-8.

        Such text is read with lone surrogates, and then reported by its key. The lock timeout is the `timeout` of
        the driver's connect() here.
        """
        connection.execute(text("PRAGMA secure_delete = ON"))
        connection.commit()
        driver: Any = connection.connection.driver_connection
        before = driver.text_factory
        driver.text_factory = methodcaller("decode", "utf-8", "surrogateescape")
        try:
            yield
        finally:
            driver.text_factory = before

    @override
    def begin(self, connection: Connection, target: Target, options: TransactionOptions) -> None:
        """Take the write lock, in whatever way this engine begins its transactions."""
        if options.write:
            item = target.key[0]
            connection.execute(update(target.table).values({item.name: item}).where(text("0")))

    @override
    def lock(self, statement: Select[Any], *, wait: bool) -> Select[Any]:
        """Return the statement as it is: there is one writer."""
        return statement

    @override
    def writer(self, connection: Connection, target: Target, within: Sequence[ColumnElement[bool]]) -> Writer:
        """Return it for text alone without SQLAlchemy's work on each row, which takes longer than the driver's."""
        if BYTES in target.types:
            return super().writer(connection, target, within)
        quote, table = connection.dialect.identifier_preparer.quote, target.table
        changes = ", ".join(f"{name} = coalesce(?, {name})" for name in (quote(item.name) for item in target.columns))
        same_key = " AND ".join(f"{quote(item.name)} = ?" for item in target.key)
        sql = f"UPDATE {connection.dialect.identifier_preparer.format_table(table)} SET {changes} WHERE {same_key}"  # noqa: S608 - quoted names

        def write(keys: Sequence[RowKey], values: Sequence[Sequence[str | None]], _parameters: Any) -> None:
            connection.exec_driver_sql(sql, list(zip(*values, *zip(*keys, strict=True), strict=True)))

        return write

    @override
    def named_checks(self, connection: Connection, table: str, schema: str | None) -> dict[str, NamedCheck]:
        found = sqlite_schema.named_checks(connection, schema, table)
        return {name: NamedCheck(condition, is_validated=True) for name, condition in found.items()}

    @override
    def add_check(
        self, connection: Connection, target: Target, name: str, condition: str, replaced: Sequence[str] = ()
    ) -> None:
        for other in replaced:
            sqlite_schema.drop_check(connection, target.table.schema, target.table.name, other)
        sqlite_schema.add_check(connection, target.table.schema, target.table.name, name, condition)

    @override
    def drop_check(self, connection: Connection, target: Target, name: str) -> None:
        sqlite_schema.drop_check(connection, target.table.schema, target.table.name, name)

    refusals = refusals.SQLITE

    @override
    def code_of(self, error: DBAPIError) -> str | None:
        return getattr(error.orig, "sqlite_errorname", None)

    @override
    def is_retryable(self, error: DBAPIError) -> bool:
        """Return whether another connection has the write lock."""
        return getattr(error.orig, "sqlite_errorname", "").startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))

    @override
    def finish(self, connection: Connection, target: Target) -> list[str]:
        """Move the write-ahead log into the file: until then the old pages are still in it."""
        left = ["free pages from before, and backups, may still hold old values: `sealchemy scrub`, or VACUUM"]
        if _checkpoint_is_blocked(connection, target.table.schema):
            left.append("plaintext may remain in the file: another connection kept the WAL checkpoint from completing")
        return left

    @override
    def describe_scrub(self, table: str, *, online: bool) -> str:
        return "VACUUM takes the write lock of the file: others cannot write until it ends"

    @override
    def scrub(
        self, connection: Connection, name: str, schema: str | None, *, online: bool, lock_timeout: float
    ) -> list[str]:
        """VACUUM, which rewrites the whole file, and empty the write-ahead log; those of an attached database too."""
        quoted = connection.dialect.identifier_preparer.quote(schema or "main")
        self.retry(lambda: connection.execute(text(f"VACUUM {quoted}")))
        if _checkpoint_is_blocked(connection, schema):
            raise UnsupportedOperationError(
                "plaintext may remain in the file: another connection uses its write-ahead log; try again"
            )
        return []


def _checkpoint_is_blocked(connection: Connection, schema: str | None) -> bool:
    """Move SQLite's write-ahead log into the file and empty it; return whether another connection prevented that."""
    cursor = connection.connection.cursor()  # a checkpoint cannot run in a transaction, and SQLAlchemy begins one
    quoted = connection.dialect.identifier_preparer.quote(schema or "main")
    cursor.execute(f"PRAGMA {quoted}.wal_checkpoint(TRUNCATE)")
    row: Any = cursor.fetchone()
    cursor.close()
    return bool(row[0])
