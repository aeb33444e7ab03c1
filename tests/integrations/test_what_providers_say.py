"""What a provider says besides the tokens, who is told of it, and what is counted."""

from __future__ import annotations

import asyncio
import json
import logging
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from sqlalchemy import select, text, update

from sealchemy import (
    DecryptionError,
    IntegrationError,
    Key,
    KeyRing,
    PlaintextTypeError,
    ReauthorizationRequiredError,
    RefreshFailedError,
    UnknownKeyError,
    attach_key_ring,
    metrics,
)
from sealchemy.integrations import (
    Base,
    DeadGrant,
    Integration,
    TokenGrant,
    discover,
    get_valid_token,
    upsert_integration,
)
from sealchemy.integrations.audit import handed_out
from tests.support import processes
from tests.support.integrations import WHOSE, connect
from tests.support.leaks import assert_silent, shown_by
from tests.support.provider import Answer

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine
    from sqlalchemy.orm import Session, sessionmaker

    from tests.support.provider import Provider

REFRESH = "1//SENTINEL-refresh-token-of-this-test"
GOOD = {"access_token": "ya29.new", "refresh_token": "1//new", "token_type": "Bearer", "expires_in": 3600}


def details(sessions: sessionmaker[Session]) -> Any:
    with sessions() as session:
        return session.scalars(select(Integration.details)).one()


