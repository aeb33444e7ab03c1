"""The provider that comes with the package answers as the RFCs say."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import pytest
import requests

from sealchemy import ReauthorizationRequiredError
from sealchemy.integrations import OAuthClient, TokenGrant
from sealchemy.integrations.loopback_provider import make

if TYPE_CHECKING:
    from collections.abc import Iterator

CALLBACK = "http://127.0.0.1/callback?of=app"


@contextmanager
def provider(lifetime: float = 60) -> Iterator[str]:
    with make(0, lifetime) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def client_of(url: str) -> OAuthClient:
    return OAuthClient(
        "client",
        "secret",
        authorization_endpoint=f"{url}/authorize",
        token_endpoint=f"{url}/token",
        revocation_endpoint=f"{url}/revoke",
    )


def ask(client: OAuthClient) -> tuple[str, str]:
    asked = client.authorization_request(CALLBACK)
    answer = requests.get(asked.url, allow_redirects=False, timeout=10)
    query = parse_qs(urlsplit(answer.headers["Location"]).query)
    assert answer.headers["Location"].startswith(f"{CALLBACK}&code=")
    assert query["state"] == [asked.state]
    return query["code"][0], asked.code_verifier


def connect(client: OAuthClient) -> TokenGrant:
    code, verifier = ask(client)
    return client.exchange_code(code, CALLBACK, verifier)


def name(url: str, token: str) -> tuple[int, str | None]:
    answer = requests.get(f"{url}/me", headers={"Authorization": f"Bearer {token}"}, timeout=10)
    return answer.status_code, answer.headers.get("WWW-Authenticate")


def test_a_refresh_token_works_once_and_an_access_token_until_it_expires() -> None:
    with provider(lifetime=0.3) as url:
        client = client_of(url)
        grant = connect(client)
        assert name(url, grant.access_token) == (200, None)
        time.sleep(0.3)
        assert name(url, grant.access_token) == (401, 'Bearer error="invalid_token"')
        renewed = client.refresh(str(grant.refresh_token))
        assert name(url, renewed.access_token) == (200, None)
        assert renewed.refresh_token != grant.refresh_token
        with pytest.raises(ReauthorizationRequiredError):
            client.refresh(str(grant.refresh_token))


def test_a_revoked_token_is_refused() -> None:
    with provider() as url:
        client = client_of(url)
        grant = connect(client)
        client.revoke(grant.access_token)
        assert name(url, grant.access_token)[0] == 401
        client.revoke(str(grant.refresh_token))
        client.revoke(str(grant.refresh_token))
        with pytest.raises(ReauthorizationRequiredError):
            client.refresh(str(grant.refresh_token))


@pytest.mark.parametrize(
    "wrong", [{"code_verifier": "x" * 64}, {"code_verifier": ""}, {"redirect_uri": "http://127.0.0.1/"}, {"code": "x"}]
)
def test_a_code_is_exchanged_as_it_was_asked_for_and_once(wrong: dict[str, str]) -> None:
    with provider() as url:
        code, verifier = ask(client_of(url))
        right = {
            "grant_type": "authorization_code",
            "code": code,
            "code_verifier": str(verifier),
            "redirect_uri": CALLBACK,
        }
        refused = requests.post(f"{url}/token", data={**right, **wrong}, timeout=10)
        assert (refused.status_code, refused.json()) == (400, {"error": "invalid_grant"})
        again = requests.post(f"{url}/token", data=right, timeout=10)
        assert again.status_code == (200 if "code" in wrong else 400)
        assert requests.post(f"{url}/token", data=right, timeout=10).status_code == 400


def test_what_it_does_not_know_is_an_error_and_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    with provider() as url:
        for path, data, error in (
            ("/token", {"grant_type": "password"}, "unsupported_grant_type"),
            ("/token", {"code": "x" * 100_001}, "invalid_request"),
            ("/authorize?redirect_uri=javascript:alert(1)", None, "invalid_request"),
        ):
            answer = requests.request("POST" if data else "GET", url + path, data=data, timeout=10)
            assert (answer.status_code, answer.json()) == (400, {"error": error})
        assert requests.get(f"{url}/token", timeout=10).status_code == 404
    assert capfd.readouterr() == ("", "")
