"""`sealchemy.testing`, used as in the tests of an application."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session, aliased

from sealchemy import ColumnDefinitionError, Rollout
from sealchemy.status import column_status
from sealchemy.testing import assert_encrypted
from tests.support.models import Account, create

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sqlalchemy import Engine

pytest_plugins = ["pytester"]


@pytest.fixture
def session(engine: Engine) -> Iterator[Session]:
    with Session(create(engine)) as session:
        yield session


def test_ciphertext_passes_before_and_after_the_commit(session: Session) -> None:
    session.add(Account(token="t", refresh=None))
    assert_encrypted(session, Account.token)
    session.commit()
    assert_encrypted(session, Account.token)


@pytest.mark.parametrize("stored", ["plain", "sealchemy:mine", ""])
def test_plaintext_and_damaged_values_fail(session: Session, stored: str) -> None:
    session.add(Account(token="t"))
    session.flush()
    session.execute(text("INSERT INTO accounts (token) VALUES (:stored)"), {"stored": stored})
    with pytest.raises(AssertionError, match=r"accounts\.token: [01] values are plaintext, and [01] are damaged"):
        assert_encrypted(session, Account.token)


def test_ciphertext_that_does_not_authenticate_fails(session: Session) -> None:
    session.add(Account(token="t", refresh="r"))
    session.flush()
    session.execute(text("UPDATE accounts SET token = refresh"))
    with pytest.raises(AssertionError, match="does not authenticate"):
        assert_encrypted(session, Account.token)


def test_database_of_the_session_is_checked(tmp_path: Path, make_engine: Callable[..., Engine], engine: Engine) -> None:
    create(engine)
    other = make_engine(f"sqlite:///{tmp_path / 'other.db'}", rollout=Rollout.PREPARE)
    create(other)
    with Session(engine, binds={Account: other}) as session:
        session.add(Account(token="t"))
        with pytest.raises(AssertionError, match="1 values are plaintext"):
            assert_encrypted(session, Account.token)


def test_schema_of_the_session_is_checked(postgresql_url: str, make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(postgresql_url)
    with engine.begin() as connection:
        schema = f"{connection.scalar(text('SELECT current_schema()'))}_x"
        connection.execute(text(f"CREATE SCHEMA {schema}"))
    create(engine)
    create(engine.execution_options(schema_translate_map={None: schema}))
    with Session(engine.execution_options(schema_translate_map={None: schema})) as session:
        session.add(Account(token="t"))
        assert_encrypted(session, Account.token)
        session.execute(text(f"INSERT INTO {schema}.accounts (token) VALUES ('plain')"))
        with pytest.raises(AssertionError, match="1 values are plaintext"):
            assert_encrypted(session, Account.token)
        with pytest.raises(ColumnDefinitionError, match="schema_translate_map turns None into"):
            column_status(session.connection(), "accounts", {"token": "accounts.token"})
        session.rollback()
    with engine.begin() as connection:
        connection.execute(text(f"DROP SCHEMA {schema} CASCADE"))


def test_column_without_values_fails(session: Session) -> None:
    session.add(Account(token="t", refresh=None))
    with pytest.raises(AssertionError, match="it has no values"):
        assert_encrypted(session, Account.refresh)


@pytest.mark.parametrize(
    "column",
    [Account.name, Account.__table__.c.token, aliased(Account).token, "token"],
    ids=["plaintext column", "core column", "alias", "column name"],
)
def test_column_that_is_not_encrypted_fails(session: Session, column: Any) -> None:
    with pytest.raises(AssertionError, match="not a mapped column of type EncryptedString"):
        assert_encrypted(session, column)


@pytest.mark.slow
def test_fixtures_work_in_another_project(pytester: pytest.Pytester) -> None:
    pytester.makeconftest('pytest_plugins = ["sealchemy.testing"]')
    pytester.makepyfile(
        """
        import threading
        from sqlalchemy import Column, Integer, MetaData, Table, insert, select
        from sealchemy import EncryptedString

        seen = set()
        table = Table("t", MetaData(), Column("id", Integer, primary_key=True), Column("a", EncryptedString("t.a")))

        def use(engine):
            with engine.connect() as connection:
                assert connection.scalars(select(table.c.a)).all() == ["x"]

        def test_one(encrypted_engine, key_ring):
            seen.add(key_ring.primary.id)
            table.create(encrypted_engine)
            with encrypted_engine.begin() as connection:
                connection.execute(insert(table), {"a": "x"})
            thread = threading.Thread(target=use, args=[encrypted_engine])
            thread.start()
            thread.join()
            use(encrypted_engine)

        def test_two(encrypted_engine, key_ring):
            seen.add(key_ring.primary.id)
            table.create(encrypted_engine)
            assert len(seen) == 2
        """
    )
    result = pytester.runpytest_subprocess("-q", "-p", "no:xdist", "-W", "error")
    assert re.search("2 passed", result.stdout.str()), result.stdout.str()
