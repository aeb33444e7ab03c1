"""Errors of a database carry no values, whoever wrote their text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event, exc, insert, text

from sealchemy import Key, KeyRing, KeyRingNotAttachedError, PlaintextTypeError, attach_key_ring
from sealchemy.rewrite import DECRYPT, ENCRYPT, rewrite
from tests.support.leaks import SENTINEL, assert_silent
from tests.support.models import Account, create

TRIGGERS = {
    "sqlite": [
        "CREATE TRIGGER refuse BEFORE INSERT ON grants BEGIN SELECT RAISE(ABORT, '{}'); END",
    ],
    "postgresql": [
        """CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'not %', NEW.access; END $$""",
        "CREATE TRIGGER refuse BEFORE INSERT ON grants FOR EACH ROW EXECUTE FUNCTION refuse()",
    ],
    "mariadb": [
        "CREATE TRIGGER refuse BEFORE INSERT ON grants FOR EACH ROW SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = '{}'",
    ],
}


def texts_of(error: BaseException) -> str:
    """Return its texts and those of the driver's error; psycopg keeps more in `diag`, as SECURITY.md says."""
    return "".join(map(str, (error, error.args, error.__cause__, error.__cause__.args if error.__cause__ else ())))


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def any_engine(request: pytest.FixtureRequest, make_engine: Callable[..., Engine], tmp_path: Any) -> Engine:
    if request.param == "sqlite":
        return make_engine(f"sqlite:///{tmp_path / 'x.db'}")
    return make_engine(request.getfixturevalue(f"{request.param}_url"))


def test_the_text_of_a_trigger_is_left_out(any_engine: Engine) -> None:
    kind = {"sqlite": "sqlite", "postgresql": "postgresql"}.get(any_engine.dialect.name, "mariadb")
    with any_engine.begin() as connection:
        connection.execute(text("CREATE TABLE grants (id INTEGER NOT NULL PRIMARY KEY, access TEXT)"))
        for statement in TRIGGERS[kind]:
            connection.exec_driver_sql(statement.format(SENTINEL).replace("%", "%%" if kind == "postgresql" else "%"))
    with (
        pytest.raises(exc.DBAPIError, match="a trigger or a function raised an error") as caught,
        any_engine.begin() as connection,
    ):
        connection.execute(text("INSERT INTO grants VALUES (1, :token)"), {"token": SENTINEL})
    assert SENTINEL not in texts_of(caught.value)


MARIADB_ERRORS = {
    1062: "INSERT INTO grants VALUES (2, '{}', 1, 'x'), (3, '{}', 1, 'x')",
    1366: "INSERT INTO grants VALUES (2, 'x', '{}', 'x')",
    1292: "UPDATE grants SET number = CAST('{}' AS INTEGER) WHERE id = 1",
    1406: "INSERT INTO grants VALUES (2, 'x', 1, '{}')",
    1048: "INSERT INTO grants VALUES (NULL, '{}', 1, 'x')",
    1264: "UPDATE grants SET number = 99999999999 WHERE access <> '{}'",
    1526: "INSERT INTO parts VALUES ('{}')",
    1064: "INSERT INTO grants VALUES (2, '{}' 'a' b)",
    1054: "INSERT INTO grants (id, nothing) VALUES (2, '{}')",
}


@pytest.mark.parametrize(("number", "statement"), MARIADB_ERRORS.items(), ids=map(str, MARIADB_ERRORS))
def test_mariadb_shows_no_values(
    mariadb_url: str, make_engine: Callable[..., Engine], number: int, statement: str
) -> None:
    engine = make_engine(mariadb_url)
    with engine.begin() as connection:
        connection.execute(
            text(
                "CREATE TABLE grants (id INTEGER NOT NULL PRIMARY KEY, access VARCHAR(200) UNIQUE, number INTEGER,"
                " short VARCHAR(3))"
            )
        )
        connection.execute(text("INSERT INTO grants VALUES (1, 'a', 1, 'x')"))
        connection.exec_driver_sql(
            "CREATE TABLE parts (access VARCHAR(200)) PARTITION BY LIST COLUMNS (access) (PARTITION a VALUES IN ('a'))"
        )
    with pytest.raises(exc.DBAPIError, match=str(number)) as caught, engine.begin() as connection:
        connection.exec_driver_sql(statement.replace("'{}'", "%s"), (SENTINEL,) * statement.count("{}"))
    assert SENTINEL not in texts_of(caught.value)
    if number in {1048, 1054, 1062, 1264, 1406}:
        assert "'" in str(caught.value.orig).replace("'***'", "")  # the name of the column or key


