"""What a user reads when the database refuses: the table, what was tried, what to do, and never a value."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import URL, create_engine, event, make_url, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine

from sealchemy import ColumnDefinitionError, Key, KeyRing, RewriteError, Rollout, attach_key_ring
from sealchemy.rewrite import DECRYPT, ENCRYPT, Conversion, rewrite
from tests.support import constraint
from tests.support.leaks import SENTINEL, assert_silent

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sqlalchemy import Engine

RING = KeyRing(primary=Key.generate())
COLUMNS = {"token": "users.token"}
RAISE = {
    "postgresql": (
        (
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " RAISE EXCEPTION 'no: %', OLD.token USING HINT = OLD.token; END $$"
        ),
        "CREATE TRIGGER refuse BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION refuse()",
    ),
    "mariadb": (
        (
            "CREATE TRIGGER refuse BEFORE UPDATE ON users FOR EACH ROW"
            " SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = OLD.token"
        ),
    ),
    "sqlite": (f"CREATE TRIGGER refuse BEFORE UPDATE ON users BEGIN SELECT RAISE(ABORT, 'no: {SENTINEL}'); END",),
}


@pytest.fixture
def make(request: pytest.FixtureRequest, make_engine: Callable[..., Engine], tmp_path: Path) -> Callable[..., Engine]:
    def make(kind: str, *statements: str, value: str = SENTINEL) -> Engine:
        url = f"sqlite:///{tmp_path / 'x.db'}" if kind == "sqlite" else request.getfixturevalue(f"{kind}_url")
        engine = make_engine(url, RING, rollout=Rollout.MIGRATE)
        with engine.begin() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement.replace("%", "%%") if kind != "sqlite" else statement)
            insert = text("INSERT INTO users (id, token) VALUES (:id, :token)")
            connection.execute(insert, [{"id": 1, "token": f"{value}-1"}, {"id": 2, "token": f"{value}-2"}])
        return engine

    return make


def refused(engine: Engine, conversion: Conversion = ENCRYPT) -> str:
    """Return the sentence of a refusal, after looking for the value everywhere in the error."""
    with pytest.raises(RewriteError) as caught:
        rewrite(conversion, engine, "users", COLUMNS)
    assert_silent(caught.value, SENTINEL)
    assert caught.value.report is not None
    sentence = str(caught.value)
    assert sentence.startswith(f"{conversion.name} ")
    assert "users (token): the database refused a statement: " in sentence
    assert sentence.endswith(" rows were done before and stay done")
    return sentence


@pytest.mark.parametrize(("kind", "says"), [("postgresql", "22001"), ("mariadb", "1406")])
def test_a_column_that_is_too_narrow(make: Callable[..., Engine], kind: str, says: str) -> None:
    engine = make(kind, "CREATE TABLE users (id INTEGER PRIMARY KEY, token VARCHAR(60))")
    sentence = refused(engine)
    assert says in sentence
    assert "a column is too narrow: op.widen_columns" in sentence


def test_an_index_that_has_no_room(make: Callable[..., Engine]) -> None:
    long = "".join(chr(33 + number * 7 % 90) for number in range(2600))
    index = "CREATE INDEX by_token ON users (token)"
    engine = make("postgresql", "CREATE TABLE users (id INTEGER PRIMARY KEY, token TEXT)", index, value=SENTINEL + long)
    sentence = refused(engine)
    assert "54000" in sentence
    assert "by_token" in sentence
    assert "an index cannot hold ciphertext of this size" in sentence


@pytest.mark.parametrize("kind", RAISE)
def test_a_trigger_whose_text_is_a_value(make: Callable[..., Engine], kind: str) -> None:
    engine = make(kind, "CREATE TABLE users (id INTEGER PRIMARY KEY, token VARCHAR(700))", *RAISE[kind])
    sentence = refused(engine)
    assert "refuses the change: see `sealchemy plan`" in sentence
    assert "whose text is left out because it may show a value" in sentence


@pytest.mark.parametrize("state", ["42501", "57014", "23505", "40001", "XX000"])
def test_a_trigger_that_raises_with_a_code_of_the_server(make: Callable[..., Engine], state: str) -> None:
    function = RAISE["postgresql"][0].replace("USING", f"USING ERRCODE = '{state}',")
    engine = make("postgresql", "CREATE TABLE users (id INTEGER PRIMARY KEY, token TEXT)", function)
    with engine.begin() as connection:
        connection.exec_driver_sql(RAISE["postgresql"][1])
    with pytest.raises(RewriteError) as caught:
        rewrite(ENCRYPT, engine, "users", COLUMNS)
    assert_silent(caught.value, SENTINEL)
    query = text("UPDATE users SET token = 'other'")
    with engine.begin() as connection, pytest.raises(DBAPIError) as raised:
        connection.execute(query)
    assert_silent(raised.value, SENTINEL)


async def _update(url: URL) -> str:
    engine = attach_key_ring(create_async_engine(url), RING)
    async with engine.connect() as connection:
        with pytest.raises(DBAPIError) as raised:
            await connection.execute(text("UPDATE users SET token = 'other'"))
    await engine.dispose()
    assert_silent(raised.value, SENTINEL)
    return str(raised.value)


def test_asyncpg_shows_no_text_of_a_trigger_either(make: Callable[..., Engine], postgresql_url: str) -> None:
    function = RAISE["postgresql"][0].replace("USING", "USING ERRCODE = '42501',")
    engine = make("postgresql", "CREATE TABLE users (id INTEGER PRIMARY KEY, token TEXT)", function)
    url = make_url(postgresql_url)
    path = str(url.query["options"]).removeprefix("-csearch_path=")
    with engine.begin() as connection:
        connection.exec_driver_sql(RAISE["postgresql"][1])
        connection.exec_driver_sql(f'ALTER ROLE CURRENT_USER IN DATABASE "{url.database}" SET search_path TO {path}')
    try:
        shown = asyncio.run(_update(url.set(drivername="postgresql+asyncpg").difference_update_query(["options"])))
    finally:
        with engine.begin() as connection:
            connection.exec_driver_sql(f'ALTER ROLE CURRENT_USER IN DATABASE "{url.database}" RESET search_path')
    assert "whose text is left out" in shown


@pytest.mark.parametrize("kind", ["postgresql", "sqlite", "mariadb"])
def test_a_check_of_the_users(make: Callable[..., Engine], kind: str) -> None:
    check = "CONSTRAINT plain_only CHECK (token NOT LIKE 'seal%')"
    engine = make(kind, f"CREATE TABLE users (id INTEGER PRIMARY KEY, token VARCHAR(700), {check})")
    sentence = refused(engine)
    assert "see `sealchemy plan`" in sentence
    assert "plain_only" in sentence


@pytest.mark.parametrize("kind", ["postgresql", "sqlite", "mariadb"])
def test_a_unique_constraint_that_decrypting_violates(make: Callable[..., Engine], kind: str) -> None:
    engine = make(kind, "CREATE TABLE users (id INTEGER PRIMARY KEY, token VARCHAR(700))")
    same = [{"id": number, "token": RING.encrypt(SENTINEL, "users.token")} for number in (1, 2)]
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM users"))
        connection.execute(text("INSERT INTO users (id, token) VALUES (:id, :token)"), same)
        connection.execute(text("CREATE UNIQUE INDEX only_one ON users (token)"))
    sentence = refused(engine, DECRYPT)
    assert "see `sealchemy plan`" in sentence


def test_a_character_that_the_character_set_lacks(make: Callable[..., Engine]) -> None:
    engine = make("mariadb", "CREATE TABLE users (id INTEGER PRIMARY KEY, token VARCHAR(700) CHARACTER SET latin1)")
    with engine.begin() as connection:
        value = RING.encrypt(f"{SENTINEL} ключ", "users.token")
        connection.execute(text("UPDATE users SET token = :value"), {"value": value})
    sentence = refused(engine, DECRYPT)
    assert "1267" in sentence
    assert "convert the column to utf8mb4" in sentence


def test_a_missing_privilege(make: Callable[..., Engine], postgresql_url: str) -> None:
    engine = make("postgresql", "CREATE TABLE users (id INTEGER PRIMARY KEY, token TEXT)")
    with engine.begin() as connection:
        connection.execute(text("DROP ROLE IF EXISTS reader_of_users"))
        connection.execute(text("CREATE ROLE reader_of_users"))
        schema = connection.scalar(text("SELECT current_schema()"))
        connection.execute(text(f"GRANT USAGE ON SCHEMA {schema} TO reader_of_users"))
        connection.execute(text("GRANT SELECT ON users TO reader_of_users"))
    other = attach_key_ring(create_engine(postgresql_url), RING, rollout=Rollout.MIGRATE)

    @event.listens_for(other, "connect")
    def _become(driver: Any, _: object) -> None:
        driver.execute("SET SESSION AUTHORIZATION reader_of_users")
        driver.commit()

    try:
        assert "this role lacks a privilege" in refused(other)
    finally:
        other.dispose()
        with engine.begin() as connection:
            connection.execute(text("DROP OWNED BY reader_of_users"))
            connection.execute(text("DROP ROLE reader_of_users"))


def test_a_file_that_is_locked(make: Callable[..., Engine], tmp_path: Path) -> None:
    engine = make("sqlite", "CREATE TABLE users (id INTEGER PRIMARY KEY, token TEXT)")
    holder = create_engine(f"sqlite:///{tmp_path / 'x.db'}")
    impatient = attach_key_ring(
        create_engine(f"sqlite:///{tmp_path / 'x.db'}", connect_args={"timeout": 0.01}), RING, rollout=Rollout.MIGRATE
    )
    with holder.connect() as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        with pytest.raises(RewriteError, match="others held its locks for too long") as caught:
            rewrite(ENCRYPT, impatient, "users", COLUMNS)
        assert_silent(caught.value, SENTINEL)
        with impatient.connect() as own, pytest.raises(RewriteError, match="raise the `timeout`"):
            rewrite(ENCRYPT, own, "users", COLUMNS)
    holder.dispose()
    impatient.dispose()
    assert rewrite(ENCRYPT, engine, "users", COLUMNS).rewritten == 2


def test_a_view_in_the_way_of_widening(make: Callable[..., Engine]) -> None:
    view = "CREATE VIEW report AS SELECT token FROM users"
    engine = make("postgresql", "CREATE TABLE users (id INTEGER PRIMARY KEY, token VARCHAR(60))", view)
    with pytest.raises(ColumnDefinitionError, match=r"refuses to widen token.*0A000.*such as a view") as caught:
        constraint.widen(engine, "users", COLUMNS)
    assert_silent(caught.value, SENTINEL)


def test_a_file_that_is_read_only(make: Callable[..., Engine], tmp_path: Path) -> None:
    make("sqlite", "CREATE TABLE users (id INTEGER PRIMARY KEY, token TEXT)")
    url = f"sqlite:///file:{tmp_path / 'x.db'}?mode=ro&uri=true"
    engine = attach_key_ring(create_engine(url), RING, rollout=Rollout.MIGRATE)
    try:
        assert "must be writable" in refused(engine)
    finally:
        engine.dispose()
