"""What is read back before a commit is what will be committed, and every statement is in a transaction."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError

from sealchemy import ColumnDefinitionError, Key, KeyRing, RewriteError, Rollout, UnsupportedOperationError
from sealchemy._databases.sqlite import SQLite
from sealchemy.rewrite import ENCRYPT, REKEY, VERIFY, Options, rewrite
from tests.support.leaks import assert_silent
from tests.support.tables import COLUMNS, grants, raw

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sqlalchemy import Engine

RING = KeyRing(primary=Key.generate())
FUNCTION = (
    "CREATE FUNCTION spoil() RETURNS trigger LANGUAGE plpgsql AS"
    " 'BEGIN IF length(NEW.access) > 60 THEN UPDATE grants SET access = left(NEW.access, 60) WHERE id = NEW.id; END IF;"
    " RETURN NULL; END'"
)


@pytest.mark.parametrize(
    "trigger",
    [
        "CREATE TRIGGER t AFTER UPDATE ON grants FOR EACH ROW EXECUTE FUNCTION spoil()",
        (
            "CREATE CONSTRAINT TRIGGER t AFTER UPDATE ON grants DEFERRABLE INITIALLY DEFERRED"
            " FOR EACH ROW EXECUTE FUNCTION spoil()"
        ),
    ],
    ids=["after", "deferred"],
)
def test_a_trigger_that_changes_values_later_destroys_nothing(
    postgresql_url: str, make_engine: Callable[..., Engine], trigger: str
) -> None:
    engine = make_engine(postgresql_url, RING)
    before = grants(engine, 25)
    with engine.begin() as connection:
        connection.exec_driver_sql(FUNCTION)
        connection.exec_driver_sql(trigger)
    with pytest.raises(RewriteError, match="does not keep the new value") as caught:
        rewrite(ENCRYPT, engine, "grants", COLUMNS)
    assert_silent(caught.value, "access-SENTINEL")
    assert raw(engine) == before


def test_a_trigger_that_moves_the_row_destroys_nothing(postgresql_url: str, make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(postgresql_url, RING)
    before = grants(engine, 5)
    with engine.begin() as connection:
        connection.exec_driver_sql(
            FUNCTION.replace("length(NEW.access) > 60", "NEW.id < 100").replace(
                "access = left(NEW.access, 60)", "id = NEW.id + 100"
            )
        )
        connection.exec_driver_sql("CREATE TRIGGER t AFTER UPDATE ON grants FOR EACH ROW EXECUTE FUNCTION spoil()")
    with pytest.raises(RewriteError):
        rewrite(ENCRYPT, engine, "grants", COLUMNS)
    assert raw(engine) == before


@pytest.mark.parametrize("kind", ["sqlite", "postgresql", "mariadb"])
def test_connection_in_autocommit_is_refused(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest, make_engine: Callable[..., Engine]
) -> None:
    url = f"sqlite:///{tmp_path / 'x.db'}" if kind == "sqlite" else request.getfixturevalue(f"{kind}_url")
    engine = make_engine(url, RING)
    before = grants(engine, 5)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        with pytest.raises(UnsupportedOperationError, match="AUTOCOMMIT"):
            rewrite(ENCRYPT, connection, "grants", COLUMNS)
        assert raw(engine) == before
    with engine.connect() as connection:
        assert rewrite(ENCRYPT, connection, "grants", COLUMNS).rewritten == 5
        connection.rollback()
    assert raw(engine) == before


def test_sqlite_driver_without_transactions_is_refused(tmp_path: Path, make_engine: Callable[..., Engine]) -> None:
    from sqlalchemy import event

    engine = make_engine(f"sqlite:///{tmp_path / 'x.db'}", RING)
    before = grants(engine, 5)

    @event.listens_for(engine, "begin")
    def forget_transactions(connection: Any) -> None:
        connection.connection.driver_connection.isolation_level = None

    with pytest.raises(UnsupportedOperationError, match="AUTOCOMMIT"):
        rewrite(ENCRYPT, engine, "grants", COLUMNS)
    assert raw(engine) == before


@pytest.mark.parametrize("storage", ["MyISAM", "Aria", "MEMORY"])
def test_storage_without_transactions_is_refused(
    mariadb_url: str, make_engine: Callable[..., Engine], storage: str
) -> None:
    engine = make_engine(mariadb_url, RING)
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TABLE grants (id INT PRIMARY KEY, access VARCHAR(500), refresh VARCHAR(500)) ENGINE=" + storage
        )
        connection.exec_driver_sql("INSERT INTO grants VALUES (1, 'access-SENTINEL', NULL)")
    before = raw(engine)
    with pytest.raises(UnsupportedOperationError, match=f"storage engine, {storage}, has no transactions"):
        rewrite(ENCRYPT, engine, "grants", COLUMNS)
    assert raw(engine) == before


REFUSED_KEYS = [
    ("mariadb", "ENUM('b', 'a')"),
    ("mariadb", "SET('a', 'b')"),
    ("mariadb", "TIMESTAMP"),
    ("mariadb", "TIME"),
    ("mariadb", "FLOAT"),
    ("mariadb", "DOUBLE"),
    ("mariadb", "BIT(8)"),
    ("postgresql", "interval"),
    ("postgresql", "money"),
    ("postgresql", "bit(8)"),
    ("postgresql", "int4range"),
]


@pytest.mark.parametrize(("kind", "type_"), REFUSED_KEYS)
def test_keys_that_do_not_name_their_row_are_refused(
    kind: str, type_: str, request: pytest.FixtureRequest, make_engine: Callable[..., Engine]
) -> None:
    engine = make_engine(request.getfixturevalue(f"{kind}_url"), RING)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE TABLE odd (id {type_} PRIMARY KEY, access TEXT)")
    with pytest.raises(ColumnDefinitionError, match="primary key id is of type"):
        rewrite(ENCRYPT, engine, "odd", {"access": "odd.access"})


@pytest.mark.parametrize(
    ("type_", "value"),
    [("timestamp", "infinity"), ("date", "0044-03-15 BC"), ("time", "24:00"), ("numeric", "NaN"), ("float8", "NaN")],
)
def test_key_values_that_python_cannot_hold_are_refused(
    postgresql_url: str, make_engine: Callable[..., Engine], type_: str, value: str
) -> None:
    engine = make_engine(postgresql_url, RING)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE TABLE odd (id {type_} PRIMARY KEY, access TEXT)")
        connection.exec_driver_sql(f"INSERT INTO odd VALUES ('{value}', 'x')")
    with pytest.raises(ColumnDefinitionError, match="primary key id has a value that Python cannot hold"):
        rewrite(ENCRYPT, engine, "odd", {"access": "odd.access"})


@pytest.mark.parametrize("type_", ["timestamptz", "timestamp", "date"])
def test_keys_are_read_whatever_the_style_of_dates(
    postgresql_url: str, make_engine: Callable[..., Engine], type_: str
) -> None:
    engine = make_engine(postgresql_url, RING, rollout=Rollout.MIGRATE)
    event.listen(engine, "connect", lambda driver, _: driver.execute("SET DateStyle = German"))
    with engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE TABLE odd (id {type_} PRIMARY KEY, access TEXT)")
        connection.exec_driver_sql("INSERT INTO odd VALUES ('2024-03-02', 'x'), ('2024-12-31', 'y')")
    assert rewrite(ENCRYPT, engine, "odd", {"access": "odd.access"}).rewritten == 2
    with engine.connect() as connection:
        assert connection.scalar(text("SHOW DateStyle")) == "German, DMY"


KEPT_KEYS = [
    ("postgresql", "float8", "i / 3.0::float8"),
    ("postgresql", "real", "i / 3.0::real"),
    ("postgresql", "numeric", "i / 3.0"),
    ("postgresql", "timestamptz", "now() + i * interval '1 microsecond'"),
    ("postgresql", "date", "date '2024-01-01' + i"),
    ("postgresql", "inet", "inet '10.0.0.0' + i"),
    ("postgresql", "mood", "(ARRAY['z', 'y', 'x', 'w', 'v', 'u', 't', 's', 'r', 'q'])[i]::mood"),
    ("postgresql", "bytea", "decode(lpad(to_hex(i), 4, '0'), 'hex')"),
]


@pytest.mark.parametrize(("kind", "type_", "value"), KEPT_KEYS)
def test_other_keys_name_their_row(
    kind: str, type_: str, value: str, request: pytest.FixtureRequest, make_engine: Callable[..., Engine]
) -> None:
    engine = make_engine(request.getfixturevalue(f"{kind}_url"), RING)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TYPE mood AS ENUM ('z', 'a', 'y', 'x', 'w', 'v', 'u', 't', 's', 'r', 'q')")
        connection.exec_driver_sql(f"CREATE TABLE odd (id {type_} PRIMARY KEY, access TEXT)")
        connection.exec_driver_sql(f"INSERT INTO odd SELECT {value}, 'token ' || i FROM generate_series(1, 10) AS i")
        connection.exec_driver_sql("SET extra_float_digits = -10")
    columns = {"access": "odd.access"}
    assert rewrite(ENCRYPT, engine, "odd", columns, options=Options(batch_size=3)).rewritten == 10
    with engine.connect() as connection:
        stored = connection.scalars(text("SELECT access FROM odd")).all()
    assert sorted(RING.decrypt(item, "odd.access") for item in stored) == sorted(f"token {i}" for i in range(1, 11))


def test_rows_that_paging_does_not_reach_are_reported(
    mariadb_url: str, make_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    from sealchemy._databases.mysql import MySQL

    engine = make_engine(mariadb_url, RING)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE odd (id ENUM('z', 'a', 'y', 'b', 'x') PRIMARY KEY, access MEDIUMTEXT)")
        connection.exec_driver_sql("INSERT INTO odd VALUES ('z', '1'), ('a', '2'), ('y', '3'), ('b', '4'), ('x', '5')")
    monkeypatch.setattr(MySQL, "key_problem", lambda *_: None)  # as if the type had been overlooked
    for conversion in (ENCRYPT, VERIFY):
        with pytest.raises(RewriteError, match="rows were not reached"):
            rewrite(conversion, engine, "odd", {"access": "odd.access"}, options=Options(batch_size=2))


def test_what_a_driver_fails_to_fetch_is_not_shown(make_engine: Callable[..., Engine]) -> None:
    """On a connection of the caller, SQLite's driver quotes text that is not UTF-8."""
    engine = make_engine("sqlite://", RING)
    grants(engine, 3)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE grants SET access = CAST(x'53454e54494e454cff' AS TEXT) WHERE id = 2")
    with engine.connect() as connection, pytest.raises(DBAPIError) as caught:
        rewrite(ENCRYPT, connection, "grants", COLUMNS)
    assert_silent(caught.value, "x SENTINEL x", "access-SENTINEL")


