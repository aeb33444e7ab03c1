"""The provider that comes with the package answers as the RFCs say."""

from __future__ import annotations

import socket
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests

from sealchemy import IntegrationError, ReauthorizationRequiredError
from sealchemy.integrations import OAuthClient, TokenGrant, loopback_provider
from sealchemy.integrations.loopback_provider import Provider, make

if TYPE_CHECKING:
    from collections.abc import Iterator

CALLBACK = "http://127.0.0.1/callback?of=app"


@dataclass
class Running:
    url: str
    provider: Provider

    def pass_time(self, seconds: float) -> None:
        later = self.provider.clock() + seconds
        self.provider.clock = lambda: later

    def client(self) -> OAuthClient:
        return OAuthClient(
            "client",
            "secret",
            authorization_endpoint=f"{self.url}/authorize",
            token_endpoint=f"{self.url}/token",
            revocation_endpoint=f"{self.url}/revoke",
        )

    def ask(self) -> tuple[str, str]:
        asked = self.client().authorization_request(CALLBACK)
        answer = requests.get(asked.url, allow_redirects=False, timeout=10)
        query = parse_qs(urlsplit(answer.headers["Location"]).query)
        assert answer.headers["Location"].startswith(f"{CALLBACK}&code=")
        assert query["state"] == [asked.state]
        return query["code"][0], asked.code_verifier

    def connect(self) -> TokenGrant:
        code, verifier = self.ask()
        return self.client().exchange_code(code, CALLBACK, verifier)

    def call(self, authorization: str) -> tuple[int, str | None]:
        headers = {"Authorization": authorization} if authorization else {}
        answer = requests.get(f"{self.url}/me", headers=headers, timeout=10)
        return answer.status_code, answer.headers.get("WWW-Authenticate")


@pytest.fixture
def running(capfd: pytest.CaptureFixture[str]) -> Iterator[Running]:
    """Run a provider, which prints nothing."""
    with make(0, 60) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        application: Any = server.get_app()
        yield Running(f"http://127.0.0.1:{server.server_port}", application)
        server.shutdown()
        thread.join()
    assert capfd.readouterr() == ("", "")


def test_a_refresh_token_works_once_and_an_access_token_until_it_expires(running: Running) -> None:
    client, grant = running.client(), running.connect()
    assert grant.expires_in == 60
    assert running.call(f"Bearer {grant.access_token}") == (200, None)
    assert running.call(f"bearer {grant.access_token}") == (200, None)
    running.pass_time(60)
    assert running.call(f"Bearer {grant.access_token}") == (401, 'Bearer error="invalid_token"')
    renewed = client.refresh(str(grant.refresh_token))
    assert running.call(f"Bearer {renewed.access_token}") == (200, None)
    assert renewed.refresh_token != grant.refresh_token
    with pytest.raises(ReauthorizationRequiredError):
        client.refresh(str(grant.refresh_token))


def test_only_a_bearer_token_is_taken(running: Running) -> None:
    token = str(running.connect().access_token)
    assert running.call("") == (401, "Bearer")
    assert running.call(token)[0] == 401
    assert running.call(f"Basic {token}")[0] == 401


def test_a_revoked_refresh_token_takes_its_access_token_along(running: Running) -> None:
    client, grant = running.client(), running.connect()
    client.revoke(str(grant.refresh_token))
    client.revoke(str(grant.refresh_token))
    assert running.call(f"Bearer {grant.access_token}")[0] == 401
    with pytest.raises(ReauthorizationRequiredError):
        client.refresh(str(grant.refresh_token))


def test_a_revoked_access_token_is_refused(running: Running) -> None:
    client, grant = running.client(), running.connect()
    client.revoke(grant.access_token)
    assert running.call(f"Bearer {grant.access_token}")[0] == 401
    assert client.refresh(str(grant.refresh_token)).access_token


@pytest.mark.parametrize(
    "wrong", [{"code_verifier": "x" * 64}, {"code_verifier": ""}, {"redirect_uri": "http://127.0.0.1/"}, {"code": "x"}]
)
def test_a_code_is_exchanged_as_it_was_asked_for_and_once(running: Running, wrong: dict[str, str]) -> None:
    code, verifier = running.ask()
    right = {
        "grant_type": "authorization_code",
        "code": code,
        "code_verifier": str(verifier),
        "redirect_uri": CALLBACK,
    }
    refused = requests.post(f"{running.url}/token", data={**right, **wrong}, timeout=10)
    assert (refused.status_code, refused.json()) == (400, {"error": "invalid_grant"})
    again = requests.post(f"{running.url}/token", data=right, timeout=10)
    assert again.status_code == (200 if "code" in wrong else 400)
    assert requests.post(f"{running.url}/token", data=right, timeout=10).status_code == 400


