"""Async engines: the column type, and the operations in an async `env.py`."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from alembic import command
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import Column, Integer, MetaData, Table, insert, make_url, select, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from sealchemy import EncryptedString, Key, KeyRing, Rollout, SecretString, attach_key_ring
from tests.support.alembic import Application
from tests.support.models import Account, Base

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import Connection

CONTEXTS = {"token": "accounts.token", "refresh": "accounts.refresh"}


@pytest.fixture(params=["sqlite+aiosqlite", "postgresql+psycopg", "postgresql+asyncpg"])
def make_async_engine(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    if request.param == "sqlite+aiosqlite":
        return lambda: create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'x.db'}")
    url = make_url(request.getfixturevalue("postgresql_url"))
    if request.param == "postgresql+psycopg":
        return lambda: create_async_engine(url)
    search_path = str(url.query["options"]).removeprefix("-csearch_path=")
    options = {"server_settings": {"search_path": search_path}}
    return lambda: create_async_engine(url.set(drivername=request.param, query={}), connect_args=options)


def encrypt(connection: Connection) -> None:
    context = MigrationContext.configure(connection)
    op: Any = Operations(context)
    with context.begin_transaction():
        op.encrypt_columns("accounts", CONTEXTS)
        op.require_encryption("accounts", CONTEXTS)


async def from_plaintext_to_ciphertext(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
        await connection.execute(text("INSERT INTO accounts (token, refresh) VALUES ('old', NULL), ('', 'r')"))
    attach_key_ring(engine, KeyRing(primary=Key.generate()))
    async with engine.connect() as connection:
        await connection.run_sync(encrypt)
    async with engine.begin() as connection:
        await connection.execute(insert(Account), [{"token": "new", "refresh": "🔑"}])
        found = (await connection.execute(select(Account.token, Account.refresh).order_by(Account.id))).all()
        assert found == [("old", None), ("", "r"), ("new", "🔑")]
        assert all(isinstance(row.token, SecretString) for row in found)
        stored = (await connection.scalars(text("SELECT token FROM accounts"))).all()
        assert all(value.startswith("sealchemy:v1:") for value in stored)
    await engine.dispose()


def test_plaintext_table_is_encrypted_through_an_async_engine(make_async_engine: Any) -> None:
    async def run() -> None:
        await from_plaintext_to_ciphertext(make_async_engine())

    asyncio.run(run())


ENV = """
import asyncio
from alembic import context

def run(connection):
    context.configure(
        connection=connection,
        target_metadata=context.config.attributes["metadata"],
        autogenerate_plugins=["alembic.autogenerate.*", "sealchemy"],
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        context.run_migrations()

async def main():
    engine = context.config.attributes["engine"]()
    async with engine.connect() as connection:
        await connection.run_sync(run)
    await engine.dispose()

asyncio.run(main())
"""


@pytest.mark.slow
def test_async_env_py_runs_the_operations(make_async_engine: Any, tmp_path: Path) -> None:
    key = Key.generate()

    def make(rollout: Rollout = Rollout.STRICT) -> AsyncEngine:
        return attach_key_ring(make_async_engine(), KeyRing(primary=key), rollout=rollout)

    async def execute(*statements: Any) -> list[Any]:
        engine = make()
        async with engine.begin() as connection:
            results = [await connection.execute(statement) for statement in statements]
            found = list(results[-1].all()) if results[-1].returns_rows else []
        await engine.dispose()
        return found

    asyncio.run(
        execute(
            text("CREATE TABLE grants (id INTEGER NOT NULL PRIMARY KEY, token VARCHAR(200) NOT NULL)"),
            text("INSERT INTO grants (id, token) VALUES (1, 'old'), (2, '')"),
        )
    )
    columns = Column("id", Integer, primary_key=True), Column("token", EncryptedString("g.token"), nullable=False)
    grants = Table("grants", MetaData(), *columns)
    application = Application(tmp_path, make, grants.metadata)
    (application.folder / "env.py").write_text(ENV)
    assert not application.is_clean()
    application.complete()
    assert asyncio.run(execute(select(grants.c.token).order_by(grants.c.id))) == [("old",), ("",)]
    assert all(row[0].startswith("sealchemy:v1:") for row in asyncio.run(execute(text("SELECT token FROM grants"))))
    application.attributes["engine"] = partial(make, Rollout.MIGRATE)
    command.downgrade(application.config("allow-plaintext=yes"), "base")
    assert asyncio.run(execute(text("SELECT token FROM grants ORDER BY id"))) == [("old",), ("",)]
