"""Each preset, against a stand-in that answers as the provider's documentation says."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest
from sqlalchemy import select, update

from sealchemy import IntegrationError, ReauthorizationRequiredError, RefreshFailedError
from sealchemy.integrations import (
    Base,
    Integration,
    OAuthClient,
    disconnect_integration,
    get_valid_token,
    providers,
    upsert_integration,
)
from sealchemy.integrations.failures import is_refusal
from sealchemy.integrations.waiting import Waiting
from tests.support.leaks import assert_silent
from tests.support.provider import Answer
from tests.support.stand_ins import CLIENT_ID, CLIENT_SECRET, SHOP, STAND_INS, Running, running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Engine
    from sqlalchemy.orm import Session, sessionmaker

    from tests.support.provider import Provider

SECRETS = ("SENTINEL-access-1", "SENTINEL-refresh-1", "SENTINEL-code-1", CLIENT_SECRET)
CALLBACK = "https://app.example/callback"


@pytest.fixture(params=STAND_INS)
def stand_in(request: pytest.FixtureRequest) -> Iterator[Running]:
    with running(STAND_INS[request.param]) as found:
        yield found


@pytest.fixture
def sessions(make_engine: Callable[..., Engine]) -> sessionmaker[Session]:
    from sqlalchemy.orm import sessionmaker

    engine = make_engine()
    Base.metadata.create_all(engine)
    return sessionmaker(engine)


def client_of(stand_in: Running, **more: Any) -> OAuthClient:
    return OAuthClient(client_id=CLIENT_ID, client_secret=CLIENT_SECRET, **stand_in.parameters(), **more)


def connect(stand_in: Running, sessions: sessionmaker[Session]) -> dict[str, Any]:
    """Connect as an application does, and return what names the row."""
    client = client_of(stand_in)
    asked = client.authorization_request(CALLBACK)
    query = {name: values[0] for name, values in parse_qs(urlsplit(asked.url).query).items()}
    wanted = {"response_type": "code", "redirect_uri": CALLBACK, **stand_in.stand_in.asked}
    assert {name: query.get(name) for name in wanted} == wanted
    assert ("code_challenge" in query) is bool(asked.code_verifier)
    grant = client.exchange_code("SENTINEL-code-1", CALLBACK, asked.code_verifier)
    with sessions.begin() as session:
        upsert_integration(session, user_id="u1", provider="p", grant=grant)
    assert grant.access_token == "SENTINEL-access-1"
    assert "SENTINEL" not in repr(grant)
    return {"user_id": "u1", "provider": "p", "client": client}


def expire(sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as session:
        past = datetime.now(UTC) - timedelta(days=1)
        session.execute(update(Integration).values(expires_at=past, next_attempt_at=None))


def row(sessions: sessionmaker[Session]) -> Any:
    m = Integration
    columns = (m.access_token, m.refresh_token, m.details, m.reauthorization_required, m.failures, m.last_error)
    with sessions() as session:
        return session.execute(select(*columns)).one_or_none()


def test_connect_refresh_and_revoke(stand_in: Running, sessions: sessionmaker[Session]) -> None:
    whose, wanted = connect(stand_in, sessions), stand_in.stand_in
    expire(sessions)
    assert get_valid_token(sessions, **whose) == "SENTINEL-access-2"
    found = row(sessions)
    if "refresh_token" in wanted.connect or "authed_user" in wanted.connect:
        assert found.refresh_token == wanted.refresh.get("refresh_token", "SENTINEL-refresh-1")
    details = {name: value for name, value in wanted.details.items() if value is not ...}
    assert {name: (found.details or {}).get(name) for name in wanted.details}.items() >= details.items()
    if "refresh_token_expires_at" in wanted.details:
        assert datetime.fromisoformat(found.details["refresh_token_expires_at"]) > datetime.now(UTC)
    expire(sessions)  # a provider that revokes by the access token takes no expired one
    disconnect_integration(sessions, **whose)
    assert row(sessions) is None
    renewed = (
        ["/token"] if wanted.revoked and wanted.preset.get("revocation", {}).get("token") == "access_token" else []
    )
    assert stand_in.asked == ["/token", "/token", *renewed, *(["/revoke"] if wanted.revoked else [])]
    assert not stand_in.problems


@pytest.mark.parametrize("name", ["zoom", "facebook"])
def test_an_access_token_is_renewed_once_before_it_is_revoked(name: str, sessions: sessionmaker[Session]) -> None:
    """A provider may grant tokens that expire at once, in whatever it says or by a clock that is wrong."""
    item = STAND_INS[name]
    with running(replace(item, refresh={**item.refresh, "expires_in": -5})) as stand_in:
        whose = connect(stand_in, sessions)
        expire(sessions)
        disconnect_integration(sessions, **whose)
    assert row(sessions) is None
    assert stand_in.asked == ["/token", "/token", "/revoke"]


def test_a_disconnect_sends_no_refresh_token_when_its_lease_may_be_over(
    sessions: sessionmaker[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [True, False]
    monkeypatch.setattr(Waiting, "is_late", lambda _waiting, _since: answers.pop(0))
    with running(STAND_INS["zoom"]) as stand_in:
        whose = connect(stand_in, sessions)
        expire(sessions)
        disconnect_integration(sessions, **whose)
    assert answers == []
    assert stand_in.asked == ["/token", "/token", "/revoke"]


def test_a_dead_grant_is_marked(stand_in: Running, sessions: sessionmaker[Session]) -> None:
    whose = connect(stand_in, sessions)
    stand_in.state = "dead"
    for _ in range(1 if stand_in.stand_in.is_named else 5):
        assert not row(sessions).reauthorization_required
        expire(sessions)
        with pytest.raises((ReauthorizationRequiredError, RefreshFailedError)) as caught:
            get_valid_token(sessions, **whose)
        assert_silent(caught.value, *SECRETS)
    assert row(sessions).reauthorization_required
    assert isinstance(caught.value, ReauthorizationRequiredError)
    assert not stand_in.problems


def test_a_client_that_is_not_known_marks_no_grant(stand_in: Running, sessions: sessionmaker[Session]) -> None:
    whose = connect(stand_in, sessions)
    stand_in.state = "unknown client"
    for _ in range(6):
        expire(sessions)
        with pytest.raises(RefreshFailedError, match="check the secret of client") as caught:
            get_valid_token(sessions, **whose)
        assert not is_refusal(caught.value.code)
        assert_silent(caught.value, *SECRETS)
    assert not row(sessions).reauthorization_required


def test_every_preset_has_a_stand_in_and_its_pages() -> None:
    with_stand_in = [item.preset["token_endpoint"] for item in STAND_INS.values()]
    named = {name: getattr(providers, name) for name in providers.__all__ if name.isupper()}
    assert {name for name, preset in named.items() if preset["token_endpoint"] not in with_stand_in} == set()
    for item in STAND_INS.values():
        assert item.pages
        assert all(page.startswith("https://") for page in item.pages)


def test_the_page_of_providers_names_every_preset() -> None:
    page = (Path(__file__).parents[2] / "docs/reference/providers.md").read_text()
    names = {name for name in providers.__all__ if name != "Provider"} | {"discover"}
    assert {name for name in names if not re.search(rf"`{name}[`(]", page)} == set()


@pytest.mark.parametrize("host", ["evil.example", "https://test.salesforce.com", "evil.example/.salesforce.com", ""])
def test_a_host_of_a_preset_is_one_of_the_provider_s(host: str) -> None:
    assert providers.salesforce("my.sandbox.my.salesforce.com")
    for wrong in (
        lambda: providers.salesforce(host),
        lambda: providers.microsoft(f"{host}/x"),
        lambda: providers.gitlab(f"http://{host}"),
    ):
        with pytest.raises(IntegrationError):
            wrong()


@pytest.mark.parametrize("shop", ["evil.example", "a.myshopify.com.evil.example", "evil.example/.myshopify.com", ""])
def test_a_shop_is_a_host_of_shopify(shop: str) -> None:
    assert providers.shopify(SHOP)["token_endpoint"].startswith(f"https://{SHOP}/")
    with pytest.raises(IntegrationError, match="myshopify"):
        providers.shopify(shop)


def test_user_tokens_are_never_those_of_a_bot(oauth_provider: Provider) -> None:
    only_a_bot = {"ok": True, "access_token": "xoxb-SENTINEL", "token_type": "bot", "authed_user": {"id": "U1"}}
    oauth_provider.answers.append(Answer(200, only_a_bot))
    client = oauth_provider.client(response_path=("authed_user",), use_pkce=False)
    with pytest.raises(RefreshFailedError, match="without an access token") as caught:
        client.exchange_code("code", CALLBACK)
    assert_silent(caught.value, "xoxb-SENTINEL")
