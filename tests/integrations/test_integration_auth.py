"""`IntegrationAuth` with real httpx and `requests`, through a 401."""

from __future__ import annotations

import asyncio
import http.client
import io
import json
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx
import httpx2
import pytest
import requests
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

from sealchemy import (
    IntegrationError,
    IntegrationNotFoundError,
    Key,
    KeyRing,
    ReauthorizationRequiredError,
    attach_key_ring,
)
from sealchemy.integrations import Base, IntegrationAuth
from tests.support.integrations import WHOSE, connect
from tests.support.leaks import shown_by
from tests.support.provider import Answer, logged_by_provider

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sqlalchemy.orm import Session, sessionmaker

    from tests.support.provider import Provider


def with_requests(url: str, auth: Any, **options: Any) -> Any:
    return requests.request(options.pop("method", "GET"), url, auth=auth, timeout=10, **options)


def with_requests_session(url: str, auth: Any, **options: Any) -> Any:
    with requests.Session() as session:
        session.auth = auth
        return session.request(options.pop("method", "GET"), url, timeout=10, **options)


def with_httpx(url: str, auth: Any, **options: Any) -> Any:
    with httpx.Client(auth=auth, follow_redirects=True) as client:
        return client.request(options.pop("method", "GET"), url, **renamed(options))


def with_httpx2(url: str, auth: Any, **options: Any) -> Any:
    with httpx2.Client(auth=auth, follow_redirects=True) as client:
        return client.request(options.pop("method", "GET"), url, **renamed(options))


