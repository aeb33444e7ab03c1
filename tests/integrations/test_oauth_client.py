"""How the client handles provider responses; each response is sent over HTTP."""

from __future__ import annotations

import dataclasses
import http.client
import json
import logging
import signal
import socket
import ssl
import threading
import time
from contextlib import contextmanager, suppress
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
from sealchemy.integrations import (
    ATLASSIAN,
    GITHUB,
    GOOGLE_CALENDAR,
    GOOGLE_DRIVE,
    MICROSOFT,
    SALESFORCE,
    OAuthClient,
    TokenGrant,
    X,
)
from sealchemy.integrations.bounded_http import Transport
from tests.support.leaks import assert_silent, shown_by
from tests.support.provider import CLIENT_SECRET, Answer, logged_by_provider

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.provider import Provider

REFRESH = "1//SENTINEL-refresh-token-of-this-test"
GOOD = {"access_token": "ya29.new", "token_type": "Bearer", "expires_in": 3600}
ODD_DATE = {"Retry-After": "Mon, 01 Jan 2030 00:00:00 +99999999999999"}
SECRETS = (REFRESH, CLIENT_SECRET, "SENTINEL-in-the-answer")


@contextmanager
def listening(answer: bytes | None, pause: float = 0, hold: bool = False) -> Iterator[int]:
    """Send this to every client that connects, byte by byte if there is a pause; None sends nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        connections: list[socket.socket] = []

        def serve() -> None:
            try:
                while True:
                    connection = listener.accept()[0]
                    connections.append(connection)
                    for piece in [answer or b""] if not pause else [bytes([byte]) for byte in answer or b""]:
                        connection.sendall(piece)
                        time.sleep(pause)
                    if answer is not None and not hold:
                        connection.recv(65536)
                        connection.close()
            except OSError:
                return  # the listener or the client has closed the connection

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
        (Answer(200, "SENTINEL-in-the-answer"), RefreshFailedError, "something other than a JSON object"),
        (Answer(200, ""), RefreshFailedError, "something other than a JSON object"),
        (Answer(200, '["SENTINEL-in-the-answer"]'), RefreshFailedError, "something other than a JSON object"),
        (Answer(200, "[" * 100_000), RefreshFailedError, "the provider"),
        (Answer(200, b"\xff\xfe\x00".decode("latin-1")), RefreshFailedError, "something other than a JSON object"),
        (
            Answer(200, {"refresh_token": "SENTINEL-in-the-answer"}),
            RefreshFailedError,
            "a response without an access token",
        ),
        (Answer(200, {**GOOD, "access_token": ["SENTINEL-in-the-answer"]}), RefreshFailedError, "is list, not str"),
        (Answer(200, '{"access_token": "SENTINEL-in-the-answer\\ud800"}'), RefreshFailedError, "UTF-8"),
        (Answer(200, {**GOOD, "refresh_token": [5]}), RefreshFailedError, "refresh_token of a grant is list"),
        (Answer(400, {"error": ["invalid_grant"]}), ReauthorizationRequiredError, "invalid_grant"),
        (Answer(400, {"error": "invalid_grant"}, ODD_DATE), ReauthorizationRequiredError, "invalid_grant"),
        (Answer(200, {**GOOD, "access_token": "sealchemy:v1:x"}), RefreshFailedError, "encrypted value"),
        (Answer(200, "x" * 3_000_000), RefreshFailedError, "could not be reached"),
    ],
    ids=lambda value: f"{value.status}-{str(value.body)[:40]}" if isinstance(value, Answer) else "",
)
def test_response_without_a_usable_grant_is_an_error(
    oauth_provider: Provider, answer: Answer, error: type[Exception], text: str
) -> None:
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
        ({"expires_in": 10**400}, 315_360_000),
        ({"error": ""}, None),
        ({"error": {"code": "ok", "message": ""}}, None),
    ],
)
def test_odd_lifetime_loses_no_token(oauth_provider: Provider, given: dict[str, Any], expected: float) -> None:
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
def test_fields_that_do_not_fit_their_column_are_left_out(
    given: dict[str, Any], scope: str | None, token_type: str
) -> None:
    grant = TokenGrant.from_response({**GOOD, **given})
    assert (grant.scope, grant.token_type) == (scope, token_type)


def test_retry_after_is_passed_on(oauth_provider: Provider) -> None:
    moment = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    for value, low, high in (
        ("7", 7, 7),
        (moment, 90, 100),
        (moment.replace("GMT", "-0000"), 90, 100),
        ("9" * 400, 86_400, 86_400),
        ("-1", None, None),
        ("soon", None, None),
        (ODD_DATE["Retry-After"], None, None),
    ):
        oauth_provider.answers.append(Answer(429, "", {"Retry-After": value}))
        with pytest.raises(RefreshFailedError) as caught:
            oauth_provider.client().refresh(REFRESH)
        found = caught.value.retry_after
        assert found is None if low is None else low <= (found or -1) <= high


def test_bodies_in_other_encodings_are_read(oauth_provider: Provider) -> None:
    said = {**GOOD, "user": "José"}  # in Latin-1, this is no JSON (RFC 8259, section 8.1)
    for encoding in ("utf-8-sig", "utf-16", "latin-1"):
        body = json.dumps(said, ensure_ascii=False).encode(encoding).decode("latin-1")
        with listening(f"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n{body}".encode("latin-1")) as port:
            client = oauth_provider.client(token_endpoint=f"http://127.0.0.1:{port}/token")
            assert client.refresh(REFRESH).access_token == "ya29.new"


DRIPPING = {
    "status line": "HTTP/1.1 200 O" + "K" * 50,
    "header": "HTTP/1.1 200 OK\r\nX: " + "x" * 50,
    "continue": "HTTP/1.1 100 Continue\r\n\r\n" * 5,
    "chunk extension": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;" + "x" * 50,
    "trailer": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: " + "x" * 50,
    "body to the end": "HTTP/1.0 200 OK\r\n\r\n" + "x" * 50,
}


@pytest.mark.slow
@pytest.mark.parametrize("what", DRIPPING)
def test_trickling_response_fails_within_the_timeout(oauth_provider: Provider, what: str) -> None:
    with listening(DRIPPING[what].encode(), pause=0.2) as port:
        start = time.monotonic()
        with pytest.raises(RefreshFailedError, match="did not respond within 1 s"):
            oauth_provider.client(token_endpoint=f"http://127.0.0.1:{port}/token", timeout=1).refresh(REFRESH)
        assert time.monotonic() - start < 2


def test_trickling_handshake_fails_within_the_timeout(oauth_provider: Provider) -> None:
    with listening(b"\x16\x03\x03\x40\x00" + bytes(50), pause=0.2) as port:
        start = time.monotonic()
        with pytest.raises(RefreshFailedError, match="did not respond within 1 s"):
            oauth_provider.client(token_endpoint=f"https://localhost:{port}/token", timeout=1).refresh(REFRESH)
        assert time.monotonic() - start < 2


def test_incomplete_response_is_an_error(oauth_provider: Provider) -> None:
    client = oauth_provider.client(timeout=1)
    with listening(b'HTTP/1.1 200 OK\r\n\r\n{"access_tok', hold=True) as port:
        client.revocation_endpoint = client.token_endpoint = f"http://127.0.0.1:{port}/"
        with pytest.raises(RevocationFailedError, match="did not respond within 1 s"):
            client.revoke(REFRESH)
        with pytest.raises(RefreshFailedError, match="did not respond within 1 s"):
            client.refresh(REFRESH)


def test_timeout_applies_to_the_revocation_endpoint(oauth_provider: Provider) -> None:
    with listening(None) as silent:
        client = oauth_provider.client(
            token_endpoint="https://provider.example/token",
            revocation_endpoint=f"http://127.0.0.1:{silent}/revoke",
            timeout=1,
        )
        with pytest.raises(RevocationFailedError, match="did not respond within 1 s"):
            client.revoke(REFRESH)


def test_trickling_response_over_tls_fails_within_the_timeout(
    oauth_provider: Provider, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def serve(listener: socket.socket) -> None:
        with suppress(OSError), context.wrap_socket(listener.accept()[0], server_side=True) as secured:
            secured.recv(65536)
            for byte in DRIPPING["header"].encode():
                secured.sendall(bytes([byte]))
                time.sleep(0.2)

    context = trusted(tmp_path, monkeypatch)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        start = time.monotonic()
        url = f"https://localhost:{listener.getsockname()[1]}/token"
        with pytest.raises(RefreshFailedError, match="did not respond within 1 s"):
            oauth_provider.client(token_endpoint=url, timeout=1).refresh(REFRESH)
        assert time.monotonic() - start < 2
        thread.join()


def trusted(folder: Any, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """Return a TLS context for a server on localhost that this process trusts."""
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(folder / "ca.pem"))
    return context


def test_nothing_is_sent_if_connecting_takes_too_long(
    oauth_provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_up = socket.getaddrinfo

    def slowly(*arguments: Any, **options: Any) -> Any:
        time.sleep(1.2)
        return look_up(*arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", slowly)
    with pytest.raises(RefreshFailedError, match="did not respond within 1 s"):
        oauth_provider.client(timeout=1).refresh(REFRESH)
    time.sleep(0.5)
    assert oauth_provider.counts["/token"] == 0


def test_interruption_carries_no_secret(oauth_provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interruption(BaseException):
        pass

    class SoftTimeLimitError(Exception):  # Celery raises it in a signal handler
        pass

    oauth_provider.delay = 0.5
    for kind in (KeyboardInterrupt, Interruption, SoftTimeLimitError):

        def interrupt(*_: Any, kind: type[BaseException] = kind) -> None:
            raise kind

        before = signal.signal(signal.SIGALRM, interrupt)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            with pytest.raises(kind) as caught:
                oauth_provider.client().refresh(REFRESH)
        finally:
            signal.signal(signal.SIGALRM, before)
        assert_silent(caught.value, *SECRETS, package=None)


def test_silent_slow_or_unreachable_provider_fails_within_the_timeout(oauth_provider: Provider) -> None:
    oauth_provider.answers.append(Answer(200, GOOD, drip=0.1))  # each pause is short; the total is 8 s
    with listening(None) as silent, listening(b"SENTINEL-in-the-answer") as nonsense:
        for url, text in (
            (oauth_provider.url, "did not respond within 1 s"),
            (f"http://127.0.0.1:{silent}", "did not respond within 1 s"),
            (f"http://127.0.0.1:{nonsense}", "could not be reached"),
            ("http://127.0.0.1:1", "could not be reached"),
        ):
            start = time.monotonic()
            with pytest.raises(RefreshFailedError, match=text) as caught:
                oauth_provider.client(token_endpoint=f"{url}/token", timeout=1).refresh(REFRESH)
            assert time.monotonic() - start < 3
            assert_silent(caught.value, *SECRETS, package=None)


def test_certificates_are_verified(oauth_provider: Provider, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    context = trusted(tmp_path, monkeypatch)
    body = b'{"access_token": "ya29.tls"}'

    def serve(listener: socket.socket) -> None:
        for _ in range(2):
            connection = listener.accept()[0]
            try:
                with context.wrap_socket(connection, server_side=True) as secured:
                    asked = b""
                    while b"refresh_token=" not in asked:
                        asked += secured.recv(65536)
                    secured.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            except OSError:
                connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        client = oauth_provider.client(token_endpoint=f"https://localhost:{listener.getsockname()[1]}/token")
        assert client.refresh(REFRESH).access_token == "ya29.tls"
        monkeypatch.delenv("REQUESTS_CA_BUNDLE")
        with pytest.raises(RefreshFailedError, match="no certificate that this machine trusts") as caught:
            client.refresh(REFRESH)
        assert_silent(caught.value, *SECRETS, package=None)
        thread.join()


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://provider.example/token",
        "ftp://localhost/t",
        "token",
        "http://127.0.0.1.evil/",
        "http://evil.example\\@127.0.0.1/t",
        "https://user:password@provider.example/t",
        "https://provider.example:99999/t",
        "https://[::1",
        "https://provider.example/ t",
        "",
    ],
)
def test_insecure_or_malformed_endpoints_are_refused(endpoint: str) -> None:
    for name in ("token_endpoint", "revocation_endpoint", "authorization_endpoint"):
        with pytest.raises(IntegrationError, match="https://") as caught:
            OAuthClient("id", CLIENT_SECRET, **{"token_endpoint": "https://provider.example/token", name: endpoint})
        assert_silent(caught.value, CLIENT_SECRET)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        *(({"timeout": timeout}, "seconds") for timeout in (0, -1, float("inf"), float("nan"), 1e10, "10")),
        ({"client_id": ""}, "client_id is empty"),
        ({"auth_method": "client_secret"}, "auth_method must be one of client_secret_basic, "),
        ({"client_secret": f"{CLIENT_SECRET}é", "auth_method": "client_secret_basic_raw"}, "not ASCII"),
    ],
)
def test_invalid_arguments_are_refused(given: dict[str, Any], text: str) -> None:
    common = {"client_id": "id", "client_secret": CLIENT_SECRET, "token_endpoint": "https://provider.example/token"}
    with pytest.raises(IntegrationError, match=text) as caught:
        OAuthClient(**{**common, **given})
    assert_silent(caught.value, CLIENT_SECRET)


def test_non_text_is_never_sent(oauth_provider: Provider) -> None:
    client = oauth_provider.client()
    for call in (client.refresh, client.revoke, lambda value: client.exchange_code("code", "uri", value)):
        for wrong in (None, 5, b"1//SENTINEL-bytes"):
            with pytest.raises(PlaintextTypeError, match=r"not str|is missing") as caught:
                call(wrong)
            assert_silent(caught.value, "1//SENTINEL-bytes")
    assert not oauth_provider.counts


def test_code_can_be_exchanged_only_once(oauth_provider: Provider) -> None:
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


def test_failed_revocation_is_an_error(oauth_provider: Provider) -> None:
    token = oauth_provider.grant()
    for answer in (Answer(503), Answer(401, '{"error": "invalid_client"}'), Answer(302, "", {"Location": "/"})):
        oauth_provider.answers.append(answer)
        with pytest.raises(RevocationFailedError) as caught:
            oauth_provider.client().revoke(str(token.refresh_token))
        assert_silent(caught.value, str(token.refresh_token), CLIENT_SECRET, package=None)
    oauth_provider.answers.append(Answer(400, '{"error": "invalid_token"}'))  # already invalid, which counts as revoked
    oauth_provider.client().revoke(str(token.refresh_token))
    assert not token.revoked
    oauth_provider.client().revoke(str(token.refresh_token))
    assert token.revoked
    with pytest.raises(RevocationFailedError, match="no revocation_endpoint"):
        oauth_provider.client(revocation_endpoint=None).revoke("x")


@pytest.mark.parametrize("preset", [GOOGLE_CALENDAR, GOOGLE_DRIVE, MICROSOFT, GITHUB, ATLASSIAN, SALESFORCE, X])
def test_presets_create_a_client(preset: Any) -> None:
    client = OAuthClient(client_id="id", client_secret="client-secret-SENTINEL", **preset)
    asked = client.authorization_request("https://app.example/callback")
    query = parse_qs(urlsplit(asked.url).query)
    assert query["code_challenge_method"] == ["S256"]
    assert query.get("access_type", ["offline"]) == ["offline"]
    assert "SENTINEL" not in f"{client!r}{vars(client)}{asked.url}"


@pytest.mark.parametrize(
    ("preset", "answer"),
    [
        (ATLASSIAN, Answer(403, {"error": "unauthorized_client", "error_description": "refresh_token is invalid"})),
        (SALESFORCE, Answer(400, {"error": "inactive_user", "error_description": "user is inactive"})),
        (X, Answer(400, {"error": "invalid_request", "error_description": "Value passed for the token was invalid."})),
    ],
)
def test_codes_that_mean_a_dead_grant_at_one_provider_are_in_its_preset(
    oauth_provider: Provider, preset: Any, answer: Answer
) -> None:
    oauth_provider.answers += [answer, answer]
    with pytest.raises(RefreshFailedError):
        oauth_provider.client().refresh(REFRESH)
    with pytest.raises(ReauthorizationRequiredError) as caught:
        oauth_provider.client(dead_grant_errors=preset["dead_grant_errors"]).refresh(REFRESH)
    assert caught.value.code == answer.body["error"]  # type: ignore[index] # a dictionary


def test_a_token_that_is_a_number_is_text(oauth_provider: Provider) -> None:
    oauth_provider.answers.append(Answer(200, {**GOOD, "refresh_token": 12345678901234567890}))
    assert oauth_provider.client().refresh(REFRESH).refresh_token == "12345678901234567890"


@pytest.mark.parametrize(
    "answer",
    [
        Answer(400, {"error": "invalid_request", "error_description": "Missing required parameter [client_id]."}),
        Answer(401, {"error": "unauthorized_client"}),
        Answer(403, {"error": "access_denied", "login": "login_required"}),
        Answer(500, {"error": "invalid_grant"}),
        Answer(302, {"message": "invalid_grant"}),
    ],
)
def test_only_a_token_that_is_dead_counts_as_revoked(oauth_provider: Provider, answer: Answer) -> None:
    client = oauth_provider.client(dead_grant_errors=("invalid_request", "unauthorized_client"))
    oauth_provider.answers.append(answer)
    with pytest.raises(RevocationFailedError):
        client.revoke(REFRESH)


@pytest.mark.parametrize("wrong", ["ya29.SENTINEL-token", [("access_token", "ya29.SENTINEL-token")], None])
def test_a_response_that_is_no_dictionary_is_not_shown(wrong: Any) -> None:
    with pytest.raises(PlaintextTypeError, match="not a dictionary") as caught:
        TokenGrant.from_response(wrong)
    assert_silent(caught.value, "ya29.SENTINEL-token")


def test_a_token_that_is_repeated_in_another_field_is_not_stored_there() -> None:
    grant = TokenGrant.from_response(
        {**GOOD, "refresh_token": "1//new", "scope": "read 1//new", "token_type": "ya29.new"}
    )
    assert (grant.scope, grant.token_type) == (None, "Bearer")


def test_a_grant_without_refresh_token_that_expires_at_once_does_not_expire() -> None:
    assert TokenGrant.from_response({"access_token": "a", "expires_in": 0}).expires_in is None
    assert TokenGrant.from_response({**GOOD, "refresh_token": "1//new", "expires_in": 0}).expires_in == 0


def test_zero_is_no_error_and_no_token(oauth_provider: Provider) -> None:
    oauth_provider.answers += [Answer(200, {"error": 0}), Answer(200, {**GOOD, "error": 0, "refresh_token": 0})]
    oauth_provider.client().revoke(REFRESH)
    assert oauth_provider.client().refresh(REFRESH).refresh_token is None


@pytest.mark.parametrize("wrong", [{"expires_in": "3600"}, {"expires_in": float("nan")}, {"expires_at": "2030-01-01"}])
def test_times_of_a_grant_are_times(wrong: Any) -> None:
    with pytest.raises(IntegrationError, match="of a grant"):
        TokenGrant(access_token="a", **wrong)


def test_a_grant_can_be_replaced() -> None:
    grant = dataclasses.replace(TokenGrant(access_token="a", expires_in=60), scope="x")
    assert (grant.scope, grant.expires_in) == ("x", 60)


def test_a_client_needs_a_token_endpoint() -> None:
    with pytest.raises(IntegrationError, match="endpoint"):
        OAuthClient("id", "secret", None)  # type: ignore[arg-type]


def test_a_grant_shows_no_token() -> None:
    grant = TokenGrant(access_token="ya29.SENTINEL", refresh_token="1//SENTINEL")
    assert isinstance(grant.access_token, SecretString)
    assert "SENTINEL" not in repr(grant)
    for wrong in ("", None, b"ya29.SENTINEL", "sealchemy:v1:SENTINEL", "SENTINEL\udfff"):
        with pytest.raises(PlaintextTypeError) as caught:
            TokenGrant(access_token=wrong)  # type: ignore[arg-type]
        assert "SENTINEL" not in shown_by(caught.value)
    with pytest.raises(IntegrationError, match="time zone"):
        TokenGrant(access_token="ya29", expires_at=datetime(2030, 1, 1))  # noqa: DTZ001 - refused here


def test_debug_logging_of_requests_shows_no_secret(
    oauth_provider: Provider, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: Any
) -> None:
    monkeypatch.setattr(http.client.HTTPConnection, "debuglevel", 1)  # the usual recipe for debugging requests
    caplog.set_level(logging.DEBUG)
    token = oauth_provider.grant()
    grant = oauth_provider.client().refresh(str(token.refresh_token))
    oauth_provider.answers.append(Answer(400, {"error": "invalid_grant", "error_description": REFRESH}))
    with pytest.raises(ReauthorizationRequiredError):
        oauth_provider.client(token_endpoint_auth_method="client_secret_post").refresh(REFRESH)
    session = requests.Session()
    session.mount("http://", Transport(5))
    session.post("http://elsewhere/token", data={"token": REFRESH}, proxies={"http": oauth_provider.url}).close()
    session.close()
    malformed = b"HTTP/1.0 200 OK\r\nno header SENTINEL-in-the-answer\r\nA: b\r\n\r\n"
    with listening(malformed) as port, pytest.raises(RefreshFailedError):
        oauth_provider.client(token_endpoint=f"http://127.0.0.1:{port}/token").refresh(REFRESH)
    shown = "".join(record.getMessage() for record in caplog.records if not logged_by_provider(record))
    shown += "".join(capsys.readouterr())
    assert "POST /token" in shown  # urllib3's own log line, which is harmless
    for secret in (str(token.refresh_token), grant.access_token, str(grant.refresh_token), *SECRETS):
        assert secret not in shown
    assert "Authorization" not in shown


def test_proxies_are_not_used_for_loopback(oauth_provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", oauth_provider.url)
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(RefreshFailedError, match="could not be reached"):
        oauth_provider.client(token_endpoint="http://localhost:1/token").refresh(REFRESH)
    assert not oauth_provider.counts
