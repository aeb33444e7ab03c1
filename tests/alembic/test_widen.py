"""Columns are widened before any process writes ciphertext, and nothing else about them changes."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import Column, Integer, MetaData, Table, create_engine, inspect, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool, StaticPool

from sealchemy import (
    ColumnDefinitionError,
    EncryptedString,
    Key,
    KeyRing,
    RewriteError,
    Rollout,
    UnsupportedOperationError,
    attach_key_ring,
)
from sealchemy._rewriting.constraint import constraint_name
from sealchemy.plan import plan
from sealchemy.status import check_encryption
from tests.support import postgresql
from tests.support.leaks import SENTINEL, assert_silent

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sqlalchemy import Engine

RING = KeyRing(primary=Key.generate())
COLUMNS = {"token": "accounts.token"}
metadata = MetaData()
Table("accounts", metadata, Column("id", Integer, primary_key=True), Column("token", EncryptedString("accounts.token")))


def run(engine: Engine, *statements: str) -> None:
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def operate(engine: Engine, name: str, *arguments: Any, **options: Any) -> None:
    with engine.connect() as connection:
        context = MigrationContext.configure(connection)
        with context.begin_transaction():
            getattr(Operations(context), name)("accounts", *arguments, **options)


def create(engine: Engine, type_: str, extra: str = "") -> None:
    run(
        engine,
        f"CREATE TABLE accounts (id INTEGER PRIMARY KEY, token {type_} {extra})",
        f"INSERT INTO accounts (id, token) VALUES (1, '{'t' * 180}')",
    )


@pytest.mark.parametrize(
    ("kind", "type_"), [("postgresql", "VARCHAR(255)"), ("mariadb", "VARCHAR(255)"), ("mariadb", "TEXT")]
)
def test_narrow_column_is_found_everywhere_until_it_is_widened(
    kind: str, type_: str, request: pytest.FixtureRequest, make_engine: Callable[..., Engine]
) -> None:
    engine = make_engine(request.getfixturevalue(f"{kind}_url"), RING, rollout=Rollout.MIGRATE)
    create(engine, type_)
    is_roomy = type_ == "TEXT"
    for stage in Rollout:
        attach_key_ring(engine, RING, rollout=stage)
        if stage is Rollout.MIGRATE and not is_roomy:
            with pytest.raises(UnsupportedOperationError, match=r"token is varchar\(255\), too narrow|VARCHAR\(255\)"):
                check_encryption(engine, metadata)
        elif stage is Rollout.PREPARE:
            check_encryption(engine, metadata)
    widths = [item for table in plan(engine, metadata) for item in table.findings if item.code == "width"]
    assert bool(widths) is not is_roomy
    assert all("longest value now needs 322" in item.message for item in widths)
    operate(engine, "widen_columns", ["token"])
    attach_key_ring(engine, RING, rollout=Rollout.MIGRATE)
    check_encryption(engine, metadata)
    assert not [item for table in plan(engine, metadata) for item in table.findings if item.code == "width"]
    operate(engine, "widen_columns", COLUMNS)
    operate(engine, "encrypt_columns", COLUMNS)
    attach_key_ring(engine, RING)
    check_encryption(engine, metadata)


def test_a_very_long_value_makes_a_long_column_narrow(mariadb_url: str, make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(mariadb_url, RING, rollout=Rollout.MIGRATE)
    create(engine, "TEXT")
    run(engine, "UPDATE accounts SET token = repeat('t', 60000)")
    (table,) = plan(engine, metadata)
    assert "width:token" in [item.label for item in table.obstacles()]


def test_attributes_of_the_column_survive_on_mariadb(mariadb_url: str, make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(mariadb_url, RING, rollout=Rollout.MIGRATE)
    comment = "it''s 100%% a \\\\ \"secret\""
    create(engine, "VARCHAR(255) COLLATE utf8mb4_bin NOT NULL DEFAULT 'it''s'", f"INVISIBLE COMMENT '{comment}'")

    def attributes() -> Any:
        query = "SELECT collation_name, is_nullable, column_comment, extra, ordinal_position FROM"
        with engine.connect() as connection:
            where = "WHERE table_schema = database() AND column_name = 'token'"
            return connection.execute(text(f"{query} information_schema.columns {where}")).one()

    before = attributes()
    operate(engine, "widen_columns", ["token"])
    assert attributes() == before
    assert before.column_comment == 'it\'s 100% a \\ "secret"'
    (item,) = [item for item in inspect(engine).get_columns("accounts") if item["name"] == "token"]
    assert str(item["type"]).startswith("MEDIUMTEXT")


def test_checks_and_defaults_of_the_column_survive_on_mariadb(
    mariadb_url: str, make_engine: Callable[..., Engine]
) -> None:
    engine = make_engine(mariadb_url, RING, rollout=Rollout.MIGRATE)
    run(
        engine,
        "CREATE TABLE accounts (id INTEGER PRIMARY KEY, token VARCHAR(100) NOT NULL DEFAULT '100%% sure'"
        " WITHOUT SYSTEM VERSIONING CHECK (token <> '')) WITH SYSTEM VERSIONING",
    )
    operate(engine, "widen_columns", ["token"])
    run(engine, "INSERT INTO accounts (id) VALUES (1)")
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT token FROM accounts")) == "100% sure"
        assert "WITHOUT SYSTEM VERSIONING" in connection.execute(text("SHOW CREATE TABLE accounts")).one()[1]
    with pytest.raises(DBAPIError):
        run(engine, "INSERT INTO accounts (id, token) VALUES (2, '')")


def test_server_that_refuses_to_widen_shows_no_default(mariadb_url: str, make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(mariadb_url, RING, rollout=Rollout.MIGRATE)
    run(
        engine,
        "CREATE TABLE accounts"
        f" (id INTEGER PRIMARY KEY, token VARCHAR(100) NOT NULL DEFAULT '{SENTINEL}', KEY (id, token))",
    )
    with pytest.raises(ColumnDefinitionError, match="the server refuses to widen token") as caught:
        operate(engine, "widen_columns", ["token"])
    assert_silent(caught.value)


def test_settings_of_the_connection_are_restored(
    url: str, make_engine: Callable[..., Engine], caplog: pytest.LogCaptureFixture
) -> None:
    engine = make_engine(url, RING, poolclass=StaticPool)
    setting = {
        "postgresql": "SHOW lock_timeout",
        "mysql": "SELECT @@lock_wait_timeout",
        "sqlite": "PRAGMA busy_timeout",
    }

    def current() -> Any:
        with engine.connect() as connection:
            return connection.exec_driver_sql(setting[engine.dialect.name]).scalar()

    create(engine, "VARCHAR(255)")
    before = current()
    attach_key_ring(engine, RING, rollout=Rollout.MIGRATE)
    operate(engine, "encrypt_columns", COLUMNS)
    attach_key_ring(engine, RING)
    operate(engine, "require_encryption", COLUMNS)
    assert current() == before


def test_attributes_of_the_column_survive_on_postgresql(
    postgresql_url: str, make_engine: Callable[..., Engine]
) -> None:
    engine = make_engine(postgresql_url, RING, rollout=Rollout.MIGRATE)
    create(engine, 'VARCHAR(255) COLLATE "POSIX" NOT NULL')
    run(engine, "COMMENT ON COLUMN accounts.token IS 'it''s secret'")
    operate(engine, "widen_columns", ["token"])
    with engine.connect() as connection:  # not every SQLAlchemy reflects collations
        query = "SELECT data_type, collation_name FROM information_schema.columns WHERE column_name = 'token'"
        where = " AND table_name = 'accounts' AND table_schema = current_schema()"
        assert tuple(connection.execute(text(query + where)).one()) == ("text", "POSIX")
    (item,) = [item for item in inspect(engine).get_columns("accounts") if item["name"] == "token"]
    assert item["nullable"] is False
    assert item["comment"] == "it's secret"


def test_a_copy_of_the_table_and_stale_plans_are_announced(
    postgresql_url: str, make_engine: Callable[..., Engine], caplog: pytest.LogCaptureFixture
) -> None:
    engine = make_engine(postgresql_url, RING, rollout=Rollout.MIGRATE)
    create(engine, "CHAR(200)")
    operate(engine, "widen_columns", ["token"])
    assert "accounts.token is CHAR(200): to change that, the server copies the table" in caplog.text
    assert "cached plan must not change result type" in caplog.text
    caplog.clear()
    operate(engine, "widen_columns", ["token"])
    assert not caplog.records


@pytest.mark.parametrize("name", ["VIEW", "MATERIALIZED VIEW"])
def test_a_view_in_the_way_is_named(postgresql_url: str, make_engine: Callable[..., Engine], name: str) -> None:
    engine = make_engine(postgresql_url, RING, rollout=Rollout.MIGRATE)
    create(engine, "VARCHAR(255)")
    run(engine, f"CREATE {name} report AS SELECT token FROM accounts")
    with pytest.raises(UnsupportedOperationError, match="view:report: the type of token must become TEXT"):
        operate(engine, "widen_columns", ["token"])
    run(engine, f"DROP {name} report")
    operate(engine, "widen_columns", ["token"])


def test_non_strict_sql_mode_is_refused(mariadb_url: str, make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(mariadb_url, RING, connect_args={"init_command": "SET sql_mode = ''"})
    run(engine, "CREATE TABLE accounts (id INTEGER PRIMARY KEY, token MEDIUMTEXT)")
    with pytest.raises(UnsupportedOperationError, match="sql_mode is not strict"):
        check_encryption(engine, metadata)
    attach_key_ring(engine, RING, rollout=Rollout.PREPARE)
    check_encryption(engine, metadata)


@pytest.fixture(params=["postgresql", "mariadb", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'x.db'}"
    found: str = request.getfixturevalue(f"{request.param}_url")
    return found


class Reader(threading.Thread):
    """A transaction that uses the table, in a thread, until it is released or some seconds have passed."""

    released: threading.Event


def held(url: str, seconds: float) -> Reader:
    ready, released = threading.Event(), threading.Event()

    def hold() -> None:
        engine = create_engine(url)
        with engine.connect() as connection:
            if engine.dialect.name == "sqlite":
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            connection.execute(text("SELECT count(*) FROM accounts WHERE token = 'the reader''s own secret'"))
            ready.set()
            released.wait(seconds)
            connection.rollback()
        engine.dispose()

    reader = Reader(target=hold, daemon=True)
    reader.released = released
    reader.start()
    assert ready.wait(30)
    return reader


@pytest.mark.slow
def test_change_waits_for_a_reader_and_names_it(
    url: str, make_engine: Callable[..., Engine], caplog: pytest.LogCaptureFixture
) -> None:
    engine = make_engine(url, RING)
    run(engine, "CREATE TABLE accounts (id INTEGER PRIMARY KEY, token VARCHAR(255))")
    reader = held(url, 2.2)
    operate(engine, "widen_columns", ["token"])
    operate(engine, "require_encryption", COLUMNS)
    reader.join()
    (warning,) = [record.getMessage() for record in caplog.records if "is locked by" in record.getMessage()]
    named = {"postgresql": "pid ", "mysql": "connection ", "sqlite": "another connection"}
    assert named[engine.dialect.name] in warning
    assert "SELECT" not in warning
    assert "secret" not in warning


@pytest.mark.slow
def test_change_that_cannot_wait_any_longer_says_what_to_do(url: str, make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(url, RING)
    run(engine, "CREATE TABLE accounts (id INTEGER PRIMARY KEY, token VARCHAR(255))")
    reader = held(url, 60)
    with pytest.raises(RewriteError, match=r"could not be changed in 0\.5 s: it is locked by .*; nothing was changed"):
        operate(engine, "require_encryption", COLUMNS, ddl_patience=0.5)
    reader.released.set()
    reader.join()
    operate(engine, "require_encryption", COLUMNS)


def test_session_that_validation_waits_for_is_named_first(
    postgresql_url: str, make_engine: Callable[..., Engine]
) -> None:
    engine = make_engine(postgresql_url, RING)
    run(engine, "CREATE TABLE accounts (id INTEGER PRIMARY KEY, token TEXT)")
    name = constraint_name("accounts", "token")
    operate(engine, "require_encryption", COLUMNS)
    with engine.connect() as connection:
        query = text("SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = :name")
        condition = connection.scalar(query, {"name": name})
    run(engine, f"ALTER TABLE accounts DROP CONSTRAINT {name}, ADD CONSTRAINT {name} {condition} NOT VALID")
    reader = held(postgresql_url, 60)
    with engine.connect() as connection:
        connection.exec_driver_sql("LOCK TABLE accounts IN SHARE UPDATE EXCLUSIVE MODE")
        with pytest.raises(RewriteError, match=r"it is locked by pid \d+, [^;]*, ShareUpdateExclusiveLock"):
            operate(engine, "require_encryption", COLUMNS, ddl_patience=0)
    operate(engine, "require_encryption", COLUMNS)
    assert reader.is_alive(), "it does not wait for readers"
    reader.released.set()
    reader.join()


def test_prepared_transaction_in_the_way_is_named(make_engine: Callable[..., Engine]) -> None:
    server = postgresql.start_any(max_prepared_transactions="1")  # 0 is the default
    if server is None:
        pytest.fail(postgresql.WHAT_TO_INSTALL)
    try:
        engine = make_engine(server.url, RING, poolclass=NullPool)
        create(engine, "VARCHAR(255)")
        with engine.connect() as connection:
            connection.execute(text("UPDATE accounts SET id = 2"))
            connection.exec_driver_sql("PREPARE TRANSACTION 'forgotten'")
        with pytest.raises(RewriteError, match="prepared transaction 'forgotten'"):
            operate(engine, "widen_columns", ["token"], ddl_patience=0)
    finally:
        server.stop()


def reads_in_each_second(url: str, stop: threading.Event) -> list[int]:
    """Read one row over and over until the event is set, and return how often in each second."""
    engine, counts = create_engine(url), []
    with engine.connect() as connection:
        while not stop.is_set():
            count, end = 0, time.monotonic() + 1
            while time.monotonic() < end:
                connection.execute(text("SELECT token FROM accounts WHERE id = 1"))
                connection.rollback()
                count += 1
            counts.append(count)
    engine.dispose()
    return counts


@pytest.mark.soak
def test_others_keep_reading_while_a_change_waits(postgresql_url: str, make_engine: Callable[..., Engine]) -> None:
    seconds = 20
    engine = make_engine(postgresql_url, RING)
    create(engine, "VARCHAR(255)")
    stop = threading.Event()
    with ThreadPoolExecutor() as pool:
        reads = pool.submit(reads_in_each_second, postgresql_url, stop)
        time.sleep(3)
        reader = held(postgresql_url, seconds)
        operate(engine, "widen_columns", ["token"])
        stop.set()
        before, during = reads.result()[:2], reads.result()[2:]
    reader.join()
    assert len(during) >= seconds - 1
    slow = [count < min(before) / 2 for count in during]
    assert not any(first and second for first, second in pairwise(slow)), (before, during)
