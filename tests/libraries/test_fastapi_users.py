"""fastapi-users keeps the tokens of its OAuth accounts encrypted, through its own routes."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
import requests
from fastapi import Depends, FastAPI
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from sealchemy import BlindIndex, EncryptedString, Key, KeyRing, attach_key_ring, matches
from tests.support.provider import CLIENT_ID, CLIENT_SECRET, Provider

WHY = "fastapi-users' adapter allows no SQLAlchemy 2.1; `nox` installs it beside SQLAlchemy 2.0"
db = pytest.importorskip("fastapi_users_db_sqlalchemy", reason=WHY)
fastapi_users = pytest.importorskip("fastapi_users", reason=WHY)
db_tokens = pytest.importorskip("fastapi_users_db_sqlalchemy.access_token", reason=WHY)
httpx_oauth = pytest.importorskip("httpx_oauth.oauth2", reason=WHY)
authentication = pytest.importorskip("fastapi_users.authentication", reason=WHY)
database = pytest.importorskip("fastapi_users.authentication.strategy.db", reason=WHY)


class Base(DeclarativeBase):
    pass


class OAuthAccount(db.SQLAlchemyBaseOAuthAccountTableUUID, Base):
    access_token: Mapped[str] = mapped_column(EncryptedString("oauth_account.access_token"))
    refresh_token: Mapped[str | None] = mapped_column(EncryptedString("oauth_account.refresh_token"))


class User(db.SQLAlchemyBaseUserTableUUID, Base):
    oauth_accounts: Mapped[list[OAuthAccount]] = relationship("OAuthAccount", lazy="joined")


class AccessToken(db_tokens.SQLAlchemyBaseAccessTokenTableUUID, Base):
    id: Mapped[int] = mapped_column(primary_key=True)  # the token cannot be the primary key any more
    token: Mapped[str] = mapped_column(EncryptedString("accesstoken.token"))
    token_index: Mapped[str] = mapped_column(BlindIndex("accesstoken.token"), unique=True)


class Tokens(db_tokens.SQLAlchemyAccessTokenDatabase[AccessToken]):
    async def get_by_token(self, token: str, max_age: Any = None) -> Any:
        found = await super().get_by_token(token, max_age)
        return found if found and matches(found.token, token) else None


class Manager(fastapi_users.UUIDIDMixin, fastapi_users.BaseUserManager[User, uuid.UUID]):
    reset_password_token_secret = verification_token_secret = "secret of this test"


def client_of(provider: Provider) -> Any:
    class Client(httpx_oauth.BaseOAuth2[dict[str, Any]]):
        async def get_id_email(self, token: str) -> tuple[str, str]:
            async with httpx.AsyncClient() as http:
                answer = await http.get(f"{provider.url}/calendar", headers={"Authorization": f"Bearer {token}"})
            assert answer.status_code == 200
            return "ann", "ann@example.com"

    endpoint = f"{provider.url}/token"
    return Client(
        CLIENT_ID,
        CLIENT_SECRET,
        f"{provider.url}/authorize",
        endpoint,
        endpoint,
        name="provider",
        base_scopes=["calendar"],
    )


def application(sessions: async_sessionmaker[AsyncSession], provider: Provider) -> FastAPI:
    async def session() -> AsyncIterator[AsyncSession]:
        async with sessions() as opened:
            yield opened

    async def user_db(opened: AsyncSession = Depends(session)) -> AsyncIterator[Any]:  # noqa: B008 - as FastAPI has it
        yield db.SQLAlchemyUserDatabase(opened, User, OAuthAccount)

    async def manager(users: Any = Depends(user_db)) -> AsyncIterator[Manager]:  # noqa: B008
        yield Manager(users)

    async def tokens(opened: AsyncSession = Depends(session)) -> AsyncIterator[Tokens]:  # noqa: B008
        yield Tokens(opened, AccessToken)

    def strategy(found: Tokens = Depends(tokens)) -> Any:  # noqa: B008
        return database.DatabaseStrategy(found, lifetime_seconds=60)

    backend = authentication.AuthenticationBackend("db", authentication.BearerTransport("login"), strategy)
    app = FastAPI()
    users = fastapi_users.FastAPIUsers[User, uuid.UUID](manager, [backend])
    router = users.get_oauth_router(
        client_of(provider), backend, "state secret of this test, long enough", "http://127.0.0.1/callback"
    )
    app.include_router(router, prefix="/auth")
    app.include_router(users.get_auth_router(backend), prefix="/session")
    app.include_router(
        users.get_users_router(fastapi_users.schemas.BaseUser[uuid.UUID], fastapi_users.schemas.BaseUserUpdate),
        prefix="/users",
    )
    return app


async def sign_in(app: FastAPI, keep: Callable[[str], Awaitable[None]]) -> str:
    """Sign in with the provider, as a browser does, and return what the application says of the user."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="https://127.0.0.1") as browser:
        asked = (await browser.get("/auth/authorize")).json()["authorization_url"]
        answer = await asyncio.to_thread(requests.get, asked, allow_redirects=False, timeout=10)
        returned = {name: found[0] for name, found in parse_qs(urlsplit(answer.headers["Location"]).query).items()}
        answer = await browser.get("/auth/callback", params=returned)
        assert answer.status_code == 200, answer.text
        headers = {"Authorization": f"Bearer {answer.json()['access_token']}"}
        said = (await browser.get("/users/me", headers=headers)).text
        assert (await browser.get("/users/me", headers={"Authorization": "Bearer wrong"})).status_code == 401
        await keep(answer.json()["access_token"])
        assert (await browser.post("/session/logout", headers=headers)).status_code == 204
        assert (await browser.get("/users/me", headers=headers)).status_code == 401
        return said


@pytest.mark.parametrize("driver", ["sqlite+aiosqlite", "postgresql+asyncpg", "postgresql+psycopg"])
def test_tokens_of_oauth_accounts(
    driver: str, oauth_provider: Provider, request: pytest.FixtureRequest, tmp_path: Any
) -> None:
    if driver.startswith("sqlite"):
        url = f"{driver}:///{tmp_path / 'test.db'}"
    else:
        url = request.getfixturevalue("postgresql_database").replace("postgresql+psycopg", driver)

    async def run() -> None:
        ring = KeyRing(primary=Key.generate(), index_key=Key.generate())
        engine = attach_key_ring(create_async_engine(url), ring)
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        sessions = async_sessionmaker(engine, expire_on_commit=False)
        app = application(sessions, oauth_provider)

        async def is_encrypted(token: str) -> None:
            async with sessions() as session:
                row = (await session.execute(text("SELECT token, token_index FROM accesstoken"))).one()
                assert row.token.startswith("sealchemy:v1:")
                assert token not in "".join(row)

        stored = []
        for _ in range(2):  # the second time, the account is updated
            said = await sign_in(app, is_encrypted)
            assert "ann@example.com" in said
            granted = oauth_provider.tokens[-1]
            assert granted.access_token not in said
            async with sessions() as session:
                rows = (await session.execute(text("SELECT access_token, refresh_token FROM oauth_account"))).all()
                (row,) = rows
                assert all(value.startswith("sealchemy:v1:") for value in row)
                stored.append(row)
                user = await db.SQLAlchemyUserDatabase(session, User, OAuthAccount).get_by_oauth_account(
                    "provider", "ann"
                )
                assert user.oauth_accounts[0].access_token == granted.access_token
                assert user.oauth_accounts[0].refresh_token == granted.refresh_token
        assert stored[0] != stored[1]
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.drop_all)
        await engine.dispose()

    asyncio.run(run())
