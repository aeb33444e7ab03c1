"""Columns of JSON and of bytes through the whole rollout, from every type that databases have for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import JSON, Column, Integer, LargeBinary, MetaData, Table, insert, select, text
from sqlalchemy.dialects import mysql, postgresql
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sealchemy import (
    ColumnDefinitionError,
    EncryptedBytes,
    EncryptedJSON,
    Key,
    KeyRing,
    RewriteError,
    Rollout,
    UnsupportedOperationError,
    attach_key_ring,
)
from sealchemy._databases import mysql_conversion
from sealchemy._databases.access import open_table
from sealchemy._databases.table import TableColumns
from sealchemy._rewriting import constraint
from sealchemy.plan import plan, steps
from sealchemy.rewrite import DECRYPT, ENCRYPT, REKEY, VERIFY, Options, rewrite
from sealchemy.status import check_encryption, column_status, declared_status
from sealchemy.testing import assert_encrypted
from tests.support import alembic

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sqlalchemy import Engine

OLD, NEW = Key.generate(), Key.generate()
COLUMNS = {"profile": "accounts.profile", "data": "accounts.data"}
KINDS = {"profile": "json", "data": "bytes"}
DOCUMENTS: list[Any] = [
    {"token": "SENTINEL", "n": [1, 2.5, None]},
    [],
    "text",
    12,
    1.5,
    True,
    {"ключ": "\u2028'\\"},
    None,
]
BYTES = [b"", b"\0\xff\xfeSENTINEL", bytes(range(256)), b"sealchem", b"\\x00", b"a" * 3000, b"%'", None]

NATIVE = {
    ("sqlite", "own"): ("JSON", "BLOB"),
    ("sqlite", "text"): ("TEXT", "TEXT"),
    ("postgresql", "own"): ("jsonb", "bytea"),
    ("postgresql", "json"): ("json", "bytea"),
    ("postgresql", "text"): ("text", "varchar(9000)"),
    ("mariadb", "own"): ("JSON", "BLOB"),
    ("mariadb", "varbinary"): ("JSON", "VARBINARY(4000)"),
    ("mariadb", "text"): ("LONGTEXT", "MEDIUMTEXT"),
}


"""Those with a column that has to be widened, or looks like one."""


TEXT_CASES = [case for case in NATIVE if case[1] == "text"]
only_text = pytest.mark.parametrize("case", TEXT_CASES, ids="-".join, indirect=True)


class Base(DeclarativeBase):
    pass


class Account(Base):
    __tablename__ = "accounts"

    id: Mapped[int] = mapped_column(primary_key=True)
    profile: Mapped[Any] = mapped_column(EncryptedJSON(COLUMNS["profile"]), nullable=True)
    data: Mapped[bytes | None] = mapped_column(EncryptedBytes(COLUMNS["data"]))


def old_release(engine: Engine) -> Any:
    """The model of a release without encryption."""
    kinds: dict[str, Any] = {"postgresql": postgresql.JSONB, "mysql": mysql.JSON}

    class Plain(DeclarativeBase):
        metadata = MetaData()

    class PlainAccount(Plain):
        __tablename__ = "accounts"
        id: Mapped[int] = mapped_column(primary_key=True)
        profile: Mapped[Any] = mapped_column(kinds.get(engine.dialect.name, JSON)(none_as_null=True), nullable=True)
        data: Mapped[bytes | None] = mapped_column(LargeBinary)

    return PlainAccount


@pytest.fixture(params=NATIVE, ids="-".join)
def case(request: pytest.FixtureRequest) -> tuple[str, str]:
    return request.param


@pytest.fixture
def engine(
    case: tuple[str, str], request: pytest.FixtureRequest, tmp_path: Path, make_engine: Callable[..., Engine]
) -> Engine:
    kind = case[0]
    url = f"sqlite:///{tmp_path / 'test.db'}" if kind == "sqlite" else request.getfixturevalue(f"{kind}_url")
    engine = make_engine(url, KeyRing(primary=OLD), rollout=Rollout.MIGRATE)
    types = NATIVE[case]
    with engine.begin() as connection:
        connection.exec_driver_sql(
            f"CREATE TABLE accounts (id INTEGER NOT NULL PRIMARY KEY, profile {types[0]} NULL, data {types[1]} NULL)"
        )
    rows = [
        {"id": number, "profile": document, "data": data}
        for number, (document, data) in enumerate(zip(DOCUMENTS, BYTES, strict=True), 1)
    ]
    with engine.begin() as connection:
        if case[1] == "text":
            attach_key_ring(engine, KeyRing(primary=OLD), rollout=Rollout.PREPARE)
            connection.execute(insert(Account), rows)
            attach_key_ring(engine, KeyRing(primary=OLD), rollout=Rollout.MIGRATE)
        else:
            connection.execute(insert(old_release(engine)), rows)
    return engine


def read(engine: Engine) -> list[tuple[Any, Any]]:
    with Session(engine) as session:
        return [tuple(row) for row in session.execute(select(Account.profile, Account.data).order_by(Account.id))]


def stored(engine: Engine) -> list[Any]:
    with engine.connect() as connection:
        return [item for row in connection.execute(text("SELECT profile, data FROM accounts")) for item in row]


def operate(engine: Engine, call: Callable[[Operations], Any]) -> None:
    with engine.connect() as connection:
        context = MigrationContext.configure(connection)
        with context.begin_transaction(), Operations.context(context) as operations:
            call(operations)


EXPECTED = list(zip(DOCUMENTS, BYTES, strict=True))


@pytest.mark.slow
def test_from_plaintext_to_encrypted_and_back(engine: Engine, case: tuple[str, str]) -> None:
    is_text, is_sqlite = case[1] == "text", case[0] == "sqlite"
    (found,) = plan(engine, Base.metadata)
    labels = {item.label for item in found.findings}
    converts = not is_text and not is_sqlite
    assert ({"type:profile", "type:data"} <= labels) is converts
    listed = "\n".join(steps([found], command_options="--x", prefix="P"))
    assert ("sealchemy widen" in listed) is converts
    assert [column.state for column in found.columns] == ["plaintext", "plaintext"]
    if converts:
        with pytest.raises(ColumnDefinitionError, match="is not text: turn it into text first"):
            rewrite(ENCRYPT, engine, "accounts", COLUMNS, kinds=KINDS)
        with pytest.raises(UnsupportedOperationError, match=r"type:profile|JSON|jsonb|bytea|BLOB"):
            check_encryption(engine, Base.metadata)

    operate(engine, lambda op: op.encrypt_columns("accounts", COLUMNS, kinds=KINDS))
    assert read(engine) == EXPECTED
    assert all(item is None or item.startswith("sealchemy:v1:") for item in stored(engine))
    for status in column_status(engine, "accounts", COLUMNS):
        assert (status.plaintext, status.unknown, sum(status.keys.values())) == (0, 0, len(BYTES) - 1)
    check_encryption(engine, Base.metadata)

    operate(engine, lambda op: op.encrypt_columns("accounts", COLUMNS, kinds=KINDS))  # again
    attach_key_ring(engine, KeyRing(primary=NEW, previous=[OLD]))
    operate(engine, lambda op: op.require_encryption("accounts", COLUMNS))
    rewrite(VERIFY, engine, "accounts", COLUMNS, kinds=KINDS)
    report = rewrite(REKEY, engine, "accounts", COLUMNS, kinds=KINDS)
    assert (report.rewritten, report.failed) == (len(BYTES) - 1, 0)
    assert {key for status in declared_status(engine, Base.metadata) for key in status.keys} == {NEW.id}
    assert read(engine) == EXPECTED
    check_encryption(engine, Base.metadata)
    with Session(engine) as session:
        assert_encrypted(session, Account.data)
        assert_encrypted(session, Account.profile)

    attach_key_ring(engine, KeyRing(primary=NEW), rollout=Rollout.MIGRATE)
    operate(engine, lambda op: op.allow_plaintext("accounts", COLUMNS))
    rewrite(DECRYPT, engine, "accounts", COLUMNS, kinds=KINDS)
    assert read(engine) == EXPECTED
    assert not any(str(item).startswith("sealchemy:") for item in stored(engine))
    if is_sqlite and not is_text:
        with Session(engine) as session:  # the release before reads its own values again
            plain = old_release(engine)
            rows = session.execute(select(plain.profile, plain.data).order_by(plain.id))
            assert [tuple(row) for row in rows] == EXPECTED


@only_text
def test_json_text_is_kept_letter_by_letter(engine: Engine) -> None:
    written = ' {"b": 1,\n "a": "x", "a": "y"} '
    with engine.begin() as connection:
        connection.execute(text("UPDATE accounts SET profile = :written WHERE id = 1"), {"written": written})
    rewrite(ENCRYPT, engine, "accounts", COLUMNS, kinds=KINDS)
    rewrite(DECRYPT, engine, "accounts", COLUMNS, kinds=KINDS)
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT profile FROM accounts WHERE id = 1")) == written


@only_text
def test_values_of_no_such_kind_are_reported_and_left(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("UPDATE accounts SET profile = 'SENTINEL', data = 'SENTINEL' WHERE id = 3"))
    with pytest.raises(RewriteError) as caught:
        rewrite(ENCRYPT, engine, "accounts", COLUMNS, kinds=KINDS)
    assert caught.value.report is not None
    assert [(item.key, item.column) for item in caught.value.report.failures] == [((3,), "profile"), ((3,), "data")]
    assert "SENTINEL" not in str(caught.value)
    assert "legacy_reader" in str(caught.value)
    assert sum(item == "SENTINEL" for item in stored(engine)) == 2
    with pytest.raises(RewriteError, match="2 values cannot be read"):
        rewrite(VERIFY, engine, "accounts", COLUMNS, kinds=KINDS)


@only_text
def test_text_that_stands_for_bytes_is_not_taken_for_text(engine: Engine) -> None:
    with pytest.raises(RewriteError, match=r"stands for bytes.*kinds=\{column: 'bytes'\}"):
        rewrite(ENCRYPT, engine, "accounts", {"data": COLUMNS["data"]})
    rewrite(ENCRYPT, engine, "accounts", {"data": COLUMNS["data"]}, kinds={"data": "bytes"})
    assert [data for _, data in read(engine)] == BYTES
    with pytest.raises(RewriteError, match="stands for bytes"):  # and neither on the way back
        rewrite(DECRYPT, engine, "accounts", {"data": COLUMNS["data"]})


@only_text
def test_a_legacy_reader_may_return_bytes(engine: Engine) -> None:
    rewrite(ENCRYPT, engine, "accounts", {"data": COLUMNS["data"]}, kinds={"data": "bytes"}, legacy_reader=str.encode)
    assert [data for _, data in read(engine)][1] == rb"\x00fffe" + b"SENTINEL".hex().encode()


def test_kinds_that_do_not_fit_are_refused(engine: Engine, case: tuple[str, str]) -> None:
    for kinds in ({"profile": "blob"}, {"other": "json"}):
        with pytest.raises(ColumnDefinitionError, match=r"kinds (has|says)"):
            rewrite(VERIFY, engine, "accounts", COLUMNS, kinds=kinds)
    if case[1] in {"own", "json"} and case[0] != "mariadb":
        before = stored(engine)
        for kinds in ({}, {"profile": "bytes", "data": "json"}):
            with pytest.raises(ColumnDefinitionError, match="turn it into text first"):
                operate(engine, lambda op, kinds=kinds: op.encrypt_columns("accounts", COLUMNS, kinds=kinds))
        assert stored(engine) == before


def test_dry_run_changes_nothing(engine: Engine) -> None:
    before = stored(engine)
    if engine.dialect.name != "sqlite":
        operate(engine, lambda op: op.widen_columns("accounts", list(COLUMNS)))
        before = stored(engine)
    report = rewrite(ENCRYPT, engine, "accounts", COLUMNS, kinds=KINDS, options=Options(dry_run=True))
    assert report.pending == len(BYTES) - 1
    assert stored(engine) == before


def test_widening_keeps_what_belongs_to_a_column(mariadb_url: str, make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(mariadb_url, KeyRing(primary=OLD), rollout=Rollout.MIGRATE)
    name = "d ä" + "x" * 55
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TABLE t (id INTEGER PRIMARY KEY, j JSON NOT NULL COMMENT 'it''s json_valid(`j`)', "
            f"`{name}` BLOB NOT NULL COMMENT 'it''s', v VARBINARY(9) NULL INVISIBLE, n INT)"
        )
        connection.exec_driver_sql(
            f"INSERT INTO t (id, j, `{name}`, v) VALUES (1, '[1]', 0x00ff, 0x01), (2, '2', 'x', NULL)"
        )
    for _ in range(2):
        operate(engine, lambda op: op.widen_columns("t", ["j", name, "v"]))
    with engine.connect() as connection:
        shown = connection.exec_driver_sql("SHOW CREATE TABLE t").one()[1]
        rows = connection.exec_driver_sql(f"SELECT id, j, `{name}`, v FROM t").all()
    assert [tuple(row) for row in rows] == [(1, "[1]", r"\x00ff", r"\x01"), (2, "2", r"\x78", None)]
    assert "blob" not in shown
    assert "sealchemy" not in shown
    assert "concat" not in shown
    assert "longtext NOT NULL COMMENT 'it''s'" in shown
    assert "INVISIBLE" in shown
    assert "CHECK" not in shown.replace("it''s json_valid(`j`)", "")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "column", "statement", "label"),
    [
        ("mariadb", "data VARBINARY(99)", "CREATE UNIQUE INDEX i ON t (data)", "unique:i"),
        ("mariadb", "data VARBINARY(99)", "CREATE INDEX i ON t (data)", "index:i"),
        ("mariadb", "data BLOB CHECK (length(data) > 0)", "SELECT 1", "check:data"),
        ("mariadb", "data JSON", "ALTER TABLE t ADD CONSTRAINT c CHECK (json_length(data) > 0)", "check:c"),
        ("postgresql", "data jsonb", "CREATE INDEX i ON t USING gin (data)", "index:i"),
        ("postgresql", "data jsonb", "ALTER TABLE t ADD CONSTRAINT c CHECK (jsonb_typeof(data) = 'object')", "check:c"),
        ("postgresql", "data bytea", "CREATE UNIQUE INDEX i ON t (data)", "unique:i"),
        ("postgresql", "data bytea", "CREATE VIEW v AS SELECT data FROM t", "view:v"),
    ],
)
def test_conversion_that_would_lose_something_is_refused(
    kind: str,
    column: str,
    statement: str,
    label: str,
    request: pytest.FixtureRequest,
    make_engine: Callable[..., Engine],
) -> None:
    url = request.getfixturevalue(f"{kind}_url")
    engine = make_engine(url, KeyRing(primary=OLD), rollout=Rollout.MIGRATE)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE TABLE t (id INTEGER PRIMARY KEY, {column})")
        connection.exec_driver_sql(statement)
    columns = {"data": "t.data"}
    for change in (
        lambda op: op.widen_columns("t", ["data"]),
        lambda op: op.encrypt_columns("t", columns, kinds={"data": "json" if "JSON" in column.upper() else "bytes"}),
    ):
        with pytest.raises(UnsupportedOperationError, match=label):
            operate(engine, change)


def test_conversion_of_bytes_that_was_killed_half_way_is_finished(
    mariadb_url: str, make_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine(mariadb_url, KeyRing(primary=OLD), rollout=Rollout.MIGRATE)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE t (id INTEGER PRIMARY KEY, data BLOB NULL)")
        connection.exec_driver_sql("INSERT INTO t VALUES (1, 0x00ff), (2, NULL)")
    once, calls = constraint._widen_once, []

    def kill(access: Any) -> Any:
        calls.append(access)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return once(access)

    monkeypatch.setattr(constraint, "_widen_once", kill)
    with pytest.raises(KeyboardInterrupt):
        operate(engine, lambda op: op.widen_columns("t", ["data"]))
    monkeypatch.undo()
    with engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO t (id) VALUES (3)")
        assert "sealchemy_" in connection.exec_driver_sql("SHOW CREATE TABLE t").one()[1]
    operate(engine, lambda op: op.encrypt_columns("t", {"data": "t.data"}, kinds={"data": "bytes"}))
    with engine.begin() as connection:
        assert "sealchemy" not in connection.exec_driver_sql("SHOW CREATE TABLE t").one()[1]
        connection.exec_driver_sql("INSERT INTO t (id) VALUES (4)")
        read = EncryptedBytes("t.data").result_processor(engine.dialect, None)
        found = [read(item) for item in connection.scalars(text("SELECT data FROM t ORDER BY id"))]
    assert found == [b"\0\xff", None, None, None]


def test_bytes_that_are_too_long_to_become_text_are_refused(
    mariadb_url: str, make_engine: Callable[..., Engine]
) -> None:
    engine = make_engine(mariadb_url, KeyRing(primary=OLD), rollout=Rollout.MIGRATE)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE t (id INTEGER PRIMARY KEY, data LONGBLOB NULL)")
        connection.exec_driver_sql("INSERT INTO t VALUES (1, repeat('x', 9000000))")
    with pytest.raises(ColumnDefinitionError, match="has a value of 9000000 bytes"):
        operate(engine, lambda op: op.widen_columns("t", ["data"]))
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT length(data) FROM t")) == 9_000_000


@pytest.mark.parametrize("output", ["hex", "escape"])
def test_bytes_become_the_same_text_whatever_the_server_prints(
    postgresql_url: str, make_engine: Callable[..., Engine], output: str
) -> None:
    engine = make_engine(f"{postgresql_url}%20-cbytea_output%3D{output}", KeyRing(primary=OLD), rollout=Rollout.MIGRATE)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE t (id INTEGER PRIMARY KEY, data bytea NOT NULL DEFAULT '\\x01')")
        connection.exec_driver_sql("INSERT INTO t VALUES (1, '\\x00ff'), (2, DEFAULT)")
    operate(engine, lambda op: op.encrypt_columns("t", {"data": "t.data"}, kinds={"data": "bytes"}))
    read = EncryptedBytes("t.data").result_processor(engine.dialect, None)
    with engine.connect() as connection:
        found = [read(item) for item in connection.scalars(text("SELECT data FROM t ORDER BY id"))]
    assert found == [
        b"\0\xff",
        b"\x01",
    ]


@pytest.mark.slow
def test_autogenerate_converts_and_encrypts(engine: Engine, case: tuple[str, str], tmp_path: Path) -> None:
    attach_key_ring(engine, KeyRing(primary=OLD))
    application = alembic.Application(tmp_path, engine, Base.metadata, compare_type=True)
    written = "\n".join(application.complete())
    converts = case[1] != "text" and case[0] != "sqlite"
    assert written.count(", kinds={'profile': 'json', 'data': 'bytes'})") == 2
    assert written.count("op.widen_columns") == (2 if converts else int(case == ("postgresql", "text")))
    assert ("stop every release" in written) is converts
    assert ("USING CAST(profile AS" in written) is (converts and case[0] == "postgresql")
    assert read(engine) == EXPECTED
    assert all(item is None or item.startswith("sealchemy:v1:") for item in stored(engine))
    application.downgrade("base", "allow-plaintext=yes")
    if converts and case[0] == "postgresql":
        with Session(engine) as session:  # the release before reads its own values again
            plain = old_release(engine)
            rows = session.execute(select(plain.profile, plain.data).order_by(plain.id))
            assert [tuple(row) for row in rows] == EXPECTED
    else:
        attach_key_ring(engine, KeyRing(primary=OLD), rollout=Rollout.MIGRATE)
        assert read(engine) == EXPECTED


def mariadb(make_engine: Callable[..., Engine], url: str, *statements: str, mode: str | None = None) -> Engine:
    options = {"connect_args": {"init_command": f"SET sql_mode = '{mode}'"}} if mode is not None else {}
    engine = make_engine(url, KeyRing(primary=OLD), rollout=Rollout.MIGRATE, **options)
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
    return engine


def shown(engine: Engine) -> str:
    with engine.connect() as connection:
        return str(connection.exec_driver_sql("SHOW CREATE TABLE t").one()[1])


def test_a_column_of_the_user_is_never_dropped(mariadb_url: str, make_engine: Callable[..., Engine]) -> None:
    names = ["data_sealchemy_old", mysql_conversion._replaced_name("data")]
    columns = ", ".join(f"{name} TEXT" for name in names)
    table = f"CREATE TABLE t (id INTEGER PRIMARY KEY, data TEXT, {columns})"
    engine = mariadb(make_engine, mariadb_url, table, "INSERT INTO t VALUES (1, 'a', 'PRECIOUS', 'PRECIOUS')")
    operate(engine, lambda op: op.encrypt_columns("t", {"data": "t.data"}))
    operate(engine, lambda op: op.widen_columns("t", ["data"]))
    with engine.connect() as connection:
        assert connection.execute(text(f"SELECT {', '.join(names)} FROM t")).one() == ("PRECIOUS", "PRECIOUS")


class Half(DeclarativeBase):
    metadata = MetaData()


class HalfConverted(Half):
    __tablename__ = "t"
    id: Mapped[int] = mapped_column(primary_key=True)
    data: Mapped[bytes | None] = mapped_column(EncryptedBytes("t.data"))


def test_a_conversion_that_was_not_finished_is_seen_everywhere(
    mariadb_url: str, make_engine: Callable[..., Engine]
) -> None:
    table = "CREATE TABLE t (id INTEGER PRIMARY KEY, data BLOB)"
    engine = mariadb(make_engine, mariadb_url, table, "INSERT INTO t VALUES (1, 'SENTINEL')")
    columns, kinds = {"data": "t.data"}, {"data": "bytes"}
    with open_table(engine, TableColumns("t", columns, kinds=kinds), any_key=True) as access:
        assert constraint._widen_once(access) == ["data"]
    with pytest.raises(ColumnDefinitionError, match="still has the bytes"):
        rewrite(ENCRYPT, engine, "t", columns, kinds=kinds)
    with engine.begin() as connection:  # as the application encrypts it
        encrypt = EncryptedBytes("t.data").bind_processor(engine.dialect)
        connection.execute(text("UPDATE t SET data = :data"), {"data": encrypt(b"SENTINEL")})
    (found,) = plan(engine, Half.metadata)
    assert "type:data" in {item.label for item in found.findings}
    with pytest.raises(UnsupportedOperationError, match="still has the bytes"):
        check_encryption(engine, Half.metadata)
    attach_key_ring(engine, KeyRing(primary=OLD))
    with pytest.raises(ColumnDefinitionError, match="still has the bytes"):
        operate(engine, lambda op: op.require_encryption("t", columns))
    operate(engine, lambda op: op.encrypt_columns("t", columns, kinds=kinds))  # although every value is encrypted
    assert "sealchemy" not in shown(engine)
    assert "concat" not in shown(engine)
    check_encryption(engine, Half.metadata)


MODES = ["STRICT_TRANS_TABLES", "STRICT_TRANS_TABLES,ANSI_QUOTES", "STRICT_TRANS_TABLES,NO_BACKSLASH_ESCAPES", ""]


@pytest.mark.parametrize("mode", MODES)
def test_definitions_survive_in_every_mode(mariadb_url: str, make_engine: Callable[..., Engine], mode: str) -> None:
    backslash = "\\" if "NO_BACKSLASH" in mode else "\\\\"
    comment = f"50%% {backslash}x :y `q` \"d\" it''s"
    columns = (
        f"j JSON NOT NULL COMMENT '{comment}', b BLOB NOT NULL COMMENT '{comment}',"
        f" v VARCHAR(30) NOT NULL DEFAULT 'C:{backslash}d' COMMENT '{comment}', l JSON COMMENT 'a\u2028b'"
    )
    table = f"CREATE TABLE t (id INTEGER PRIMARY KEY, {columns})"
    row = "INSERT INTO t (id, j, b) VALUES (1, '[1]', 0x00ff)"
    engine = mariadb(make_engine, mariadb_url, table, row, mode=mode)
    catalog = "FROM information_schema.columns WHERE table_name = 't' AND table_schema = database()"

    def described() -> Any:
        query = f"SELECT column_name, column_comment, column_default {catalog} AND column_name <> 'id' ORDER BY 1"
        with engine.connect() as connection:
            return [tuple(row) for row in connection.execute(text(query))]

    before = described()
    assert "%" in before[0][1]
    operate(engine, lambda op: op.widen_columns("t", ["j", "b", "v", "l"]))
    assert described() == before
    with engine.connect() as connection:
        assert connection.execute(text("SELECT j, b, l FROM t")).one() == ("[1]", r"\x00ff", None)
        types = connection.scalars(text(f"SELECT data_type {catalog} AND column_name <> 'id' ORDER BY column_name"))
        assert list(types) == ["longtext", "longtext", "longtext", "mediumtext"]  # JSON of more than 16 MB is not cut
    assert "json_valid" not in shown(engine)


def test_the_default_of_bytes_is_not_lost(mariadb_url: str, make_engine: Callable[..., Engine]) -> None:
    table = "CREATE TABLE t (id INTEGER PRIMARY KEY, data VARBINARY(20) NOT NULL DEFAULT 'x')"
    engine = mariadb(make_engine, mariadb_url, table)
    with pytest.raises(ColumnDefinitionError, match="drop its default first"):
        operate(engine, lambda op: op.widen_columns("t", ["data"]))
    assert "DEFAULT 'x'" in shown(engine)


def test_long_names_can_be_converted_together(mariadb_url: str, make_engine: Callable[..., Engine]) -> None:
    names = ["x" * 60 + "a", "x" * 60 + "b"]
    table = f"CREATE TABLE t (id INTEGER PRIMARY KEY, {', '.join(f'{name} BLOB' for name in names)})"
    engine = mariadb(make_engine, mariadb_url, table, "INSERT INTO t VALUES (1, 'a', 'b')")
    operate(engine, lambda op: op.widen_columns("t", names))
    with engine.connect() as connection:
        assert connection.execute(text("SELECT * FROM t")).one() == (1, r"\x61", r"\x62")


def test_an_alter_table_that_changes_nothing_ends(
    mariadb_url: str, make_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = mariadb(make_engine, mariadb_url, "CREATE TABLE t (id INTEGER PRIMARY KEY, v VARCHAR(20))")
    monkeypatch.setattr("sealchemy._databases.mysql.with_type", lambda definition, _type: definition)
    with pytest.raises(ColumnDefinitionError, match="did not change v"):
        operate(engine, lambda op: op.widen_columns("t", ["v"]))


@pytest.mark.parametrize("value", [1.0, -0.0, 1e15, 1e16, 2**63, 12, "text", True])
def test_one_number_does_not_keep_a_json_column_of_sqlite_from_being_decrypted(
    tmp_path: Path, make_engine: Callable[..., Engine], value: Any
) -> None:
    engine = make_engine(f"sqlite:///{tmp_path / 'test.db'}", KeyRing(primary=OLD), rollout=Rollout.MIGRATE)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE accounts (id INTEGER PRIMARY KEY, profile JSON, data BLOB)")
        connection.execute(insert(Account), [{"id": 1, "profile": value}, {"id": 2, "profile": {"a": 1}}])
    report = rewrite(DECRYPT, engine, "accounts", COLUMNS, kinds=KINDS)
    assert report.rewritten == 2
    assert [profile for profile, _ in read(engine)] == [value, {"a": 1}]


def test_stage_prepare_is_refused_for_bytes_in_a_binary_column_of_sqlite(
    tmp_path: Path, make_engine: Callable[..., Engine]
) -> None:
    engine = make_engine(f"sqlite:///{tmp_path / 'test.db'}", KeyRing(primary=OLD), rollout=Rollout.PREPARE)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE t (id INTEGER PRIMARY KEY, data BLOB)")
    with pytest.raises(UnsupportedOperationError, match="stores bytes as text"):
        check_encryption(engine, Half.metadata)
    attach_key_ring(engine, KeyRing(primary=OLD), rollout=Rollout.MIGRATE)
    check_encryption(engine, Half.metadata)


def test_bytes_in_a_strict_table_of_sqlite_are_refused(tmp_path: Path, make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(f"sqlite:///{tmp_path / 'test.db'}", KeyRing(primary=OLD), rollout=Rollout.MIGRATE)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE t (id INTEGER PRIMARY KEY, data BLOB) STRICT")
        connection.exec_driver_sql("INSERT INTO t VALUES (1, x'00')")
    (found,) = plan(engine, Half.metadata)
    assert "strict:data" in {item.label for item in found.findings}
    with pytest.raises(UnsupportedOperationError, match="strict:data"):
        operate(engine, lambda op: op.encrypt_columns("t", {"data": "t.data"}, kinds={"data": "bytes"}))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["per %ird ' q", "a :b", "x::y", 'q"uote'])
def test_generated_downgrade_names_any_column(
    postgresql_url: str, make_engine: Callable[..., Engine], tmp_path: Path, name: str
) -> None:
    engine, metadata = make_engine(postgresql_url, KeyRing(primary=OLD)), MetaData()
    plain = Table("t", MetaData(), Column("id", Integer, primary_key=True), Column(name, postgresql.JSONB))
    plain.create(engine)
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO t VALUES (1, '[1]')"))
    Table("t", metadata, Column("id", Integer, primary_key=True), Column(name, EncryptedJSON("t.x")))
    application = alembic.Application(tmp_path, engine, metadata, compare_type=True)
    application.complete()
    application.downgrade("base", "allow-plaintext=yes")
    with engine.connect() as connection:
        assert connection.execute(text("SELECT * FROM t")).one() == (1, [1])


@pytest.mark.parametrize(("columns", "kinds"), [(["data"], {}), ({"data": "t.data"}, "bytes")])
def test_what_is_not_a_mapping_is_refused(
    tmp_path: Path, make_engine: Callable[..., Engine], columns: Any, kinds: Any
) -> None:
    engine = make_engine(f"sqlite:///{tmp_path / 'test.db'}", KeyRing(primary=OLD), rollout=Rollout.MIGRATE)
    with pytest.raises(ColumnDefinitionError, match="take a mapping by column name"):
        operate(engine, lambda op: op.encrypt_columns("t", columns, kinds=kinds))


def test_bytes_that_became_null_are_not_dropped(mariadb_url: str, make_engine: Callable[..., Engine]) -> None:
    table = "CREATE TABLE t (id INTEGER PRIMARY KEY, data BLOB)"
    engine = mariadb(make_engine, mariadb_url, table, "INSERT INTO t VALUES (1, 'PRECIOUS')")
    with open_table(engine, TableColumns("t", {"data": "t.data"}, kinds=None), any_key=True) as access:
        constraint._widen_once(access)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE t SET data = NULL")
    with pytest.raises(ColumnDefinitionError, match="1 rows have nothing in data"):
        operate(engine, lambda op: op.widen_columns("t", ["data"]))
    assert "sealchemy_" in shown(engine)


@pytest.mark.parametrize("charset", ["ucs2", "utf16", "latin1"])
def test_bytes_become_text_in_a_table_of_any_character_set(
    mariadb_url: str, make_engine: Callable[..., Engine], charset: str
) -> None:
    table = f"CREATE TABLE t (id INTEGER PRIMARY KEY, data BLOB) CHARACTER SET {charset}"
    engine = mariadb(make_engine, mariadb_url, table, "INSERT INTO t VALUES (1, 'abc')")
    operate(engine, lambda op: op.encrypt_columns("t", {"data": "t.data"}, kinds={"data": "bytes"}))
    read_ = EncryptedBytes("t.data").result_processor(engine.dialect, None)
    with engine.connect() as connection:
        assert read_(connection.scalar(text("SELECT data FROM t"))) == b"abc"