def expire(sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as session:
        past = datetime.now(UTC) - timedelta(days=1)
        session.execute(update(Integration).values(expires_at=past, next_attempt_at=None))


def test_the_whole_response_is_there_and_shows_nothing(oauth_provider: Provider) -> None:
    said = {**GOOD, "id_token": "SENTINEL-id-token", "team": {"name": "SENTINEL-team", "ids": [1, "SENTINEL-2"]}}
    oauth_provider.answers.append(Answer(200, said))
    grant = oauth_provider.client().refresh("1//old")
    assert grant.response == said
    assert grant.response["team"]["ids"][0] == 1
    assert "SENTINEL" not in f"{grant!r}{grant.response!r}{grant.details!r}"
    kept = pickle.loads(pickle.dumps(grant))  # noqa: S301 - made here
    assert (kept.access_token, kept.details, kept.response) == ("ya29.new", {}, {})


def test_details_are_kept_and_added_to_those_of_the_application(
    sessions: sessionmaker[Session], oauth_provider: Provider
) -> None:
    client = oauth_provider.client(details=("instance_url", "team.name", "absent"))
    connect(sessions, oauth_provider)
    with sessions.begin() as session:
        integration = session.scalars(select(Integration)).one()
        integration.details = {"of the application": [1], "team.name": "old"}
    oauth_provider.answers.append(
        Answer(200, {**GOOD, "instance_url": "https://a.example", "team": {"name": "SENTINEL-new"}})
    )
    assert get_valid_token(sessions, **WHOSE, client=client) == "ya29.new"
    wanted = {"of the application": [1], "team.name": "SENTINEL-new", "instance_url": "https://a.example"}
    assert details(sessions) == wanted
    with sessions() as session:
        stored = session.scalar(text("SELECT details FROM integrations"))
    assert str(stored).startswith("sealchemy:")

    with sessions.begin() as session:
        grant = TokenGrant(access_token="a", details={"team.name": "newest"})
        integration = upsert_integration(session, **WHOSE, grant=grant)
        assert integration.details == {**wanted, "team.name": "newest"}


@pytest.mark.parametrize(
    "odd", ['"a\\ud800"', "NaN", '"' + "x" * 70_000 + '"', "[" * 400 + "]" * 400, "1e999"], ids=range(5)
)
def test_details_that_cannot_be_stored_cost_no_token(
    sessions: sessionmaker[Session], oauth_provider: Provider, odd: str
) -> None:
    connect(sessions, oauth_provider)
    body = json.dumps({**GOOD, "good": 1}).replace('"good": 1', f'"good": 1, "odd": {odd}')
    oauth_provider.answers.append(Answer(200, body))
    client = oauth_provider.client(details=("odd", "good"))
    assert get_valid_token(sessions, **WHOSE, client=client) == "ya29.new"
    assert details(sessions)["good"] == 1


def test_details_that_are_no_object_or_not_readable_stay_as_they_are(
    sessions: sessionmaker[Session], oauth_provider: Provider
) -> None:
    client = oauth_provider.client(details=("good",))
    connect(sessions, oauth_provider)
    with sessions.begin() as session:
        session.scalars(select(Integration)).one().details = ["a list"]
    oauth_provider.answers.append(Answer(200, {**GOOD, "good": 1}))
    get_valid_token(sessions, **WHOSE, client=client)
    assert details(sessions) == ["a list"]
    with sessions.begin() as session:
        session.execute(text("UPDATE integrations SET details = access_token"))
    expire(sessions)
    oauth_provider.answers.append(Answer(200, {**GOOD, "access_token": "ya29.newer", "good": 1}))
    assert get_valid_token(sessions, **WHOSE, client=client) == "ya29.newer"
    with pytest.raises(DecryptionError):
        details(sessions)


@pytest.mark.parametrize("name", ["refresh_token_expires_in", "refresh_expires_in", "x_refresh_token_expires_in"])
def test_the_end_of_a_refresh_token_is_a_time(oauth_provider: Provider, name: str) -> None:
    oauth_provider.answers += [Answer(200, {**GOOD, name: 86400}), Answer(200, {**GOOD, name: 0})]
    client = oauth_provider.client(details=("id_token",))
    ends = datetime.fromisoformat(client.refresh("1//x").details["refresh_token_expires_at"])
    assert timedelta(hours=23) < ends - datetime.now(UTC) <= timedelta(hours=24)
    assert "refresh_token_expires_at" not in client.refresh("1//x").details  # 0 of Keycloak: it does not end


def test_a_hook_sees_each_grant_and_what_it_returns_is_stored(
    sessions: sessionmaker[Session], oauth_provider: Provider
) -> None:
    seen: list[TokenGrant] = []

    def on_grant(grant: TokenGrant) -> dict[str, Any]:
        seen.append(grant)
        return {"count": len(seen)}

    connect(sessions, oauth_provider)
    client = oauth_provider.client(on_grant=on_grant)
    token = get_valid_token(sessions, **WHOSE, client=client)
    assert [grant.access_token for grant in seen] == [token]
    assert details(sessions) == {"count": 1}


@pytest.mark.parametrize("interruption", [SystemExit, asyncio.CancelledError, KeyboardInterrupt])
def test_whatever_a_hook_does_the_tokens_are_stored_before(
    sessions: sessionmaker[Session], oauth_provider: Provider, interruption: type[BaseException]
) -> None:
    seen: list[BaseException] = []

    def on_grant(_grant: TokenGrant) -> None:
        seen.append(interruption())
        raise seen[0]

    connect(sessions, oauth_provider)
    with pytest.raises(interruption):
        get_valid_token(sessions, **WHOSE, client=oauth_provider.client(on_grant=on_grant))
    granted = oauth_provider.tokens[-1]
    with sessions() as session:
        stored = session.execute(select(Integration.access_token, Integration.refresh_token)).one()
    assert stored == (granted.access_token, granted.refresh_token)
    assert granted.access_token not in shown_by(seen[0])
    assert str(granted.refresh_token) not in shown_by(seen[0])


def test_a_hook_may_take_its_time_and_ask_for_the_token(
    sessions: sessionmaker[Session], oauth_provider: Provider
) -> None:
    asked: list[str] = []

    def on_grant(grant: TokenGrant) -> None:
        asked.append(get_valid_token(sessions, **WHOSE, client=oauth_provider.client()))
        assert asked[-1] == grant.access_token

    connect(sessions, oauth_provider)
    token = get_valid_token(sessions, **WHOSE, client=oauth_provider.client(on_grant=on_grant))
    assert asked == [token]
    assert oauth_provider.counts["/token"] == 1


def test_coroutine_functions_are_refused(oauth_provider: Provider) -> None:
    async def hook(_argument: Any) -> None:
        """Do nothing."""

    class Hook:
        async def __call__(self, _argument: Any) -> None:
            """Do nothing."""

    for name in ("on_grant", "on_reauthorization_required"):
        for wrong in (hook, Hook()):
            with pytest.raises(IntegrationError, match="is a coroutine function"):
                oauth_provider.client(**{name: wrong})


@pytest.mark.parametrize("said", [{"a": {1: 2}}, {"a": {None: 2}}, {5: "x"}, {"a": object()}, {"a": "x" * 30_000}])
def test_what_a_hook_returns_and_no_column_can_hold_is_left_out(
    make_engine: Callable[..., Engine], oauth_provider: Provider, said: Any
) -> None:
    from sqlalchemy.orm import sessionmaker

    engine = make_engine(ring=KeyRing(primary=Key.generate(), size_limit=8192))
    Base.metadata.create_all(engine)
    sessions = sessionmaker(engine)
    connect(sessions, oauth_provider)
    client = oauth_provider.client(on_grant=lambda _grant: said)
    assert get_valid_token(sessions, **WHOSE, client=client) == oauth_provider.tokens[-1].access_token
    assert details(sessions) is None
    with sessions.begin() as session:
        grant = TokenGrant(access_token="connected", details=said)
        upsert_integration(session, **WHOSE, grant=grant)
    assert get_valid_token(sessions, **WHOSE, client=client) == "connected"


def test_a_time_that_no_database_can_hold_is_cut(sessions: sessionmaker[Session], oauth_provider: Provider) -> None:
    grant = TokenGrant.from_response({**GOOD, "expires_at": 253402300799})
    assert grant.expires_at is not None
    assert grant.expires_at.year == 9000
    with sessions.begin() as session:
        upsert_integration(session, **WHOSE, grant=grant)
    assert get_valid_token(sessions, **WHOSE, client=oauth_provider.client()) == "ya29.new"


def test_a_grant_that_is_refused_shows_nothing_of_its_response() -> None:
    for wrong in ({"access_token": "", "refresh_token": REFRESH}, {"access_token": 5, "x": [REFRESH]}):
        with pytest.raises(PlaintextTypeError) as caught:
            TokenGrant.from_response(wrong)
        assert_silent(caught.value, REFRESH)


@pytest.mark.parametrize("purpose", [None, 5, b"x"])
def test_a_purpose_is_text(sessions: sessionmaker[Session], oauth_provider: Provider, purpose: Any) -> None:
    with pytest.raises(IntegrationError, match="purpose is"):
        get_valid_token(sessions, **WHOSE, client=oauth_provider.client(), purpose=purpose)


def test_attributes_of_the_application_s_log_records_are_kept(caplog: pytest.LogCaptureFixture) -> None:
    factory = logging.getLogRecordFactory()

    def with_provider(*arguments: Any, **options: Any) -> logging.LogRecord:
        record = factory(*arguments, **options)
        record.provider = "of the application"
        return record

    caplog.set_level(logging.INFO, "sealchemy.audit")
    logging.setLogRecordFactory(with_provider)
    try:
        handed_out(7, "u1", "google", "", "purpose")
    finally:
        logging.setLogRecordFactory(factory)
    assert "provider='google'" in caplog.text


@pytest.mark.parametrize("wrong", ["SENTINEL-of-the-hook", ["SENTINEL-of-the-hook"], RuntimeError, object()])
def test_a_hook_that_fails_costs_no_token_and_shows_none(
    sessions: sessionmaker[Session], oauth_provider: Provider, wrong: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def on_grant(_grant: TokenGrant) -> Any:
        if wrong is RuntimeError:
            raise RuntimeError("SENTINEL-of-the-hook")
        return wrong

    connect(sessions, oauth_provider)
    assert get_valid_token(sessions, **WHOSE, client=oauth_provider.client(on_grant=on_grant))
    assert "on_grant failed" in caplog.text
    assert "SENTINEL-of-the-hook" not in caplog.text


def test_who_finds_out_that_a_user_must_connect_again_says_so_once(
    sessions: sessionmaker[Session], oauth_provider: Provider
) -> None:
    told: list[DeadGrant] = []
    connect(sessions, oauth_provider)
    client = oauth_provider.client(on_reauthorization_required=told.append)
    oauth_provider.answers += [Answer(400, {"error": "invalid_grant"})] * 9

    def ask(_number: int) -> None:
        with pytest.raises((ReauthorizationRequiredError, RefreshFailedError)):
            get_valid_token(sessions, **WHOSE, client=client)

    before = metrics.token_events["reauthorization_required", "google", "invalid_grant"]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(16)))
    assert [(item.user_id, item.provider, item.account, item.code) for item in told] == [
        ("u1", "google", "", "invalid_grant")
    ]
    assert metrics.token_events["reauthorization_required", "google", "invalid_grant"] == before + 1

    oauth_provider.answers.clear()
    connect(sessions, oauth_provider)  # then another change is told again
    oauth_provider.answers.append(Answer(400, {"error": "invalid_grant"}))
    ask(0)
    assert len(told) == 2


