"""Flask-Dance, python-social-auth and Flask-Session keep what they store encrypted, through their own code."""

from __future__ import annotations

import json
import warnings
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import flask_session.sqlalchemy.sqlalchemy
import pytest
import requests
from flask import Flask, session
from flask_dance.consumer import OAuth2ConsumerBlueprint
from flask_dance.consumer.storage.sqla import OAuthConsumerMixin, SQLAlchemyStorage
from flask_session import Session as ServerSideSession
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import Column, ForeignKey, Integer, String, create_engine, select, text
from sqlalchemy.ext.mutable import MutableDict
from sqlalchemy.orm import DeclarativeBase, Session, backref, relationship

from sealchemy import EncryptedBytes, EncryptedJSON, Key, KeyRing, attach_key_ring
from tests.support.provider import CLIENT_ID, CLIENT_SECRET

with warnings.catch_warnings():  # python3-openid and six are old
    warnings.simplefilter("ignore")
    from social_core.backends.oauth import BaseOAuth2PKCE
    from social_core.strategy import BaseStrategy
    from social_sqlalchemy.storage import (
        BaseSQLAlchemyStorage,
        SQLAlchemyNonceMixin,
        SQLAlchemyPartialMixin,
        SQLAlchemyUserMixin,
    )

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.provider import Provider

RING = KeyRing(primary=Key.generate())


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'test.db'}"
    return request.getfixturevalue("postgresql_url")


def stored(url: str, sql: str) -> list[str]:
    engine = create_engine(url)
    with engine.connect() as connection:
        found = list(connection.scalars(text(sql)))
    engine.dispose()
    return found


def consent(address: str) -> dict[str, str]:
    """Consent as the user does in a browser, and return the parameters that the provider sends back."""
    answer = requests.get(address, allow_redirects=False, timeout=10)
    return {name: found[0] for name, found in parse_qs(urlsplit(answer.headers["Location"]).query).items()}


