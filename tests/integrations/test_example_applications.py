"""The two applications printed in the how-to work with a real provider and leak no token."""

from __future__ import annotations

import asyncio
import http.client
import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import requests
from fastapi.testclient import TestClient
from sqlalchemy import create_engine, text

from sealchemy import Key, MissingKeyError
from sealchemy.integrations import Base, OAuthClient
from tests.support.provider import CLIENT_SECRET, Answer, Provider, logged_by_provider

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PAGE = Path(__file__).parents[2] / "docs/how-to/store-oauth-tokens.md"
FASTAPI, FLASK = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    url = f"sqlite:///{tmp_path / 'integrations.db'}"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", url)
    for name in ("GOOGLE_CLIENT_ID", "GOOGLE_CLIENT_SECRET", "SESSION_SECRET"):
        monkeypatch.setenv(name, f"{name}-of-the-test")
    monkeypatch.setenv("INTEGRATION_TOKEN_ENCRYPTION_KEY", Key.generate().reveal())
    engine = create_engine(url)
    Base.metadata.create_all(engine)
    yield engine
    engine.dispose()


def load(source: str, provider: Provider) -> dict[str, Any]:
    """Run an example against the test provider instead of Google."""
    namespace: dict[str, Any] = {"__name__": "app"}
    exec(compile(source, "app.py", "exec"), namespace)  # noqa: S102 - code from this documentation
    namespace["clients"]["google-calendar"] = provider.client()
    namespace["CALENDAR"] = f"{provider.url}/calendar"
    return namespace


