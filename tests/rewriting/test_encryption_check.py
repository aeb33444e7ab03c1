"""The CHECK with which a database refuses what is not an encrypted value."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import Column, Integer, MetaData, Table, Text, event, text
from sqlalchemy.dialects.mysql import MEDIUMTEXT
from sqlalchemy.exc import DBAPIError, IntegrityError

from sealchemy import EncryptedString, Key, KeyRing, RewriteError, Rollout
from sealchemy._databases import sqlite_schema
from sealchemy._databases.access import database_of, open_table
from sealchemy._databases.mysql import MySQL
from sealchemy._databases.table import TableColumns
from sealchemy._rewriting.constraint import ExistingConstraint, _validate, constraint_name, existing_constraints
from sealchemy.plan import plan
from tests.support import constraint
from tests.support.postgresql import require_extension

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine

RING = KeyRing(primary=Key.generate())
COLUMNS = {"token": "users.token"}
VALUE = RING.encrypt("a secret", "users.token")
HEADER, BODY = VALUE[:26], VALUE[26:]
SHORTEST = HEADER + base64.b64encode(bytes(40)).decode()

REFUSED = {
    "plaintext": "ya29.plain",
    "empty": "",
    "upper case": VALUE.upper(),
    "something before": f" {VALUE}",
    "a newline after": f"{VALUE}\n",
    "something after": f"{SHORTEST}!",
    "another version": VALUE.replace(":v1:", ":v2:"),
    "a key id in upper case": VALUE.replace(RING.primary.id, "0123456789AB"),
    "a key id that is no number": VALUE.replace(RING.primary.id, "0123456789xy"),
    "a short key id": VALUE.replace(RING.primary.id, "0123456789a"),
    "an alphabet of URLs": HEADER + BODY[:-4] + "-_==",
    "padding inside": HEADER + "=" + BODY,
    "too much padding": f"{SHORTEST}=",
    "a short payload": HEADER + base64.b64encode(bytes(39)).decode(),
    "no payload": HEADER,
    "another word than row": f"{HEADER}raw:{BODY}",
    "the row twice": f"{HEADER}row:row:{BODY}",
}


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def engine(request: pytest.FixtureRequest, make_engine: Callable[..., Any], tmp_path: Any) -> Engine:
    url = f"sqlite:///{tmp_path / 'x.db'}"
    if request.param != "sqlite":
        url = request.getfixturevalue(f"{request.param}_url")
    engine: Engine = make_engine(url, RING)
    create(engine)
    return engine


def create(engine: Engine, type_: str = "") -> None:
    wide = "MEDIUMTEXT" if engine.dialect.name == "mysql" else "TEXT"
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE IF EXISTS users"))
        connection.execute(text(f"CREATE TABLE users (id INTEGER PRIMARY KEY, token {type_ or wide})"))


def models() -> MetaData:
    columns = Column("id", Integer, primary_key=True), Column("token", EncryptedString("users.token"))
    return Table("users", MetaData(), *columns).metadata


def write(engine: Engine, value: object) -> None:
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM users"))
        connection.execute(text("INSERT INTO users VALUES (1, :value)"), {"value": value})


def require(engine: Engine, *, bound: bool = False) -> None:
    with open_table(engine, TableColumns("users", COLUMNS)) as access:
        constraint.constraint.require_encryption(access, bound=bound)


def existing(engine: Engine, column: str = "token") -> list[ExistingConstraint]:
    with engine.connect() as connection:
        return existing_constraints(connection, None, "users", [column])[column]


def add(engine: Engine, condition: str, name: str = "ck_users_token_encrypted") -> None:
    if engine.dialect.name == "sqlite":
        with engine.begin() as connection:
            sqlite_schema.add_check(connection, None, "users", name, condition)
        return
    with engine.begin() as connection:
        escaped = condition.replace(":", "\\:")
        connection.execute(text(f"ALTER TABLE users ADD CONSTRAINT {name} CHECK ({escaped})"))


def old_condition(engine: Engine, *, bound: bool = False) -> str:
    pattern = "sealchemy:v1:____________:row:_%" if bound else "sealchemy:v1:____________:_%"
    return {
        "sqlite": "token GLOB '{}'".format(pattern.replace("_", "?").replace("%", "*")),
        "postgresql": f"CAST(token AS TEXT) COLLATE \"C\" LIKE '{pattern}'",
        "mysql": f"token LIKE BINARY '{pattern}'",
    }[engine.dialect.name]


@pytest.mark.parametrize(
    "value",
    [None, VALUE, SHORTEST, f"{HEADER}row:{BODY}", HEADER + "ab/+" * 300_000],
    ids=["NULL", "usual", "shortest", "bound", "long"],
)
def test_an_encrypted_value_passes(engine: Engine, value: str | None) -> None:
    require(engine)
    write(engine, value)


@pytest.mark.parametrize("value", REFUSED.values(), ids=REFUSED)
def test_any_other_value_is_refused(engine: Engine, value: str) -> None:
    require(engine)
    with pytest.raises(DBAPIError, match=r"ck_users_token_encrypted|CHECK"):
        write(engine, value)


@pytest.mark.parametrize(
    "value", [VALUE.encode(), f"{VALUE}\0", f"{VALUE}\0more", 5], ids=["bytes", "NUL", "more", "5"]
)
def test_sqlite_refuses_bytes_and_what_follows_a_nul(make_engine: Callable[..., Any], value: object) -> None:
    engine = make_engine("sqlite://", RING)
    create(engine)
    with engine.begin() as connection:
        require(connection)  # type: ignore[arg-type]
    with pytest.raises(IntegrityError):
        write(engine, value)


def test_a_check_for_bound_values_refuses_those_that_are_not(engine: Engine) -> None:
    require(engine, bound=True)
    write(engine, f"{HEADER}row:{BODY}")
    with pytest.raises(DBAPIError):
        write(engine, VALUE)
    require(engine)  # it is not made weaker
    assert [item.is_bound for item in existing(engine)] == [True]


@pytest.mark.parametrize("character_set", ["latin1", "utf16", "ucs2", "utf32"])
def test_every_character_set_of_mariadb_is_tested_alike(
    mariadb_url: str, make_engine: Callable[..., Any], character_set: str
) -> None:
    engine = make_engine(mariadb_url, RING)
    create(engine, f"MEDIUMTEXT CHARACTER SET {character_set}")
    require(engine)
    write(engine, VALUE)
    for value in REFUSED.values():
        with pytest.raises(DBAPIError):
            write(engine, value)


@pytest.mark.parametrize("bound", [False, True])
def test_a_check_of_earlier_releases_counts_and_is_replaced_when_asked_for(engine: Engine, *, bound: bool) -> None:
    add(engine, old_condition(engine, bound=bound))
    name = constraint_name("users", "token")
    assert existing(engine) == [ExistingConstraint(name, is_validated=True, is_bound=bound, is_strict=False)]
    assert constraint.is_required(engine, "users", COLUMNS)
    assert not [item for item in plan(engine, models())[0].findings if item.code == "check"]
    require(engine)
    assert existing(engine) == [ExistingConstraint(name, is_validated=True, is_bound=bound, is_strict=True)]


@pytest.mark.parametrize("more", ["OR 1 = 1", "OR token <> ''", "AND token <> 'x'"])
def test_a_lookalike_is_not_taken_for_ours(engine: Engine, more: str) -> None:
    for current in (False, True):
        create(engine)
        condition = database_of(engine.dialect).encryption_checks[0].on("token") if current else old_condition(engine)
        add(engine, f"({condition}) {more}")
        assert existing(engine) == []
        assert not constraint.is_required(engine, "users", COLUMNS)
        assert [item.name for item in plan(engine, models())[0].findings if item.code == "check"]


def test_values_that_only_an_earlier_check_lets_pass_keep_that_check(engine: Engine) -> None:
    add(engine, old_condition(engine))
    write(engine, "sealchemy:v1:ABCDEFGHIJKL:SENTINEL")
    before = existing(engine)
    with pytest.raises(RewriteError, match="1 values are not encrypted"):
        require(engine)
    assert existing(engine) == before


def test_values_written_meanwhile_keep_the_earlier_check(postgresql_url: str, make_engine: Callable[..., Any]) -> None:
    engine = make_engine(postgresql_url, RING)
    create(engine)
    add(engine, old_condition(engine))
    before = existing(engine)
    writer = make_engine(postgresql_url)

    @event.listens_for(engine, "before_cursor_execute")
    def _write(_connection: Any, _cursor: Any, statement: str, *_: object) -> None:
        if "DROP CONSTRAINT" in statement and "~~" not in statement:
            write(writer, "sealchemy:v1:ABCDEFGHIJKL:SENTINEL")

    with pytest.raises(RewriteError, match="written while"):
        require(engine)
    assert existing(engine) == before


def test_a_killed_replacement_leaves_a_check_whatever_is_written(
    postgresql_url: str, make_engine: Callable[..., Any]
) -> None:
    engine = make_engine(postgresql_url, RING)
    create(engine)
    write(engine, "sealchemy:v1:ABCDEFGHIJKL:SENTINEL")
    today = database_of(engine.dialect).encryption_checks[0].on("token")
    with engine.begin() as connection:  # as a run leaves it that was killed before it could validate
        escaped = today.replace(":", "\\:")
        connection.execute(
            text(f"ALTER TABLE users ADD CONSTRAINT ck_users_token_encrypted CHECK ({escaped}) NOT VALID")
        )
    with open_table(engine, TableColumns("users", COLUMNS)) as access, pytest.raises(RewriteError, match="taken back"):
        _validate(access, access.target.columns[0], "ck_users_token_encrypted", [])
    assert [(item.is_validated, item.is_strict) for item in existing(engine)] == [(True, False)]


@pytest.mark.parametrize("name", ["text", "a Token", 'To"ken', "COLLATE", "c", "Ünï", "100%s", "a:b"])
def test_a_column_of_any_name_is_recognized(engine: Engine, name: str) -> None:
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE users"))
    wide = Text().with_variant(MEDIUMTEXT(), "mysql", "mariadb")
    columns = Column("id", Integer, primary_key=True), Column(name, wide), Column("other", wide)
    Table("users", MetaData(), *columns).create(engine)
    constraint.require_encryption(engine, "users", {name: "x"})
    assert [item.is_strict for item in existing(engine, name)] == [True]
    assert existing(engine, "other") == []
    constraint.allow_plaintext(engine, "users", {name: "x"})
    assert existing(engine, name) == []


def test_a_column_that_ignores_case_is_tested_as_any_other(
    postgresql_url: str, make_engine: Callable[..., Any]
) -> None:
    require_extension(postgresql_url, "citext")
    engine = make_engine(postgresql_url, RING, rollout=Rollout.STRICT)
    with engine.begin() as connection:
        connection.execute(text("CREATE EXTENSION IF NOT EXISTS citext"))
    create(engine, "CITEXT")
    require(engine)
    assert [item.is_strict for item in existing(engine)] == [True]
    with pytest.raises(DBAPIError):
        write(engine, VALUE.upper())


@pytest.mark.parametrize("encoding", ["UTF-16le", "UTF-16be"])
def test_a_sqlite_database_of_another_encoding_takes_encrypted_values(
    make_engine: Callable[..., Any], tmp_path: Any, encoding: str
) -> None:
    engine = make_engine(f"sqlite:///{tmp_path / 'x.db'}", RING)
    event.listen(engine, "connect", lambda driver, _: driver.execute(f"PRAGMA encoding = '{encoding}'"))
    create(engine)
    require(engine)
    write(engine, VALUE)
    for value in (f"{VALUE}\0", f"{VALUE}\0more", "plain"):
        with pytest.raises(IntegrityError):
            write(engine, value)


def test_the_regular_expression_repeats_no_counted_group() -> None:
    for check in MySQL.encryption_checks:
        assert ",}" not in check.sql  # ICU keeps a frame for each repetition of {54,}