@pytest.mark.slow
def test_across_processes_it_is_said_once(database_url: str, oauth_provider: Provider, make_engine: Any) -> None:
    from sqlalchemy.orm import sessionmaker

    from sealchemy.integrations import Base

    key = Key.generate()
    engine = make_engine(database_url, ring=KeyRing(primary=key))
    Base.metadata.create_all(engine)
    sessions = sessionmaker(engine)
    connect(sessions, oauth_provider)
    oauth_provider.answers += [Answer(400, {"error": "invalid_grant"})] * 20
    arguments = {"url": database_url, "keys": [key.reveal()], "token_endpoint": f"{oauth_provider.url}/token"}
    started = [processes.start("dead_grants", **arguments, count=4) for _ in range(3)]
    said = [process.communicate(timeout=120)[0].split().count("told") for process in started]
    assert sum(said) == 1


def test_a_mark_that_another_caller_has_set_is_not_said_again(
    sessions: sessionmaker[Session], oauth_provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two leases at once, of which one has expired: both are refused."""
    told: list[DeadGrant] = []
    connect(sessions, oauth_provider)
    client = oauth_provider.client(on_reauthorization_required=told.append)

    def refused_after_another(*_tokens: object) -> TokenGrant:
        with sessions.begin() as session:
            session.execute(update(Integration).values(reauthorization_required=True))
        raise ReauthorizationRequiredError("refused", code="invalid_grant")

    monkeypatch.setattr(client, "renew", refused_after_another)
    with pytest.raises(ReauthorizationRequiredError):
        get_valid_token(sessions, **WHOSE, client=client)
    assert not told


def test_five_refusals_are_said_at_the_fifth(sessions: sessionmaker[Session], oauth_provider: Provider) -> None:
    told: list[DeadGrant] = []
    connect(sessions, oauth_provider)
    client = oauth_provider.client(on_reauthorization_required=told.append)
    oauth_provider.answers += [Answer(400, {"error": "inactive_user"})] * 5
    for number in range(1, 6):
        expire(sessions)
        with pytest.raises((ReauthorizationRequiredError, RefreshFailedError)):
            get_valid_token(sessions, **WHOSE, client=client)
        assert len(told) == (number == 5)


def test_a_callback_that_fails_changes_nothing(
    sessions: sessionmaker[Session], oauth_provider: Provider, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_grant: DeadGrant) -> None:
        raise RuntimeError("SENTINEL-of-the-callback")

    connect(sessions, oauth_provider)
    oauth_provider.answers.append(Answer(400, {"error": "invalid_grant"}))
    with pytest.raises(ReauthorizationRequiredError) as caught:
        get_valid_token(sessions, **WHOSE, client=oauth_provider.client(on_reauthorization_required=fail))
    assert "on_reauthorization_required failed: RuntimeError" in caplog.text
    assert "SENTINEL-of-the-callback" not in caplog.text + shown_by(caught.value)


def test_each_token_that_is_handed_out_is_in_the_audit_trail(
    sessions: sessionmaker[Session], oauth_provider: Provider, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sealchemy.audit")
    connect(sessions, oauth_provider)
    client = oauth_provider.client()
    tokens = {
        get_valid_token(sessions, **WHOSE, client=client, purpose=purpose)
        for purpose in ("calendar sync", "two\nlines", "x" * 500, "")
    }
    with pytest.raises(RefreshFailedError):
        oauth_provider.answers.append(Answer(500))
        get_valid_token(sessions, **WHOSE, client=client, rejected=next(iter(tokens)))
    lines = [record for record in caplog.records if record.name == "sealchemy.audit"]
    assert [line.purpose for line in lines] == ["calendar sync", "two\nlines", "x" * 200, ""]  # type: ignore[attr-defined]
    assert {(line.integration_id, line.provider) for line in lines} == {(1, "google")}  # type: ignore[attr-defined]
    messages = [line.getMessage() for line in lines]
    wanted = "integration_id='1', user_id='u1', provider='google', account='', purpose='calendar sync'"
    assert messages[0].endswith(wanted)
    assert not any("\n" in message or str(token) in message for message in messages for token in tokens)


def test_the_audit_trail_never_fails_for_an_id_of_any_type() -> None:
    handed_out(object(), 1, "p", "", "purpose")


def test_a_wrong_key_raises_a_counter_that_opentelemetry_reads(
    sessions: sessionmaker[Session], oauth_provider: Provider
) -> None:
    reader = InMemoryMetricReader()
    metrics.instrument(MeterProvider([reader]))

    def read(metric: str, **wanted: str) -> int:
        found = reader.get_metrics_data()
        metrics_of_scopes = [
            item
            for resource in (found.resource_metrics if found else [])
            for scope in resource.scope_metrics
            for item in scope.metrics
            if item.name == metric
        ]
        points: list[Any] = [point for item in metrics_of_scopes for point in item.data.data_points]
        attributes = {name.replace("_", ".", 1): value for name, value in wanted.items()}
        return sum(point.value for point in points if attributes.items() <= dict(point.attributes).items())

    connect(sessions, oauth_provider)
    token = get_valid_token(sessions, **WHOSE, client=oauth_provider.client())
    assert token
    wanted = {"error_type": "UnknownKeyError", "sealchemy_context": "integrations.access_token"}
    before = read("sealchemy.values.unreadable", **wanted)
    handed = read("sealchemy.tokens", sealchemy_event="handed_out")
    refreshed = read("sealchemy.tokens", sealchemy_event="refreshed", sealchemy_provider="google")
    assert handed > 0
    assert refreshed > 0

    attach_key_ring(sessions.kw["bind"], KeyRing(primary=Key.generate()))
    with pytest.raises(UnknownKeyError):
        get_valid_token(sessions, **WHOSE, client=oauth_provider.client())
    assert read("sealchemy.values.unreadable", **wanted) > before
    assert read("sealchemy.tokens", sealchemy_event="handed_out") == handed


def test_counts_of_many_threads_are_exact() -> None:
    before = metrics.token_events["handed_out", "of-this-test", ""]
    threads = [
        threading.Thread(target=lambda: [metrics.count_token_event("handed_out", "of-this-test") for _ in range(2000)])
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert metrics.token_events["handed_out", "of-this-test", ""] == before + 16_000


def test_a_form_encoded_response_is_read(oauth_provider: Provider) -> None:
    form = "access_token=gho_SENTINEL-in-a-form%2B1&scope=repo%2Cgist&token_type=bearer"
    headers = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}
    oauth_provider.answers += [Answer(200, form, headers), Answer(200, "error=bad_refresh_token", headers)]
    grant = oauth_provider.client().refresh("1//x")
    assert (grant.access_token, grant.scope) == ("gho_SENTINEL-in-a-form+1", "repo,gist")
    with pytest.raises(ReauthorizationRequiredError):
        oauth_provider.client().refresh("1//x")
    oauth_provider.answers.append(Answer(200, form, {"Content-Type": "text/html"}))
    with pytest.raises(RefreshFailedError) as caught:
        oauth_provider.client().refresh("1//x")
    assert_silent(caught.value, "gho_SENTINEL-in-a-form")


def test_tokens_for_the_application_itself_are_renewed_without_a_refresh_token(
    sessions: sessionmaker[Session], oauth_provider: Provider
) -> None:
    client = oauth_provider.client(refresh_grant_type="client_credentials")
    with sessions.begin() as session:
        grant = client.request_client_credentials()
        upsert_integration(session, **WHOSE, grant=TokenGrant(access_token=grant.access_token, expires_in=1))
    tokens = {get_valid_token(sessions, **WHOSE, client=client, leeway=60) for _ in range(3)}
    assert len(tokens) == 1
    assert grant.access_token not in tokens
    assert get_valid_token(sessions, **WHOSE, client=client, rejected=tokens.pop())
    assert oauth_provider.counts["/token"] == 3


def discovery_of(url: str, **more: Any) -> dict[str, Any]:
    return {
        "issuer": url,
        "authorization_endpoint": f"{url}/authorize",
        "token_endpoint": f"{url}/token",
        "revocation_endpoint": f"{url}/revoke",
        "token_endpoint_auth_methods_supported": ["client_secret_post", "private_key_jwt"],
        **more,
    }


def test_endpoints_are_discovered(oauth_provider: Provider) -> None:
    oauth_provider.discovery = discovery_of(oauth_provider.url)
    found = discover(oauth_provider.url, scope="openid offline_access")
    assert found == {
        **{name: oauth_provider.discovery[name] for name in oauth_provider.discovery if name.endswith("_endpoint")},
        "auth_method": "client_secret_post",
        "scope": "openid offline_access",
    }
    client = oauth_provider.client(**found)
    assert client.refresh(str(oauth_provider.grant().refresh_token)).access_token
    oauth_provider.discovery.pop("token_endpoint_auth_methods_supported")  # then Basic, says the specification
    assert "auth_method" not in discover(oauth_provider.url)


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"issuer": "https://evil.example"}, "another issuer"),
        ({"token_endpoint": "http://evil.example/token"}, "no token_endpoint with TLS"),
        ({"token_endpoint": None}, "has no token_endpoint"),
        ({"error": "SENTINEL_in_the_answer"}, "with an error"),
        ({"token_endpoint_auth_methods_supported": 5}, "names no way to authenticate"),
        ({"token_endpoint_auth_methods_supported": "client_secret_basic"}, "names no way to authenticate"),
        ({"token_endpoint_auth_methods_supported": ["kerberos"]}, "names no way to authenticate"),
    ],
)
def test_a_wrong_discovery_document_is_refused(oauth_provider: Provider, more: dict[str, Any], text: str) -> None:
    oauth_provider.discovery = discovery_of(oauth_provider.url, **more)
    with pytest.raises(IntegrationError, match=text) as caught:
        discover(oauth_provider.url)
    assert "SENTINEL" not in str(caught.value)


def test_a_server_without_a_document_is_named(oauth_provider: Provider) -> None:
    with pytest.raises(IntegrationError, match=r"responded with an error .*Keycloak"):
        discover(oauth_provider.url)
    with pytest.raises(IntegrationError, match="could not be reached"):
        discover("http://127.0.0.1:1")


def test_json_bodies_headers_and_more_parameters_are_sent(oauth_provider: Provider) -> None:
    client = oauth_provider.client(
        token_endpoint=f"{oauth_provider.url}/echo",
        body="json",
        headers={"User-Agent": "app/1.0", "Notion-Version": "2022-06-28"},
        token_params={"audience": "api", "grant_type": "account_credentials"},
        parameter_names={"refresh_token": "token"},
    )
    said = json.loads(client.refresh("1//SENTINEL").response["echo"])
    assert said["json"] == {"grant_type": "account_credentials", "token": "1//SENTINEL", "audience": "api"}
    assert said["headers"]["User-Agent"] == "app/1.0"
    assert said["headers"]["Notion-Version"] == "2022-06-28"


def test_without_pkce_no_challenge_is_sent(oauth_provider: Provider) -> None:
    client = oauth_provider.client(use_pkce=False, token_endpoint=f"{oauth_provider.url}/echo")
    asked = client.authorization_request("http://127.0.0.1/callback")
    assert "code_challenge" not in asked.url
    assert asked.code_verifier == ""
    said = json.loads(client.exchange_code("code", "http://127.0.0.1/callback", asked.code_verifier).response["echo"])
    assert set(said["form"]) == {"grant_type", "code", "redirect_uri"}
