"""Connecting, refreshing, reuse and revocation at an authorization server that is not ours."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from joserfc.jwk import ECKey
from sqlalchemy import create_engine, select, update
from sqlalchemy.orm import Session, sessionmaker

from sealchemy import (
    IntegrationNotFoundError,
    Key,
    KeyRing,
    ReauthorizationRequiredError,
    RefreshFailedError,
    attach_key_ring,
)
from sealchemy.integrations import (
    Base,
    Integration,
    OAuthClient,
    TokenGrant,
    disconnect_integration,
    get_valid_token,
    upsert_integration,
)
from tests.support import oidc_provider, processes
from tests.support.authority import Authority
from tests.support.integrations import WHOSE
from tests.support.oidc_provider import CALLBACK, OidcProvider, consent

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def provider() -> Iterator[OidcProvider]:
    with oidc_provider.running() as found:
        yield found


class Place:
    """A database with the integration of a user who has just connected."""

    def __init__(self, url: str, provider: OidcProvider) -> None:
        self.key, self.provider = Key.generate(), provider
        self.engine = attach_key_ring(create_engine(url), KeyRing(primary=self.key))
        self.sessions = sessionmaker(self.engine)
        Base.metadata.create_all(self.engine)
        self.arguments = {"url": url, "keys": [self.key.reveal()], "token_endpoint": f"{provider.url}/token"}
        self.connect()

    def connect(self) -> TokenGrant:
        client = self.provider.client()
        asked = client.authorization_request(CALLBACK)
        returned = consent(asked.url)
        assert returned["state"] == asked.state
        grant = client.exchange_code(returned["code"], CALLBACK, asked.code_verifier)
        with self.sessions.begin() as session:
            upsert_integration(session, **WHOSE, grant=grant)
        return grant

    def token(self) -> str:
        return get_valid_token(self.sessions, **WHOSE, client=self.provider.client())

    def expire(self) -> None:
        with self.sessions.begin() as session:
            session.execute(update(Integration).values(expires_at=datetime(2020, 1, 1, tzinfo=UTC)))

    def read(self, column: object) -> object:
        with Session(self.engine) as session:
            return session.scalars(select(column)).one()


@pytest.fixture
def place(database_url: str, provider: OidcProvider) -> Iterator[Place]:
    found = Place(database_url, provider)
    yield found
    found.engine.dispose()


def test_a_grant_is_refreshed_and_its_new_refresh_token_is_kept(place: Place) -> None:
    first, sent = place.token(), place.read(Integration.refresh_token)
    assert place.provider.accepts(first)
    for _ in range(3):
        place.expire()
        token = place.token()
        assert token != first
        assert place.provider.accepts(token)
    assert place.read(Integration.refresh_token) != sent


@pytest.mark.slow
def test_callers_in_four_processes_are_served_by_one_refresh(place: Place) -> None:
    place.expire()
    before = place.provider.counts()
    started = [processes.start("callers", **place.arguments, count=8) for _ in range(4)]
    printed = [process.communicate(timeout=120)[0].splitlines()[-1] for process in started]
    tokens = {token for line in printed for token in json.loads(line)}
    assert tokens == {str(place.token())}
    assert place.provider.accepts(tokens.pop())
    after = place.provider.counts()
    assert after["refresh_token 200"] == before.get("refresh_token 200", 0) + 1
    assert after.get("refresh_token 400") == before.get("refresh_token 400")


def test_a_grant_whose_refresh_token_was_reused_is_marked_until_the_user_connects_again(place: Place) -> None:
    sent = place.read(Integration.refresh_token)
    place.provider.client().refresh(str(sent))  # somebody else, with a copy
    place.expire()
    for _ in range(2):
        with pytest.raises(ReauthorizationRequiredError) as caught:
            place.token()
        assert caught.value.code == "invalid_grant"
    assert place.read(Integration.reauthorization_required)
    assert place.read(Integration.last_error) == "invalid_grant"

    place.connect()
    assert not place.read(Integration.reauthorization_required)
    assert place.provider.accepts(place.token())


def test_a_disconnected_grant_is_revoked(place: Place) -> None:
    token, refresh_token = str(place.token()), str(place.read(Integration.refresh_token))
    disconnect_integration(place.sessions, **WHOSE, client=place.provider.client())
    assert not place.provider.accepts(token)
    with pytest.raises(ReauthorizationRequiredError):
        place.provider.client().refresh(refresh_token)
    with pytest.raises(IntegrationNotFoundError):
        place.token()


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with certificates, and the keys of a client."""
    folder = tmp_path_factory.mktemp("keys")
    authority, key = Authority(folder), ECKey.generate_key("P-256")
    for name in ("localhost", "client.example"):
        authority.files(name)
    (folder / "jwks.json").write_text(json.dumps({"keys": [key.as_dict(private=False, kid="k1")]}))
    (folder / "client.key").write_bytes(key.as_pem(private=True))
    return folder


@pytest.fixture(scope="module")
def tls_provider(keys: Path) -> Iterator[OidcProvider]:
    with oidc_provider.running(keys) as found:
        yield found


def client_with(provider: OidcProvider, keys: Path, name: str, **how: Any) -> OAuthClient:
    return OAuthClient(name, None, f"{provider.url}/token", verify=keys / "authority.pem", **how)


def test_private_key_jwt(tls_provider: OidcProvider, keys: Path) -> None:
    how = {"auth_method": "private_key_jwt", "assertion_headers": {"kid": "k1"}}
    key = (keys / "client.key").read_text()
    right = client_with(tls_provider, keys, "client-jwt", **how, private_key=key)
    assert right.request_client_credentials().access_token
    other = ECKey.generate_key("P-256").as_pem(private=True).decode()
    with pytest.raises(RefreshFailedError, match="invalid_client"):
        client_with(tls_provider, keys, "client-jwt", **how, private_key=other).request_client_credentials()


def test_a_client_certificate(tls_provider: OidcProvider, keys: Path) -> None:
    how = {"auth_method": "tls_client_auth"}
    files = (keys / "client.example.pem", keys / "client.example.key")
    right = client_with(tls_provider, keys, "client-tls", **how, client_certificate=files)
    assert right.request_client_credentials().access_token
    files = (keys / "localhost.pem", keys / "localhost.key")  # of the same authority, but of another name
    with pytest.raises(RefreshFailedError, match="invalid_client"):
        client_with(tls_provider, keys, "client-tls", **how, client_certificate=files).request_client_credentials()
