"""Libraries that look tokens up by their value run on encrypted tables, unmodified."""

from __future__ import annotations

import asyncio
import base64
import time
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from authlib.integrations.flask_oauth2 import AuthorizationServer, ResourceProtector, current_token
from authlib.integrations.sqla_oauth2 import (
    OAuth2ClientMixin,
    OAuth2TokenMixin,
    create_bearer_token_validator,
    create_query_client_func,
    create_revocation_endpoint,
    create_save_token_func,
)
from authlib.oauth2.rfc6749 import grants
from flask import Flask
from sqlalchemy import Engine, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, scoped_session, sessionmaker
from sqlalchemy.pool import StaticPool

from sealchemy import BlindIndex, EncryptedString, Key, KeyRing, attach_key_ring, matches

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flask.testing import FlaskClient

RING = KeyRing(primary=Key.generate(), index_key=Key.generate())


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    password: Mapped[str] = mapped_column(EncryptedString("users.password"))

    def get_user_id(self) -> int:
        return self.id


class Client(Base, OAuth2ClientMixin):
    __tablename__ = "clients"
    id: Mapped[int] = mapped_column(primary_key=True)
    client_secret = mapped_column(EncryptedString("clients.secret"))


class Token(Base, OAuth2TokenMixin):
    __tablename__ = "tokens"
    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int | None]
    access_token = mapped_column(EncryptedString("tokens.access"), nullable=False)
    access_token_index = mapped_column(BlindIndex("tokens.access"), unique=True)
    refresh_token = mapped_column(EncryptedString("tokens.refresh"))
    refresh_token_index = mapped_column(BlindIndex("tokens.refresh"), unique=True)


class Server:
    """An authorization server with a table of clients and one of tokens, and a resource behind it."""

    def __init__(self, engine: Engine) -> None:
        self.session: Any = scoped_session(sessionmaker(engine))
        session = self.session

        class PasswordGrant(grants.ResourceOwnerPasswordCredentialsGrant):  # type: ignore[misc]
            def authenticate_user(self, username: str, password: str) -> User | None:
                user = session.get(User, int(username))
                return user if user and matches(user.password, password) else None

        class RefreshTokenGrant(grants.RefreshTokenGrant):  # type: ignore[misc]
            INCLUDE_NEW_REFRESH_TOKEN = True

            def authenticate_refresh_token(self, refresh_token: str) -> Token | None:
                token = session.query(Token).filter_by(refresh_token=refresh_token).first()
                is_found = token and matches(token.refresh_token, refresh_token) and not token.is_revoked()
                return token if is_found else None

            def authenticate_user(self, refresh_token: Token) -> User | None:
                return session.get(User, refresh_token.user_id)

            def revoke_old_credential(self, refresh_token: Token) -> None:
                refresh_token.access_token_revoked_at = refresh_token.refresh_token_revoked_at = int(time.time())
                session.commit()

        # Authlib's validator alone would let in whoever can copy a digest; the guide shows these four lines.
        class BearerTokenValidator(create_bearer_token_validator(session, Token)):  # type: ignore[misc]
            def authenticate_token(self, token_string: str) -> Token | None:
                token = super().authenticate_token(token_string)
                return token if token and matches(token.access_token, token_string) else None

        app = Flask("server")
        app.config["OAUTH2_REFRESH_TOKEN_GENERATOR"] = True
        server = AuthorizationServer(
            app,
            query_client=create_query_client_func(session, Client),
            save_token=create_save_token_func(session, Token),
        )
        server.register_grant(PasswordGrant)
        server.register_grant(RefreshTokenGrant)
        server.register_endpoint(create_revocation_endpoint(session, Token))
        protect = ResourceProtector()
        protect.register_token_validator(BearerTokenValidator())
        app.route("/token", methods=["POST"])(server.create_token_response)
        app.route("/revoke", methods=["POST"], endpoint="revoke")(lambda: server.create_endpoint_response("revocation"))
        app.route("/me", endpoint="me")(protect()(lambda: str(current_token.user_id)))
        self.client: FlaskClient = app.test_client()

    def post(self, path: str, **form: str) -> Any:
        basic = base64.b64encode(b"client:SENTINEL-secret").decode()
        return self.client.post(path, data=form, headers={"Authorization": f"Basic {basic}"})

    def me(self, token: str) -> tuple[int, str]:
        response = self.client.get("/me", headers={"Authorization": f"Bearer {token}"})
        return response.status_code, response.text


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def server(request: pytest.FixtureRequest, make_engine: Callable[..., Engine]) -> Iterator[Server]:
    if request.param == "sqlite":
        engine = make_engine("sqlite://", RING, poolclass=StaticPool)
    else:
        engine = make_engine(request.getfixturevalue(f"{request.param}_url"), RING)
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        client = Client(client_id="client", client_secret="SENTINEL-secret")
        client.set_client_metadata(
            {
                "grant_types": ["password", "refresh_token"],
                "token_endpoint_auth_method": "client_secret_basic",
                "scope": "all",
            }
        )
        session.add_all([client, User(id=7, password="SENTINEL-password"), User(id=8, password="other")])
        session.commit()
    server = Server(engine)
    yield server
    server.session.remove()


