"""The caches of google-auth and MSAL, kept in an encrypted column by what these libraries offer for it."""

from __future__ import annotations

import base64
import hashlib
import json
import ssl
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import msal
import pytest
import requests
from google.auth.exceptions import RefreshError
from google.auth.transport.requests import Request
from google.oauth2.credentials import Credentials
from google_auth_oauthlib.flow import Flow
from sqlalchemy import create_engine, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sealchemy import EncryptedJSON, EncryptedString, KeyRing, attach_key_ring
from tests.support import provider as authlib_server
from tests.support.authority import Authority
from tests.support.provider import CLIENT_ID, CLIENT_SECRET

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy import Engine

    from tests.support.provider import Provider

CALLBACK = "http://127.0.0.1/callback"


class Base(DeclarativeBase):
    pass


class Account(Base):
    __tablename__ = "accounts"

    id: Mapped[int] = mapped_column(primary_key=True)
    google: Mapped[Any] = mapped_column(EncryptedJSON("accounts.google"), nullable=True)
    msal: Mapped[str | None] = mapped_column(EncryptedString("accounts.msal"))


@pytest.fixture
def engine(url: str, ring: KeyRing) -> Iterator[Engine]:
    found = attach_key_ring(create_engine(url), ring)
    Base.metadata.create_all(found)
    yield found
    found.dispose()


def stored(engine: Engine, column: str) -> str:
    with engine.connect() as connection:
        return str(connection.scalar(text(f"SELECT {column} FROM accounts")))


def consent(address: str, verify: str | bool = True) -> str:
    """Consent as the user does in a browser, and return the URL to which the provider sends them back."""
    answer = requests.get(address, allow_redirects=False, timeout=10, verify=verify)
    return answer.headers["Location"]


def test_credentials_of_google_auth(engine: Engine, oauth_provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OAUTHLIB_INSECURE_TRANSPORT", "1")
    monkeypatch.setattr("google.oauth2.credentials._GOOGLE_OAUTH2_TOKEN_ENDPOINT", f"{oauth_provider.url}/token")
    client = {
        "client_id": CLIENT_ID,
        "client_secret": CLIENT_SECRET,
        "auth_uri": f"{oauth_provider.url}/authorize",
        "token_uri": f"{oauth_provider.url}/token",
    }
    flow = Flow.from_client_config({"web": client}, ["calendar"], redirect_uri=CALLBACK)
    flow.fetch_token(authorization_response=consent(flow.authorization_url()[0]))
    first = oauth_provider.tokens[-1].access_token
    with Session(engine) as session:
        session.add(Account(google=json.loads(flow.credentials.to_json())))
        session.commit()
    assert stored(engine, "google").startswith("sealchemy:v1:")

    with Session(engine) as session:
        account = session.scalars(select(Account)).one()
        assert "SENTINEL" not in repr(account.google)
        credentials = Credentials.from_authorized_user_info(account.google)
        assert credentials.token == first
        credentials.refresh(Request())
        account.google = json.loads(credentials.to_json())
        session.commit()
    with Session(engine) as session:
        credentials = Credentials.from_authorized_user_info(session.scalars(select(Account)).one().google)
    assert credentials.token == oauth_provider.tokens[-1].access_token != first
    answer = requests.get(
        f"{oauth_provider.url}/calendar", headers={"Authorization": f"Bearer {credentials.token}"}, timeout=10
    )
    assert answer.status_code == 200
    oauth_provider.end(oauth_provider.tokens[-1].family)
    with pytest.raises(RefreshError):
        credentials.refresh(Request())


def id_token(issuer: str, nonce: str) -> str:
    """Return an ID token, whose signature MSAL leaves to TLS (OpenID Connect Core, section 3.1.3.7)."""
    now = int(time.time())
    claims = {"iss": issuer, "sub": "ann", "aud": CLIENT_ID, "iat": now, "exp": now + 3600, "nonce": nonce}
    claims |= {"oid": "ann", "tid": "tenant", "preferred_username": "ann@example.com"}
    parts = [{"alg": "none"}, claims]
    encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts]
    return ".".join([*encoded, ""])


@pytest.mark.filterwarnings("ignore:response_mode")
def test_the_cache_of_msal(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority(tmp_path)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", authority.file)
    with authlib_server.running(authority.context(ssl.CERT_NONE)) as provider:
        provider.discovery = {
            "issuer": f"{provider.url}/tenant",
            "authorization_endpoint": f"{provider.url}/authorize",
            "token_endpoint": f"{provider.url}/token",
        }

        def application(cache: msal.SerializableTokenCache) -> Any:
            return msal.ConfidentialClientApplication(
                CLIENT_ID, CLIENT_SECRET, oidc_authority=f"{provider.url}/tenant", token_cache=cache
            )

        cache = msal.SerializableTokenCache()
        app = application(cache)
        flow = app.initiate_auth_code_flow(["calendar"], redirect_uri=CALLBACK)
        provider.id_token = id_token(f"{provider.url}/tenant", hashlib.sha256(flow["nonce"].encode()).hexdigest())
        returned = consent(flow["auth_uri"], authority.file)
        parameters = {name: found[0] for name, found in parse_qs(urlsplit(returned).query).items()}
        first = app.acquire_token_by_auth_code_flow(flow, parameters)
        assert first["access_token"] == provider.tokens[-1].access_token
        with Session(engine) as session:
            session.add(Account(msal=cache.serialize()))
            session.commit()
        assert stored(engine, "msal").startswith("sealchemy:v1:")

        for forced in (False, True):
            cache = msal.SerializableTokenCache()
            with Session(engine) as session:
                account = session.scalars(select(Account)).one()
                assert "SENTINEL" not in repr(account.msal)
                cache.deserialize(account.msal)
                app = application(cache)
                found = app.acquire_token_silent(["calendar"], app.get_accounts()[0], force_refresh=forced)
                assert found["access_token"] == provider.tokens[-1].access_token
                assert (found["access_token"] == first["access_token"]) is not forced
                if cache.has_state_changed:
                    account.msal = cache.serialize()
                session.commit()
        assert provider.tokens[-1].access_token not in stored(engine, "msal")