class Browser:
    """A common interface to both test clients, which records every response."""

    def __init__(self, send: Callable[..., Any]) -> None:
        self._send, self.seen = send, ""

    def __call__(self, method: str, path: str, **options: Any) -> tuple[int, str, dict[str, str]]:
        answer = self._send(method, path, **options)
        headers = dict(answer.headers)
        self.seen += f"{headers}{answer.text}"
        return answer.status_code, answer.text, headers

    def connect(self) -> None:
        _, _, headers = self("GET", "/connect/google-calendar")
        consent = requests.get(headers["location"], allow_redirects=False, timeout=10)
        callback = urlsplit(consent.headers["Location"])
        status, _, headers = self("GET", f"/callback?{callback.query}")
        assert (status // 100, headers["location"]) == (3, "/integrations")


@pytest.fixture(params=["fastapi", "flask"])
def application(
    request: pytest.FixtureRequest, database: Any, oauth_provider: Provider
) -> Iterator[tuple[dict[str, Any], Browser]]:
    if request.param == "flask":
        namespace = load(FLASK, oauth_provider)
        client = namespace["flask_app"].test_client()

        def send(method: str, path: str, **options: Any) -> Any:
            with_case = client.open(path, method=method, **options)
            with_case.headers = {name.lower(): value for name, value in with_case.headers.items()}
            return with_case

        yield namespace, Browser(send)
        namespace["engine"].dispose()
        return
    namespace = load(FASTAPI, oauth_provider)
    with TestClient(namespace["app"], raise_server_exceptions=False, follow_redirects=False) as http_client:
        yield namespace, Browser(http_client.request)


def end_access_tokens(database: Any) -> None:
    with database.begin() as connection:
        connection.execute(text("UPDATE integrations SET expires_at = '2020-01-01 00:00:00.000000'"))


def test_connect_list_call_refresh_disconnect(
    application: tuple[dict[str, Any], Browser], database: Any, oauth_provider: Provider
) -> None:
    _, browser = application
    assert browser("GET", "/calendars")[0] == 404
    browser.connect()
    status, body, _ = browser("GET", "/integrations")
    assert (status, '"has_refresh_token":true' in body.replace(" ", "")) == (200, True)
    assert browser("GET", "/calendars")[1].strip() == '{"events":[]}'
    end_access_tokens(database)
    assert browser("GET", "/calendars")[0] == 200
    oauth_provider.tokens[-1].expires_at = 0  # the provider revoked it early and responds with 401
    assert browser("GET", "/calendars")[0] == 200
    assert oauth_provider.counts["/token"] == 3
    assert browser("DELETE", "/integrations/google-calendar")[0] == 204
    assert all(token.revoked for token in oauth_provider.tokens)
    assert browser("GET", "/integrations")[1].strip() == "[]"
    assert browser("DELETE", "/integrations/google-calendar")[0] == 404
    assert browser("GET", "/connect/elsewhere")[0] == 404


def test_unsolicited_callback_is_refused(application: tuple[dict[str, Any], Browser], oauth_provider: Provider) -> None:
    _, browser = application
    assert browser("GET", "/callback?code=x&state=y")[0] == 400
    browser("GET", "/connect/google-calendar")
    assert browser("GET", "/callback?code=x&state=other-é")[0] == 400
    assert oauth_provider.counts["/token"] == 0


@pytest.mark.parametrize("handled", [True, False], ids=["with error handlers", "with default error pages"])
def test_responses_logs_and_output_contain_no_token(
    application: tuple[dict[str, Any], Browser],
    database: Any,
    oauth_provider: Provider,
    handled: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    namespace, browser = application
    monkeypatch.setattr(http.client.HTTPConnection, "debuglevel", 0 if "flask_app" in namespace else 1)
    caplog.set_level(logging.DEBUG)
    if "app" in namespace:
        namespace["app"].debug = True
        if not handled:
            namespace["app"].exception_handlers.clear()
        namespace["app"].middleware_stack = namespace["app"].build_middleware_stack()
    elif not handled:
        namespace["flask_app"].error_handler_spec.clear()
    sent: list[str] = []  # codes and verifiers, which must not leak either
    exchange = OAuthClient.exchange_code

    def noted(client: OAuthClient, code: str, uri: str, verifier: str) -> Any:
        sent.extend((code, verifier))
        return exchange(client, code, uri, verifier)

    monkeypatch.setattr(OAuthClient, "exchange_code", noted)
    browser.connect()
    browser.seen = ""  # ignore the cookie with the verifier, which belongs to this browser
    browser("GET", "/integrations")
    browser("GET", "/calendars")
    known = {oauth_provider.tokens[0].access_token, oauth_provider.tokens[0].refresh_token}
    for answer in (
        Answer(500, f"oops {oauth_provider.tokens[0].refresh_token}"),
        Answer(200, {"refresh_token": "SENTINEL-in-the-answer"}),
        Answer(400, {"error": "invalid_grant", "error_description": f"{oauth_provider.tokens[0].refresh_token}"}),
    ):
        end_access_tokens(database)
        oauth_provider.answers.append(answer)
        assert browser("GET", "/calendars")[0] in ({409, 503} if handled else {500})
    browser("GET", "/integrations")
    with database.begin() as connection:
        connection.execute(text("UPDATE integrations SET access_token = refresh_token, reauthorization_required = 0"))
    assert browser("GET", "/calendars")[0] == 500
    ours = [record for record in caplog.records if not logged_by_provider(record)]
    formatter = logging.Formatter()
    shown = browser.seen + "".join(formatter.format(record) for record in ours) + "".join(capfd.readouterr())
    assert "invalid_grant" in shown
    assert handled or "flask_app" in namespace or "Traceback" in browser.seen
    assert len(sent) == 2
    shown = shown.replace(f"/callback?code={sent[0]}", "")  # the test client logs the callback URL
    for secret in (*known, *sent, CLIENT_SECRET, "SENTINEL"):
        assert str(secret) not in shown


def test_applications_refuse_to_start_without_a_key(
    database: Any, oauth_provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("INTEGRATION_TOKEN_ENCRYPTION_KEY")
    with pytest.raises(MissingKeyError, match="INTEGRATION_TOKEN_ENCRYPTION_KEY"):
        load(FLASK, oauth_provider)
    application = load(FASTAPI, oauth_provider)["app"]

    async def start() -> None:
        async with application.router.lifespan_context(application):
            pass

    with pytest.raises(MissingKeyError, match="INTEGRATION_TOKEN_ENCRYPTION_KEY"):
        asyncio.run(start())