def test_authlib_runs_on_encrypted_tables(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTHLIB_INSECURE_TRANSPORT", "1")
    assert server.post("/token", grant_type="password", username="7", password="wrong").status_code == 400
    first = server.post("/token", grant_type="password", username="7", password="SENTINEL-password").get_json()
    assert server.me(first["access_token"]) == (200, "7")
    assert server.me("wrong")[0] == 401
    second = server.post("/token", grant_type="refresh_token", refresh_token=first["refresh_token"]).get_json()
    assert server.me(second["access_token"]) == (200, "7")
    assert server.me(first["access_token"])[0] == 401
    assert server.post("/token", grant_type="refresh_token", refresh_token=first["refresh_token"]).status_code == 400
    stored = [str(item) for row in server.session.execute(text("SELECT * FROM tokens")) for item in row]
    stored += [str(item) for row in server.session.execute(text("SELECT * FROM clients")) for item in row]
    for secret in (*first.values(), *second.values(), "SENTINEL"):
        assert len(str(secret)) < 8 or not any(str(secret) in item for item in stored if not item.startswith("Bearer"))
    assert server.post("/revoke", token=second["refresh_token"]).status_code == 200
    assert server.me(second["access_token"])[0] == 401
    assert server.post("/token", grant_type="refresh_token", refresh_token=second["refresh_token"]).status_code == 400


def test_a_digest_that_was_copied_lets_no_one_in(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """An attacker writes the digest of a token of their own into the row of another user."""
    monkeypatch.setenv("AUTHLIB_INSECURE_TRANSPORT", "1")
    own = server.post("/token", grant_type="password", username="8", password="other").get_json()["access_token"]
    victim = server.post("/token", grant_type="password", username="7", password="SENTINEL-password").get_json()
    assert (server.me(own), server.me(victim["access_token"])) == ((200, "8"), (200, "7"))
    digests = dict(server.session.execute(text("SELECT user_id, access_token_index FROM tokens")).all())
    server.session.execute(text("UPDATE tokens SET access_token_index = NULL WHERE user_id = 8"))
    server.session.execute(
        text("UPDATE tokens SET access_token_index = :digest WHERE user_id = 7"), {"digest": digests[8]}
    )
    server.session.commit()
    assert server.session.query(Token).filter_by(access_token=own).one().user_id == 7
    assert server.me(own)[0] == 401


async def _use_access_tokens(url: str) -> None:
    pytest.importorskip(
        "fastapi_users_db_sqlalchemy",
        reason="fastapi-users' adapter allows no SQLAlchemy 2.1; `nox` installs it beside SQLAlchemy 2.0",
    )
    from fastapi_users_db_sqlalchemy import SQLAlchemyBaseUserTableUUID
    from fastapi_users_db_sqlalchemy.access_token import (
        SQLAlchemyAccessTokenDatabase,
        SQLAlchemyBaseAccessTokenTableUUID,
    )
    from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

    class Base(DeclarativeBase):
        pass

    class Person(SQLAlchemyBaseUserTableUUID, Base):
        pass

    class AccessToken(SQLAlchemyBaseAccessTokenTableUUID, Base):
        id: Mapped[int] = mapped_column(primary_key=True)  # the token cannot be the primary key any more
        token: Mapped[str] = mapped_column(EncryptedString("accesstoken.token"))
        token_index: Mapped[str] = mapped_column(BlindIndex("accesstoken.token"), unique=True)

    engine = attach_key_ring(create_async_engine(url), RING)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with AsyncSession(engine, expire_on_commit=False) as session:
        person = Person(id=uuid.uuid4(), email="a@example.org", hashed_password="x")
        session.add(person)
        await session.commit()
        tokens: Any = SQLAlchemyAccessTokenDatabase(session, AccessToken)
        created = await tokens.create({"token": "SENTINEL-token", "user_id": person.id})
        assert (await tokens.get_by_token("SENTINEL-token")) is created
        assert (await tokens.get_by_token("other")) is None
        stored = (await session.execute(text("SELECT token FROM accesstoken"))).scalar_one()
        assert stored.startswith("sealchemy:v1:")
        await tokens.update(created, {"token": "changed"})
        assert (await tokens.get_by_token("SENTINEL-token")) is None
        await tokens.delete(await tokens.get_by_token("changed"))
        assert (await tokens.get_by_token("changed")) is None
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.drop_all)
    await engine.dispose()


@pytest.mark.parametrize("driver", ["sqlite+aiosqlite", "postgresql+asyncpg"])
def test_access_tokens_of_fastapi_users(driver: str, request: pytest.FixtureRequest) -> None:
    url = "sqlite+aiosqlite://"
    if driver.startswith("postgresql"):
        url = request.getfixturevalue("postgresql_database").replace("postgresql+psycopg", driver)
    asyncio.run(_use_access_tokens(url))