def test_a_code_ends(running: Running) -> None:
    code, verifier = running.ask()
    running.pass_time(60)
    with pytest.raises(IntegrationError):
        running.client().exchange_code(code, CALLBACK, verifier)


ASK = {"response_type": "code", "client_id": "c", "redirect_uri": CALLBACK}


@pytest.mark.parametrize(
    "changes",
    [
        {"redirect_uri": "javascript:alert(1)"},
        {"redirect_uri": "https://app.example/callback"},
        {"redirect_uri": "http://127.0.0.1/#fragment"},
        {"redirect_uri": "http://127.0.0.1/\r\nSet-Cookie: a=b\r\n\r\n<script>"},
        {"redirect_uri": "http://127.0.0.1/\u0436"},
        {"redirect_uri": "http://["},
        {"redirect_uri": "http://evil.example\\@localhost/x"},
        {"redirect_uri": "http://user@localhost/x"},
        {"redirect_uri": "http://127.0.0.1/#"},
        {"redirect_uri": "http://127.0.0.1:99999/"},
        {"redirect_uri": "http:localhost"},
        {"redirect_uri": ""},
        {"redirect_uri": ["http://127.0.0.1/a", "http://127.0.0.1/b"]},
        {"response_type": "token"},
        {"client_id": ""},
        {"code_challenge": "x", "code_challenge_method": "plain"},
        {"code_challenge": "x"},
    ],
)
def test_a_malformed_request_gets_no_code(running: Running, changes: dict[str, Any]) -> None:
    assert requests.get(f"{running.url}/authorize", params=ASK, allow_redirects=False, timeout=10).status_code == 302
    asked = {**ASK, **changes}
    answer = requests.get(f"{running.url}/authorize", params=asked, allow_redirects=False, timeout=10)
    assert (answer.status_code, answer.json()) == (400, {"error": "invalid_request"})
    assert "Set-Cookie" not in answer.headers


@pytest.mark.parametrize(
    ("path", "data", "headers", "error"),
    [
        ("/token", "grant_type=password", {}, "unsupported_grant_type"),
        ("/token", "", {}, "invalid_request"),
        ("/token", "grant_type=refresh_token", {}, "invalid_request"),
        ("/token", "grant_type=refresh_token&refresh_token=a&refresh_token=b", {}, "invalid_request"),
        ("/token", "code=" + "x" * 100_001, {}, "invalid_request"),
        ("/revoke", "", {}, "invalid_request"),
        ("/token", "", {"Content-Length": "\u00b2"}, "invalid_request"),
        ("/token", "", {"Content-Length": "9" * 5000}, "invalid_request"),
        ("/token", "grant_type=password", {"Host": "evil.example:8400"}, "invalid_request"),
        ("/token", "grant_type=password", {"Host": ""}, "invalid_request"),
        ("/token", "grant_type=password", {"Host": "LOCALHOST"}, "unsupported_grant_type"),
    ],
)
def test_a_malformed_form_is_refused(
    running: Running, path: str, data: str, headers: dict[str, str], error: str
) -> None:
    request = requests.Request("POST", running.url + path, data=data).prepare()
    for name, value in headers.items():
        request.headers[name] = value.encode("latin-1")  # type: ignore[assignment]
    with requests.Session() as session:
        answer = session.send(request, timeout=10)
    assert (answer.status_code, answer.json()) == (400, {"error": error})


def test_a_client_that_says_nothing_is_left(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loopback_provider._Handler, "timeout", 0.1)
    address = "127.0.0.1", int(running.url.rpartition(":")[2])
    for said in (b"", b"POST /token HTTP/1.0\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nabc"):
        with socket.create_connection(address, timeout=10) as connection:
            connection.sendall(said)
            assert b"200 OK" not in connection.recv(1000)


def test_it_has_nothing_else(running: Running) -> None:
    assert requests.get(f"{running.url}/token", timeout=10).status_code == 404
    assert requests.get(f"{running.url}/", timeout=10).json()["paths"][0] == "/authorize"