def renamed(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options of `requests` as httpx calls them."""
    return {"content" if name == "data" else name: value for name, value in options.items()}


CLIENTS = [with_requests, with_requests_session, with_httpx, with_httpx2]


@pytest.fixture(params=CLIENTS, ids=lambda client: client.__name__)
def send(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def auth(sessions: sessionmaker[Session], oauth_provider: Provider) -> IntegrationAuth:
    connect(sessions, oauth_provider, expires_in=3600)
    return IntegrationAuth(sessions, **WHOSE, client=oauth_provider.client())


def end_token(provider: Provider) -> None:
    """Have the provider refuse the access token that it granted last, though it has not expired."""
    provider.tokens[-1].expires_at = 0


def test_a_request_has_a_valid_token(send: Any, auth: IntegrationAuth, oauth_provider: Provider) -> None:
    answer = send(f"{oauth_provider.url}/calendar", auth)
    assert (answer.status_code, answer.json()) == (200, {"events": []})
    assert oauth_provider.counts["/token"] == 0


def test_after_a_401_the_request_is_sent_once_more(send: Any, auth: IntegrationAuth, oauth_provider: Provider) -> None:
    end_token(oauth_provider)
    assert send(f"{oauth_provider.url}/calendar", auth).status_code == 200
    assert oauth_provider.counts["/token"] == 1
    assert send(f"{oauth_provider.url}/calendar", auth).status_code == 200
    assert oauth_provider.counts["/token"] == 1


def test_a_second_401_is_the_answer(send: Any, auth: IntegrationAuth, oauth_provider: Provider) -> None:
    answer = send(f"{oauth_provider.url}/refuses", auth)
    assert answer.status_code == 401
    assert oauth_provider.counts["/refuses"] == 2
    assert oauth_provider.counts["/token"] == 1


def test_a_body_is_sent_again(send: Any, auth: IntegrationAuth, oauth_provider: Provider) -> None:
    end_token(oauth_provider)
    answer = send(f"{oauth_provider.url}/upload", auth, method="POST", data=b"the body")
    assert (answer.status_code, answer.text) == (200, "8")


def pieces() -> Iterator[bytes]:
    yield b"the "
    yield b"body"


@pytest.mark.parametrize("library", [httpx, httpx2], ids=["httpx", "httpx2"])
def test_files_are_not_sent_again_as_they_may_have_been_read(
    library: Any, auth: IntegrationAuth, oauth_provider: Provider
) -> None:
    end_token(oauth_provider)
    with library.Client(auth=auth) as client:
        url = f"{oauth_provider.url}/upload"
        assert client.post(url, files={"f": ("name", io.BytesIO(b"the body"))}).status_code == 401
        assert client.post(url, files={"f": ("name", io.BytesIO(b"the body"))}).status_code == 200


def test_a_401_for_another_reason_than_the_token_is_the_answer(
    send: Any, auth: IntegrationAuth, oauth_provider: Provider
) -> None:
    header = 'Bearer realm="api", error="insufficient_scope", error_description="invalid_token"'
    assert send(f"{oauth_provider.url}/refuses", auth, params={"header": header}).status_code == 401
    assert oauth_provider.counts["/token"] == 0
    send(f"{oauth_provider.url}/refuses", auth, params={"header": 'Bearer error="invalid_token"'})
    assert oauth_provider.counts["/token"] == 1


def test_hooks_of_the_application_run_after_a_retry(auth: IntegrationAuth, oauth_provider: Provider) -> None:
    seen: list[int] = []

    def see(response: Any, **_options: Any) -> None:
        seen.append(response.status_code)

    end_token(oauth_provider)
    with requests.Session() as session:
        session.auth = auth
        session.hooks["response"] = [see]
        request = session.prepare_request(requests.Request("GET", f"{oauth_provider.url}/calendar"))
        assert session.send(request, timeout=10).status_code == 200
        assert session.send(request, timeout=10).status_code == 200  # the same object, which has the first token
    assert len(seen) == 2


def test_a_token_that_no_header_can_have_is_not_shown(
    send: Any, sessions: sessionmaker[Session], oauth_provider: Provider
) -> None:
    token = "ya29.SENTINEL-of-this-test\n"
    connect(sessions, oauth_provider, access_token=token, expires_in=3600)
    auth = IntegrationAuth(sessions, **WHOSE, client=oauth_provider.client())
    with pytest.raises(IntegrationError, match="no header can have") as caught:
        send(f"{oauth_provider.url}/calendar", auth)
    assert "SENTINEL-of-this-test" not in shown_by(caught.value)


@pytest.mark.parametrize("host", ["https://api.example", "api.example:443", "", "api.example/"])
def test_a_host_is_a_name(sessions: sessionmaker[Session], oauth_provider: Provider, host: str) -> None:
    with pytest.raises(IntegrationError, match="give the name alone"):
        IntegrationAuth(sessions, **WHOSE, client=oauth_provider.client(), host=host)
    assert IntegrationAuth(sessions, **WHOSE, client=oauth_provider.client(), host="API.example")


@pytest.mark.parametrize("make", [pieces, lambda: io.BytesIO(b"the body")], ids=["generator", "file"])
def test_a_stream_is_not_sent_again_and_the_next_request_has_a_new_token(
    send: Any, auth: IntegrationAuth, oauth_provider: Provider, make: Callable[[], Any]
) -> None:
    end_token(oauth_provider)
    url = f"{oauth_provider.url}/upload"
    assert send(url, auth, method="POST", data=make()).status_code == 401
    assert oauth_provider.counts["/token"] == 1
    answer = send(url, auth, method="POST", data=make())
    assert (answer.status_code, answer.text) == (200, "8")


def test_a_redirect_to_another_host_takes_no_token_along(
    send: Any, auth: IntegrationAuth, oauth_provider: Provider
) -> None:
    answer = send(f"{oauth_provider.url}/elsewhere", auth)  # localhost, which answers with 401 without a token
    assert answer.status_code == 401
    assert oauth_provider.counts["/token"] == 0
    assert oauth_provider.authorizations[-1] is None
    assert send(f"{oauth_provider.url}/here", auth).status_code == 200


@pytest.mark.parametrize("url", ["http://api.example/calendar", "http://127.0.0.1.evil.example/"])
def test_no_token_is_sent_without_tls(send: Any, auth: IntegrationAuth, url: str) -> None:
    with pytest.raises(IntegrationError, match="no token without TLS"):
        send(url, auth)


def test_no_token_is_sent_to_another_host(send: Any, sessions: sessionmaker[Session], oauth_provider: Provider) -> None:
    connect(sessions, oauth_provider, expires_in=3600)
    auth = IntegrationAuth(sessions, **WHOSE, client=oauth_provider.client(), host="127.0.0.1")
    assert send(f"{oauth_provider.url}/calendar", auth).status_code == 200
    with pytest.raises(IntegrationError, match="it gets no token"):
        send("https://evil.example/", auth)


def test_its_errors_are_those_of_get_valid_token(
    send: Any, sessions: sessionmaker[Session], oauth_provider: Provider
) -> None:
    auth = IntegrationAuth(sessions, **WHOSE, client=oauth_provider.client())
    with pytest.raises(IntegrationNotFoundError):
        send(f"{oauth_provider.url}/calendar", auth)
    connect(sessions, oauth_provider)
    oauth_provider.answers.append(Answer(400, {"error": "invalid_grant"}))
    with pytest.raises(ReauthorizationRequiredError) as caught:
        send(f"{oauth_provider.url}/calendar", auth)
    for token in oauth_provider.tokens:
        assert token.access_token not in shown_by(caught.value)
        assert str(token.refresh_token) not in shown_by(caught.value)


def test_many_threads_share_one_auth_and_one_refresh(auth: IntegrationAuth, oauth_provider: Provider) -> None:
    end_token(oauth_provider)
    barrier = threading.Barrier(8)

    def ask(number: int) -> int:
        barrier.wait()
        return int(CLIENTS[number % 4](f"{oauth_provider.url}/calendar", auth).status_code)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(8))) == [200] * 8
    assert oauth_provider.counts["/token"] == 1


@pytest.mark.parametrize("library", [httpx, httpx2], ids=["httpx", "httpx2"])
def test_an_async_client_through_a_401(tmp_path: Path, oauth_provider: Provider, library: Any) -> None:
    url, ring = f"sqlite:///{tmp_path / 'a.db'}", KeyRing(primary=Key.generate())
    engine = attach_key_ring(create_engine(url), ring)
    Base.metadata.create_all(engine)

    from sqlalchemy.orm import sessionmaker

    connect(sessionmaker(engine), oauth_provider, expires_in=3600)
    engine.dispose()
    end_token(oauth_provider)

    async def ask() -> list[int]:
        async_engine = create_async_engine(url.replace("sqlite", "sqlite+aiosqlite"))
        attach_key_ring(async_engine, ring)
        auth = IntegrationAuth(async_sessionmaker(async_engine), **WHOSE, client=oauth_provider.client())

        async def stream() -> Any:
            yield b"the body"

        async with library.AsyncClient(auth=auth) as client:
            answers = [await client.post(f"{oauth_provider.url}/upload", content=stream())]
            answers += await asyncio.gather(*(client.get(f"{oauth_provider.url}/calendar") for _ in range(5)))
            answers.append(await client.post(f"{oauth_provider.url}/upload", content=b"the body"))
        await async_engine.dispose()
        return [answer.status_code for answer in answers]

    assert asyncio.run(ask()) == [401, *[200] * 6]
    assert oauth_provider.counts["/token"] == 1


def test_debug_logs_and_reprs_show_no_token(
    send: Any,
    auth: IntegrationAuth,
    oauth_provider: Provider,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    end_token(oauth_provider)
    answer = send(f"{oauth_provider.url}/calendar", auth)
    shown = "".join(record.getMessage() for record in caplog.records if not logged_by_provider(record))
    shown += f"{auth!r}{vars(auth)}{answer!r}{answer.request!r}{answer.request.headers!r}"
    assert not [token for token in oauth_provider.tokens if token.access_token in shown]
    assert not [token for token in oauth_provider.tokens if str(token.refresh_token) in shown]


def test_the_token_is_only_in_the_authorization_header(auth: IntegrationAuth, oauth_provider: Provider) -> None:
    said = json.loads(requests.post(f"{oauth_provider.url}/echo", auth=auth, timeout=10).json()["echo"])
    token = oauth_provider.tokens[-1].access_token
    assert said["headers"].pop("Authorization") == f"Bearer {token}"
    assert token not in json.dumps(said)
    assert http.client.HTTPConnection.debuglevel == 0