def test_rows_with_one_key_show_no_value(make_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_engine("sqlite://", RING)
    before = grants(engine, 3)
    monkeypatch.setattr(sa.Integer, "result_processor", lambda *_: lambda _value: 9)  # as a driver that rounds
    monkeypatch.setattr(SQLite, "key_type", lambda _self, type_: type_)
    with pytest.raises(ColumnDefinitionError, match="two rows have the primary key") as caught:
        rewrite(ENCRYPT, engine, "grants", COLUMNS)
    assert_silent(caught.value, "access-SENTINEL")
    assert raw(engine) == before


def test_message_about_laggards_of_a_rekey_names_the_key(tmp_path: Path, make_engine: Callable[..., Engine]) -> None:
    new = KeyRing(primary=Key.generate(), previous=[RING.primary])
    engine = make_engine(f"sqlite:///{tmp_path / 'x.db'}", new, rollout=Rollout.STRICT)
    grants(engine, 5)
    rewrite(ENCRYPT, engine, "grants", COLUMNS)

    def old_process(_progress: Any) -> None:
        with engine.begin() as connection:
            value = RING.encrypt("late", "grants.access")
            connection.execute(text("UPDATE grants SET access = :value WHERE id = 1"), {"value": value})

    old_process(None)
    with pytest.raises(RewriteError, match=f"give every process {new.primary.id} as its primary key"):
        rewrite(REKEY, engine, "grants", COLUMNS, progress=old_process)


def test_file_that_stays_locked_is_explained(tmp_path: Path, make_engine: Callable[..., Engine]) -> None:
    url = f"sqlite:///{tmp_path / 'x.db'}"
    engine = make_engine(url, RING, connect_args={"timeout": 0.01})
    before = grants(engine, 5)
    other = sqlite3.connect(tmp_path / "x.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(RewriteError, match=r"others held its locks for too long; .* run it again"):
        rewrite(ENCRYPT, engine, "grants", COLUMNS)
    other.close()
    assert raw(engine) == before
    assert rewrite(ENCRYPT, engine, "grants", COLUMNS).rewritten == 5
