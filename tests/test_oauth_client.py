"""What providers answer, and what becomes of it; each answer goes over HTTP."""

from __future__ import annotations

import http.client
import logging
import socket
import ssl
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
import trustme

from sealchemy import (
    IntegrationError,
    PlaintextTypeError,
    ReauthorizationRequiredError,
    RefreshFailedError,
    RevocationFailedError,
    SecretString,
)
from sealchemy.integrations import GITHUB, GOOGLE_CALENDAR, GOOGLE_DRIVE, MICROSOFT, OAuthClient, TokenGrant

from .support.leaks import assert_silent, shown_by
from .support.provider import CLIENT_SECRET, Answer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .support.provider import Provider

REFRESH = "1//SENTINEL-refresh-token-of-this-test"
GOOD = {"access_token": "ya29.new", "token_type": "Bearer", "expires_in": 3600}
SECRETS = (REFRESH, CLIENT_SECRET, "SENTINEL-in-the-answer")


@contextmanager
def listening(answer: bytes | None) -> Iterator[int]:
    """Listen on a port, and say this to whoever connects; None: nothing at all."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        connections: list[socket.socket] = []

        def serve() -> None:
            try:
                while True:
                    connection = listener.accept()[0]
                    connections.append(connection)
                    if answer is not None:
                        connection.sendall(answer)
                        connection.close()
            except OSError:
                return

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        for connection in connections:
            connection.close()


@pytest.mark.parametrize(
    ("answer", "error", "text"),
    [
        (Answer(400, {"error": "invalid_grant"}), ReauthorizationRequiredError, "invalid_grant"),
        (Answer(200, {"error": "bad_refresh_token"}), ReauthorizationRequiredError, "bad_refresh_token"),
        (Answer(401, {"error": "invalid_client"}), RefreshFailedError, "check the secret of client 'client-1'"),
        (Answer(400, {"error": "invalid_scope"}), RefreshFailedError, "invalid_scope"),
        (Answer(400, {"error": "SENTINEL-in-the-answer"}), RefreshFailedError, "with an error"),
        (Answer(400, {"error": {"SENTINEL-in-the-answer": 1}}), RefreshFailedError, "with an error"),
        (
            Answer(400, {"error": "invalid_request", "error_description": "SENTINEL-in-the-answer"}),
            RefreshFailedError,
            "invalid_request",
        ),
        (Answer(429, "SENTINEL-in-the-answer"), RefreshFailedError, "HTTP status 429"),
        (Answer(500, "<h1>SENTINEL-in-the-answer</h1>"), RefreshFailedError, "HTTP status 500"),
        (Answer(500, GOOD), RefreshFailedError, "HTTP status 500"),
        (Answer(302, "", {"Location": "http://127.0.0.1:1/SENTINEL-in-the-answer"}), RefreshFailedError, "status 302"),
        (Answer(307, "", {"Location": "http://127.0.0.1:1/"}), RefreshFailedError, "HTTP status 307"),
        (Answer(200, "SENTINEL-in-the-answer"), RefreshFailedError, "no JSON object"),
        (Answer(200, ""), RefreshFailedError, "no JSON object"),
        (Answer(200, '["SENTINEL-in-the-answer"]'), RefreshFailedError, "no JSON object"),
        (Answer(200, "[" * 100_000), RefreshFailedError, "the provider"),
        (Answer(200, b"\xff\xfe\x00".decode("latin-1")), RefreshFailedError, "no JSON object"),
        (Answer(200, {"refresh_token": "SENTINEL-in-the-answer"}), RefreshFailedError, "no access token"),
        (Answer(200, {**GOOD, "access_token": ["SENTINEL-in-the-answer"]}), RefreshFailedError, "is list, not str"),
        (Answer(200, '{"access_token": "SENTINEL-in-the-answer\\ud800"}'), RefreshFailedError, "UTF-8"),
        (Answer(200, {**GOOD, "refresh_token": 5}), RefreshFailedError, "refresh_token of a grant is int"),
        (Answer(200, {**GOOD, "access_token": "sealchemy:v1:x"}), RefreshFailedError, "encrypted value"),
        (Answer(200, "x" * 3_000_000), RefreshFailedError, "could not be reached"),
    ],
    ids=lambda value: f"{value.status}-{str(value.body)[:40]}" if isinstance(value, Answer) else "",
)
def test_answers_that_are_no_grant(oauth_provider: Provider, answer: Answer, error: type[Exception], text: str) -> None:
    oauth_provider.answers.append(answer)
    with pytest.raises(error) as caught:
        oauth_provider.client().refresh(REFRESH)
    assert text in str(caught.value)
    assert type(caught.value) is error
    assert_silent(caught.value, *SECRETS, package=None)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, None),
        ({"expires_in": None}, None),
        ({"expires_in": 0}, 0),
        ({"expires_in": -5}, 0),
        ({"expires_in": 3599}, 3599),
        ({"expires_in": "3599"}, 3599),
        ({"expires_in": 12.5}, 12.5),
        ({"expires_in": "soon"}, None),
        ({"expires_in": True}, None),
        ({"expires_in": [1]}, None),
        ({"expires_in": float("nan")}, None),
        ({"expires_in": float("inf")}, 315_360_000),
        ({"expires_in": 10**400}, None),
    ],
)
def test_a_lifetime_that_is_odd_loses_no_token(
    oauth_provider: Provider, given: dict[str, Any], expected: float
) -> None:
    answer = {"access_token": "ya29.new", "refresh_token": "1//new", **given}
    oauth_provider.answers.append(Answer(200, answer))
    grant = oauth_provider.client().refresh(REFRESH)
    assert (grant.access_token, grant.refresh_token, grant.expires_in) == ("ya29.new", "1//new", expected)


@pytest.mark.parametrize(
    ("given", "scope", "token_type"),
    [
        ({"scope": ["a", "b"]}, "a b", "Bearer"),
        ({"scope": "x" * 5000}, None, "Bearer"),
        ({"scope": "a\x00b"}, None, "Bearer"),
        ({"scope": {"a": 1}}, None, "Bearer"),
        ({"scope": "", "token_type": "mac"}, None, "mac"),
        ({"token_type": "x" * 33}, None, "Bearer"),
        ({"token_type": None}, None, "Bearer"),
    ],
)
def test_what_a_column_cannot_hold_is_left_out(given: dict[str, Any], scope: str | None, token_type: str) -> None:
    grant = TokenGrant.from_response({**GOOD, **given})
    assert (grant.scope, grant.token_type) == (scope, token_type)


def test_retry_after_is_passed_on(oauth_provider: Provider) -> None:
    moment = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    for value, low, high in (("7", 7, 7), (moment, 90, 100), ("-1", None, None), ("soon", None, None)):
        oauth_provider.answers.append(Answer(429, "", {"Retry-After": value}))
        with pytest.raises(RefreshFailedError) as caught:
            oauth_provider.client().refresh(REFRESH)
        found = caught.value.retry_after
        assert found is None if low is None else low <= (found or -1) <= high


def test_a_provider_that_is_silent_slow_or_gone_ends_within_the_timeout(oauth_provider: Provider) -> None:
    oauth_provider.answers.append(Answer(200, GOOD, drip=0.1))  # each wait is short; the whole is 8 s
    with listening(None) as silent, listening(b"SENTINEL-in-the-answer") as nonsense:
        for url, text in (
            (oauth_provider.url, "did not answer within 1 s"),
            (f"http://127.0.0.1:{silent}", "did not answer within 1 s"),
            (f"http://127.0.0.1:{nonsense}", "could not be reached"),
            ("http://127.0.0.1:1", "could not be reached"),
        ):
            start = time.monotonic()
            with pytest.raises(RefreshFailedError, match=text) as caught:
                oauth_provider.client(token_endpoint=f"{url}/token", timeout=1).refresh(REFRESH)
            assert time.monotonic() - start < 3
            assert_silent(caught.value, *SECRETS, package=None)


def test_certificates_are_verified(oauth_provider: Provider, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    body = b'{"access_token": "ya29.tls"}'

    def serve(listener: socket.socket) -> None:
        for _ in range(2):
            connection = listener.accept()[0]
            try:
                with context.wrap_socket(connection, server_side=True) as secured:
                    secured.recv(65536)
                    secured.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            except OSError:
                connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        client = oauth_provider.client(token_endpoint=f"https://localhost:{listener.getsockname()[1]}/token")
        with pytest.raises(RefreshFailedError, match="no certificate that this machine trusts") as caught:
            client.refresh(REFRESH)
        assert_silent(caught.value, *SECRETS, package=None)
        authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"))
        assert client.refresh(REFRESH).access_token == "ya29.tls"
        thread.join()


@pytest.mark.parametrize(
    "endpoint", ["http://provider.example/token", "ftp://localhost/t", "token", "http://127.0.0.1.evil/"]
)
def test_endpoints_without_tls_are_refused(endpoint: str) -> None:
    for name in ("token_endpoint", "revocation_endpoint", "authorization_endpoint"):
        with pytest.raises(IntegrationError, match="https://"):
            OAuthClient("id", "secret", **{"token_endpoint": "https://provider.example/token", name: endpoint})


@pytest.mark.parametrize("timeout", [0, -1, float("inf"), float("nan")])
def test_a_timeout_must_end(timeout: float) -> None:
    with pytest.raises(IntegrationError, match="seconds"):
        OAuthClient("id", "secret", "https://provider.example/token", timeout=timeout)


def test_a_code_is_exchanged_once(oauth_provider: Provider) -> None:
    client = oauth_provider.client()
    asked = client.authorization_request("http://127.0.0.1/callback")
    answer = requests.get(asked.url, allow_redirects=False, timeout=10)
    came_back = parse_qs(urlsplit(answer.headers["Location"]).query)
    assert came_back["state"] == [asked.state]
    arguments = (came_back["code"][0], "http://127.0.0.1/callback", asked.code_verifier)
    grant = client.exchange_code(*arguments)
    assert (grant.scope, grant.expires_in) == ("calendar", 3600)
    with pytest.raises(ReauthorizationRequiredError) as caught:
        client.exchange_code(*arguments)
    assert_silent(caught.value, arguments[0], asked.code_verifier, CLIENT_SECRET, package=None)
    assert "code_verifier" not in repr(asked)


def test_a_code_needs_its_verifier(oauth_provider: Provider) -> None:
    client = oauth_provider.client(token_endpoint_auth_method="client_secret_post")
    asked = client.authorization_request("http://127.0.0.1/callback")
    answer = requests.get(asked.url, allow_redirects=False, timeout=10)
    code = parse_qs(urlsplit(answer.headers["Location"]).query)["code"][0]
    with pytest.raises(ReauthorizationRequiredError):
        client.exchange_code(code, "http://127.0.0.1/callback", "x" * 64)


def test_revocation_that_fails_is_an_error(oauth_provider: Provider) -> None:
    token = oauth_provider.grant()
    for answer in (Answer(503), Answer(401, '{"error": "invalid_client"}'), Answer(302, "", {"Location": "/"})):
        oauth_provider.answers.append(answer)
        with pytest.raises(RevocationFailedError) as caught:
            oauth_provider.client().revoke(str(token.refresh_token))
        assert_silent(caught.value, str(token.refresh_token), CLIENT_SECRET, package=None)
    oauth_provider.answers.append(Answer(400, '{"error": "invalid_token"}'))  # has ended already
    oauth_provider.client().revoke(str(token.refresh_token))
    assert not token.revoked
    oauth_provider.client().revoke(str(token.refresh_token))
    assert token.revoked
    with pytest.raises(RevocationFailedError, match="no revocation_endpoint"):
        oauth_provider.client(revocation_endpoint=None).revoke("x")


@pytest.mark.parametrize("preset", [GOOGLE_CALENDAR, GOOGLE_DRIVE, MICROSOFT, GITHUB])
def test_presets_make_a_client(preset: Any) -> None:
    client = OAuthClient(client_id="id", client_secret="client-secret-SENTINEL", **preset)
    asked = client.authorization_request("https://app.example/callback")
    query = parse_qs(urlsplit(asked.url).query)
    assert query["code_challenge_method"] == ["S256"]
    assert query.get("access_type", ["offline"]) == ["offline"]
    assert "SENTINEL" not in f"{client!r}{vars(client)}{asked.url}"


def test_a_grant_shows_no_token() -> None:
    grant = TokenGrant(access_token="ya29.SENTINEL", refresh_token="1//SENTINEL")
    assert isinstance(grant.access_token, SecretString)
    assert "SENTINEL" not in repr(grant)
    for wrong in ("", None, b"ya29.SENTINEL", "sealchemy:v1:SENTINEL", "SENTINEL\udfff"):
        with pytest.raises(PlaintextTypeError) as caught:
            TokenGrant(access_token=wrong)  # type: ignore[arg-type]
        assert "SENTINEL" not in shown_by(caught.value)
    with pytest.raises(IntegrationError, match="time zone"):
        TokenGrant(access_token="ya29", expires_at=datetime(2030, 1, 1))  # noqa: DTZ001 - what is refused


def test_debug_logging_of_requests_shows_nothing(
    oauth_provider: Provider, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: Any
) -> None:
    monkeypatch.setattr(http.client.HTTPConnection, "debuglevel", 1)  # the recipe that everybody finds
    caplog.set_level(logging.DEBUG)
    token = oauth_provider.grant()
    grant = oauth_provider.client().refresh(str(token.refresh_token))
    oauth_provider.answers.append(Answer(400, {"error": "invalid_grant", "error_description": REFRESH}))
    with pytest.raises(ReauthorizationRequiredError):
        oauth_provider.client(token_endpoint_auth_method="client_secret_post").refresh(REFRESH)
    monkeypatch.setenv("http_proxy", oauth_provider.url)
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(ReauthorizationRequiredError):
        oauth_provider.client(token_endpoint="http://localhost:1/token").refresh(REFRESH)
    clients = [record for record in caplog.records if not record.name.startswith("authlib.oauth2.rfc6749")]
    shown = "".join(record.getMessage() for record in clients) + "".join(capsys.readouterr())
    assert "POST /token" in shown  # urllib3's own line, which is harmless
    for secret in (str(token.refresh_token), grant.access_token, str(grant.refresh_token), REFRESH, CLIENT_SECRET):
        assert secret not in shown
    assert "Authorization" not in shown
