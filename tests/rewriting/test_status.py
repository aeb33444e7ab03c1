"""Count values by state, and check a database when an application starts."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import Column, Integer, MetaData, Table, create_engine, insert, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session, registry

from sealchemy import (
    ColumnDefinitionError,
    DecryptionError,
    EncryptedString,
    EnvelopeFormatError,
    Key,
    KeyRing,
    PlaintextFoundError,
    Rollout,
    UnknownKeyError,
    attach_key_ring,
)
from sealchemy.status import check_encryption, column_status, key_ids
from sealchemy.testing import assert_encrypted
from tests.support.leaks import SENTINEL, assert_silent
from tests.support.models import Base, create

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine

OLD, NEW, LOST = Key.generate(), Key.generate(), Key.generate()
RING = KeyRing(primary=NEW, previous=[OLD])
COLUMNS = {"token": "accounts.token", "refresh": "accounts.refresh"}


@pytest.fixture
def engine(database_url: str, make_engine: Callable[..., Engine]) -> Engine:
    return create(make_engine(database_url, RING))


def store(engine: Engine, *tokens: str | None) -> None:
    with engine.begin() as connection:
        connection.execute(
            text("INSERT INTO accounts (token, refresh) VALUES ('x', :refresh)"), [{"refresh": item} for item in tokens]
        )


def value(key: Key) -> str:
    return KeyRing(primary=key).encrypt(SENTINEL, "accounts.refresh")


def test_values_are_counted_by_state(engine: Engine) -> None:
    plaintext = ["", SENTINEL, "SEALCHEMY:v1:000000000000:x", "sealchemy"]
    unknown = ["sealchemy:v2:000000000000:x", "sealchemy:", "sealchemy:v1:00000000000g:x", "sealchemy:v1:000000000000:"]
    store(engine, None, None, None, *plaintext, value(NEW), value(OLD), value(OLD), *unknown)
    token, refresh = column_status(engine, "accounts", COLUMNS)
    assert (token.plaintext, token.null, token.keys, token.unknown) == (14, 0, {}, 0)
    assert (refresh.null, refresh.plaintext, refresh.unknown) == (3, 4, 4)
    assert refresh.keys == {NEW.id: 1, OLD.id: 2}


def test_counting_needs_no_key(database_url: str, make_engine: Callable[..., Engine]) -> None:
    from sqlalchemy import create_engine

    store(create(make_engine(database_url, RING)), value(OLD))
    bare = create_engine(database_url)
    assert column_status(bare, "accounts", COLUMNS)[1].keys == {OLD.id: 1}
    bare.dispose()


@pytest.mark.parametrize(
    ("stored", "error", "shown"),
    [
        (value(LOST), UnknownKeyError, LOST.id),
        ("sealchemy:v2:000000000000:x", EnvelopeFormatError, "accounts.refresh: 1 values"),
        (SENTINEL, PlaintextFoundError, "accounts.refresh: 1 values are plaintext"),
    ],
    ids=["unknown key", "later version", "plaintext"],
)
def test_check_reports_unreadable_values(engine: Engine, stored: str, error: type[Exception], shown: str) -> None:
    rollout = {"accounts.token": Rollout.MIGRATE}
    attach_key_ring(engine, RING, rollout=rollout)
    store(engine, value(OLD), None)
    check_encryption(engine, Base.metadata)
    store(engine, stored)
    with pytest.raises(error, match=shown) as caught:
        check_encryption(engine, Base.metadata)
    assert_silent(caught.value)


@pytest.mark.parametrize("stage", [Rollout.PREPARE, Rollout.MIGRATE])
def test_check_allows_plaintext_before_stage_strict(engine: Engine, stage: Rollout) -> None:
    attach_key_ring(engine, RING, rollout=stage)
    store(engine, SENTINEL)
    check_encryption(engine, Base.metadata)


def test_models_without_encrypted_columns_are_refused(engine: Engine) -> None:
    with pytest.raises(ColumnDefinitionError, match="no table here has an EncryptedString"):
        check_encryption(engine, MetaData())


def test_a_value_of_every_key_is_sampled(engine: Engine) -> None:
    store(engine, value(NEW), value(OLD))
    attach_key_ring(engine, RING, rollout=Rollout.MIGRATE)
    check_encryption(engine, Base.metadata)
    for key in (NEW, OLD):
        with engine.begin() as connection:
            moved = KeyRing(primary=key).encrypt(SENTINEL, "another.context")
            connection.execute(
                text("UPDATE accounts SET refresh = :moved WHERE refresh LIKE :start"),
                {"moved": moved, "start": f"sealchemy:v1:{key.id}:%"},
            )
        with pytest.raises(DecryptionError, match=key.id) as caught:
            check_encryption(engine, Base.metadata)
        assert_silent(caught.value)
        with engine.begin() as connection:
            connection.execute(text("UPDATE accounts SET refresh = NULL WHERE refresh = :moved"), {"moved": moved})


async def _check_each(url: str) -> None:
    metadata = MetaData()
    table = Table(
        "accounts",
        metadata,
        Column("id", Integer, primary_key=True),
        Column("token", EncryptedString("accounts.token")),
    )
    engine = attach_key_ring(create_async_engine(url), KeyRing(primary=Key.generate()))

    class Account:
        token: Any

    registry().map_imperatively(Account, table)
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
        await connection.execute(insert(table), {"token": "a"})
    await check_encryption(engine, metadata)
    async with engine.connect() as connection:
        await check_encryption(connection, metadata)
    async with AsyncSession(engine) as session:
        await check_encryption(session, metadata)
        await assert_encrypted(session, Account.token)
        assert key_ids(engine).primary
        await session.execute(text("UPDATE accounts SET token = 'plain'"))
        with pytest.raises(PlaintextFoundError):
            await check_encryption(session, metadata)
        with pytest.raises(AssertionError, match="1 values are plaintext"):
            await assert_encrypted(session, Account.token)
        await session.rollback()
    async with engine.begin() as connection:
        await connection.run_sync(metadata.drop_all)
    await engine.dispose()


@pytest.mark.parametrize("driver", ["sqlite+aiosqlite", "postgresql+asyncpg", "postgresql+psycopg"])
def test_async_engines_connections_and_sessions_are_checked(driver: str, request: pytest.FixtureRequest) -> None:
    url = "sqlite+aiosqlite://"
    if not driver.startswith("sqlite"):
        url = request.getfixturevalue("postgresql_database").replace("postgresql+psycopg", driver)
    asyncio.run(_check_each(url))


def test_sessions_are_checked_in_their_transaction(make_engine: Callable[..., Engine]) -> None:
    engine, other = make_engine(), create_engine("sqlite://")
    metadata = MetaData()
    table = Table(
        "accounts",
        metadata,
        Column("id", Integer, primary_key=True),
        Column("token", EncryptedString("accounts.token")),
    )
    with Session(other, binds={table: engine}) as session:
        session.connection(bind_arguments={"clause": table}).execute(
            text("CREATE TABLE accounts (id INTEGER PRIMARY KEY, token TEXT)")
        )
        check_encryption(session, metadata)
        session.connection(bind_arguments={"clause": table}).execute(text("INSERT INTO accounts VALUES (1, 'plain')"))
        with pytest.raises(PlaintextFoundError):
            check_encryption(session, metadata)