def test_flask_dance_stores_and_refreshes(url: str, oauth_provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OAUTHLIB_INSECURE_TRANSPORT", "1")
    app = Flask("dance")
    app.config.update(SQLALCHEMY_DATABASE_URI=url, SECRET_KEY="test")
    db = SQLAlchemy(app)

    class OAuth(OAuthConsumerMixin, db.Model):
        token = db.Column(MutableDict.as_mutable(EncryptedJSON("oauth.token")), nullable=False)

    endpoint, credentials = f"{oauth_provider.url}/token", {"client_id": CLIENT_ID, "client_secret": CLIENT_SECRET}
    blueprint = OAuth2ConsumerBlueprint(
        "provider",
        "dance",
        **credentials,
        base_url=oauth_provider.url,
        token_url=endpoint,
        authorization_url=f"{oauth_provider.url}/authorize",
        auto_refresh_url=endpoint,
        auto_refresh_kwargs=credentials,
        scope="calendar",
        code_challenge_method="S256",
        storage=SQLAlchemyStorage(OAuth, db.session),
    )
    app.register_blueprint(blueprint, url_prefix="/login")
    with app.app_context():
        attach_key_ring(db.engine, RING)
        db.create_all()
    browser = app.test_client()
    answer = browser.get("/login/provider", base_url="http://127.0.0.1")
    answer = browser.get(
        "/login/provider/authorized", query_string=consent(answer.headers["Location"]), base_url="http://127.0.0.1"
    )
    assert answer.status_code == 302
    (before,) = stored(url, "SELECT token FROM flask_dance_oauth")
    assert before.startswith("sealchemy:v1:")
    first = json.loads(RING.decrypt(before, "oauth.token"))
    assert first["access_token"] == oauth_provider.tokens[-1].access_token

    with app.test_request_context():
        assert blueprint.session.get("/calendar").status_code == 200
        row = db.session.scalars(select(OAuth)).one()
        row.token["expires_at"] = 1  # a change inside, which MutableDict notices
        db.session.commit()
    with app.test_request_context():
        assert blueprint.session.get("/calendar").status_code == 200
    (after,) = stored(url, "SELECT token FROM flask_dance_oauth")
    assert after.startswith("sealchemy:v1:")
    second = json.loads(RING.decrypt(after, "oauth.token"))
    assert second["access_token"] == oauth_provider.tokens[-1].access_token != first["access_token"]
    assert oauth_provider.counts["/token"] == 2
    with app.app_context():
        db.engine.dispose()


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"
    id = Column(Integer, primary_key=True)
    username = Column(String(50))
    email = Column(String(50))

    @property
    def is_active(self) -> bool:
        return True


class InSession:
    opened: ClassVar[Session]

    @classmethod
    def _session(cls) -> Session:
        return InSession.opened


class Nonce(InSession, SQLAlchemyNonceMixin, Base):
    pass


class Partial(InSession, SQLAlchemyPartialMixin, Base):
    data = Column(MutableDict.as_mutable(EncryptedJSON("social.partial_data")))


class UserSocialAuth(InSession, SQLAlchemyUserMixin, Base):
    uid = Column(String(50))
    user_id = Column(Integer, ForeignKey(User.id), nullable=False)
    user = relationship(User, backref=backref("social_auth"))
    extra_data = Column(MutableDict.as_mutable(EncryptedJSON("social.extra_data")))

    @classmethod
    def user_model(cls) -> type[User]:
        return User

    @classmethod
    def username_max_length(cls) -> int:
        return 50


class Storage(BaseSQLAlchemyStorage):
    user, nonce, partial = UserSocialAuth, Nonce, Partial


class Strategy(BaseStrategy):
    """A web framework in memory."""

    def __init__(self, provider: Provider) -> None:
        super().__init__(Storage)
        self.settings = {"SOCIAL_AUTH_CALENDAR_KEY": CLIENT_ID, "SOCIAL_AUTH_CALENDAR_SECRET": CLIENT_SECRET}
        self.provider, self.session, self.data = provider, {}, {}

    def get_backend(self, *_: object, **__: object) -> BaseOAuth2PKCE:
        return backend(self.provider, self)

    def get_setting(self, name: str) -> Any:
        return self.settings[name]

    def request_data(self, merge: bool = True) -> Any:
        return self.data

    def session_get(self, name: str, default: Any = None) -> Any:
        return self.session.get(name, default)

    def session_set(self, name: str, value: Any) -> None:
        self.session[name] = value

    def session_pop(self, name: str) -> Any:
        return self.session.pop(name, None)

    def build_absolute_uri(self, path: str | None = None) -> str:
        return f"http://127.0.0.1{path or ''}"

    def redirect(self, url: str) -> str:
        return url


def backend(provider: Provider, strategy: Strategy) -> BaseOAuth2PKCE:
    class Calendar(BaseOAuth2PKCE):
        name = "calendar"
        AUTHORIZATION_URL = f"{provider.url}/authorize"
        ACCESS_TOKEN_URL = f"{provider.url}/token"
        DEFAULT_SCOPE: ClassVar[list[str]] = ["calendar"]
        ACCESS_TOKEN_METHOD = "POST"
        REDIRECT_STATE = False
        EXTRA_DATA: ClassVar[list[Any]] = [("refresh_token", "refresh_token", True), ("expires_in", "expires_in")]

        def get_user_details(self, response: Any) -> dict[str, str]:
            return {"username": "ann", "email": "ann@example.com"}

        def get_user_id(self, details: Any, response: Any) -> str:
            return "ann"

        def user_data(self, access_token: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
            headers = {"Authorization": f"Bearer {access_token}"}
            return requests.get(f"{provider.url}/calendar", headers=headers, timeout=10).json()

    return Calendar(strategy, redirect_uri="/complete")


def test_python_social_auth_stores_and_refreshes(url: str, oauth_provider: Provider) -> None:
    engine = attach_key_ring(create_engine(url), RING)
    Base.metadata.create_all(engine)
    with Session(engine) as opened:
        InSession.opened = opened
        strategy = Strategy(oauth_provider)
        strategy.data = consent(strategy.get_backend().start())
        user = strategy.get_backend().complete(user=None)
        assert isinstance(user, User)
        social = UserSocialAuth.get_social_auth("calendar", "ann")
        granted = oauth_provider.tokens[-1]
        assert social.access_token == granted.access_token
        assert social.extra_data["refresh_token"] == granted.refresh_token
        assert granted.access_token not in repr(social.extra_data)
        (before,) = stored(url, "SELECT extra_data FROM social_auth_usersocialauth")

        social.refresh_token(strategy)
        renewed = oauth_provider.tokens[-1]
        assert renewed.access_token != granted.access_token
    with Session(engine) as opened:
        InSession.opened = opened
        social = UserSocialAuth.get_social_auth("calendar", "ann")
        assert social.access_token == renewed.access_token
    (after,) = stored(url, "SELECT extra_data FROM social_auth_usersocialauth")
    assert before != after
    for value in (before, after):
        assert value.startswith("sealchemy:v1:")
    engine.dispose()


def test_flask_session_stores_bytes(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    app = Flask("sessions")
    app.config.update(SQLALCHEMY_DATABASE_URI=url, SESSION_TYPE="sqlalchemy", SECRET_KEY="test")
    app.config["SESSION_SQLALCHEMY"] = db = SQLAlchemy(app)
    with app.app_context():
        attach_key_ring(db.engine, RING)
    monkeypatch.setattr(flask_session.sqlalchemy.sqlalchemy, "LargeBinary", EncryptedBytes("sessions.data"))
    ServerSideSession(app)

    @app.route("/<token>")
    def keep(token: str) -> str:
        before = session.get("token", "")
        session["token"] = token
        return before

    browser = app.test_client()
    assert browser.get("/SENTINEL-1").text == ""
    (first,) = stored(url, "SELECT data FROM sessions")
    assert browser.get("/SENTINEL-2").text == "SENTINEL-1"
    assert browser.get("/SENTINEL-3").text == "SENTINEL-2"
    (last,) = stored(url, "SELECT data FROM sessions")
    assert first != last
    for value in (first, last):
        assert value.startswith("sealchemy:v1:")
    with app.app_context():
        model = app.session_interface.sql_session_model
        assert "SENTINEL" not in repr(db.session.scalars(select(model)).one())
        db.session.close()
        db.engine.dispose()