def test_mariadb_shows_no_values_during_a_rewrite(mariadb_url: str, make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(mariadb_url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE grants (id INTEGER NOT NULL PRIMARY KEY, access MEDIUMTEXT)"))
        connection.execute(text("INSERT INTO grants VALUES (1, :token)"), {"token": SENTINEL})
        connection.exec_driver_sql(
            "CREATE TRIGGER refuse BEFORE UPDATE ON grants FOR EACH ROW"
            " BEGIN DECLARE message TEXT; SET message = CONCAT('was ', OLD.access);"
            " SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = message; END"
        )
    with pytest.raises(exc.DBAPIError, match="a trigger or a function raised an error") as caught:
        rewrite(ENCRYPT, engine, "grants", {"access": "grants.access"})
    assert_silent(caught.value)
    with engine.connect() as connection, pytest.raises(exc.DBAPIError) as inside:
        rewrite(ENCRYPT, connection, "grants", {"access": "grants.access"})
    assert_silent(inside.value)


def test_postgresql_shows_no_value_that_does_not_fit_a_type(
    postgresql_url: str, make_engine: Callable[..., Engine]
) -> None:
    engine = make_engine(postgresql_url)
    with (
        pytest.raises(exc.DataError, match=r"invalid input syntax for type integer: '\*\*\*'") as caught,
        engine.connect() as connection,
    ):
        connection.execute(text("SELECT CAST(CAST(:token AS TEXT) AS INTEGER)"), {"token": SENTINEL})
    assert SENTINEL not in texts_of(caught.value)


@pytest.mark.parametrize("is_attached", [True, False])
def test_no_error_is_its_own_cause(is_attached: bool) -> None:
    engine = create_engine("sqlite://")
    create(engine)
    if is_attached:
        attach_key_ring(engine, KeyRing(primary=Key.generate()))
    expected = PlaintextTypeError if is_attached else KeyRingNotAttachedError
    with pytest.raises(expected) as caught, engine.begin() as connection:
        connection.execute(insert(Account), [{"token": SENTINEL.encode() if is_attached else SENTINEL}])
    seen: list[BaseException] = []
    error: BaseException | None = caught.value
    while error is not None:
        assert all(error is not other for other in seen)
        seen.append(error)
        error = error.__cause__ or error.__context__
    assert_silent(caught.value)
    engine.dispose()


def test_the_attributes_of_an_error_survive_its_copy(engine: Engine) -> None:
    create(engine)
    stored = KeyRing(primary=Key.generate()).encrypt("x", "accounts.token")
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO accounts (id, token) VALUES (1, :stored)"), {"stored": stored})
    with pytest.raises(Exception, match="not in the key ring") as caught, engine.connect() as connection:
        connection.execute(Account.__table__.select()).all()
    assert caught.value.key_id == stored.split(":")[2]  # type: ignore[attr-defined]


def test_plaintext_is_written_back_by_a_rewrite_that_decrypts(any_engine: Engine) -> None:
    with any_engine.begin() as connection:
        connection.execute(text("CREATE TABLE grants (id INTEGER NOT NULL PRIMARY KEY, access TEXT)"))
        connection.execute(text("INSERT INTO grants VALUES (1, 'plain')"))
    rewrite(ENCRYPT, any_engine, "grants", {"access": "grants.access"})
    rewrite(DECRYPT, any_engine, "grants", {"access": "grants.access"})
    with any_engine.connect() as connection:
        assert connection.scalar(text("SELECT access FROM grants")) == "plain"


def test_an_error_of_the_application_keeps_its_arguments(engine: Engine) -> None:
    def refuse(*_: object) -> None:
        raise ValueError(404, "tenant 'acme' is not allowed")

    event.listen(engine, "before_cursor_execute", refuse)
    with pytest.raises(ValueError, match="'acme'"), engine.connect() as connection:
        connection.execute(text("SELECT 1"))
