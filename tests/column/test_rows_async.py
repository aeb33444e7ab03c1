"""Values that are bound to their row, through the drivers of async engines."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import bindparam, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import selectinload, undefer_group
from sqlalchemy.orm.exc import StaleDataError

from sealchemy import DecryptionError, Key, KeyRing, RowValue, attach_key_ring
from tests.column.test_async import make_async_engine  # noqa: F401 - a fixture
from tests.support.bound import Account, Base, User

if TYPE_CHECKING:
    from collections.abc import Callable

t = Account.__table__


async def every_way(engine: AsyncEngine) -> None:
    attach_key_ring(engine, KeyRing(primary=Key.generate()))
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with AsyncSession(engine, expire_on_commit=False) as session:
        session.add_all([User(id=number, name="u") for number in (1, 2, 3)])
        await session.flush()
        rows = [{"id": n, "user_id": n, "provider": "g", "token": f"T{n}", "profile": {"n": f"P{n}"}} for n in (1, 2)]
        await session.execute(insert(Account), rows)
        await session.commit()
        users = (await session.scalars(select(User).options(selectinload(User.accounts)).order_by(User.id))).all()
        assert [account.token for user in users for account in user.accounts] == ["T1", "T2"]
        found = [row async for row in await session.stream_scalars(select(Account.token).order_by(Account.id))]
        assert found == ["T1", "T2"]
        account = users[0].accounts[0]
        account.user_id = 3  # with a secret that was not loaded
        await session.commit()
        account.token = "new"
        await session.commit()
        one = select(Account).options(undefer_group("late")).execution_options(populate_existing=True)
        account = (await session.scalars(one.where(Account.id == 1))).one()
        assert (account.user_id, account.token, account.profile) == (3, "new", {"n": "P1"})
        own = RowValue("by key", user_id=3, provider="g")
        await session.execute(update(Account).where(Account.id == 1).values(token=own))
        await session.execute(update(Account), [{"id": 1, "token": own}])
        wrong = RowValue("LOST", user_id=1, provider="g")
        for statement in (
            update(Account).where(Account.id == 1).values(token=wrong),
            update(t).where(t.c.id == 1).values(token=wrong).returning(t.c.id),
        ):
            with pytest.raises(StaleDataError):
                await session.execute(statement)
        connection = await session.connection()
        many = update(t).where(t.c.id == bindparam("k")).values(token=bindparam("v"))
        with pytest.raises(StaleDataError):
            await connection.execute(many, [{"k": 1, "v": own}, {"k": 2, "v": wrong}])
        await session.rollback()
        await session.execute(
            text("UPDATE accounts SET token = (SELECT token FROM accounts WHERE id = 2) WHERE id = 1")
        )
        for query in (
            select(Account.token),
            select(Account),
            select(User).options(selectinload(User.accounts)),
        ):
            with pytest.raises(DecryptionError, match=r"bound\.token"):
                (await session.scalars(query.execution_options(populate_existing=True))).all()
            streamed = await session.stream_scalars(query.execution_options(populate_existing=True))
            with pytest.raises(DecryptionError, match=r"bound\.token"):
                _ = [row async for row in streamed]
            await streamed.close()
        await session.execute(
            text("UPDATE accounts SET profile = (SELECT profile FROM accounts WHERE id = 2) WHERE id = 1")
        )
        with pytest.raises(DecryptionError, match=r"bound\.profile"):
            await session.scalars(select(Account.profile).where(Account.id == 1))
        await session.rollback()
        await session.execute(
            text("UPDATE accounts SET profile = (SELECT profile FROM accounts WHERE id = 2) WHERE id = 1")
        )
        with pytest.raises(DecryptionError, match=r"bound\.profile"):
            (await session.scalars(one)).all()
    await engine.dispose()


def test_reads_and_writes(make_async_engine: Callable[[], Any]) -> None:  # noqa: F811 - the fixture
    asyncio.run(every_way(make_async_engine()))
