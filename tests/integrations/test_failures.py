"""What providers do besides what RFC 6749 says, and who is asked, told and left alone then."""

from __future__ import annotations

import asyncio
import gzip
import logging
import os
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import create_engine, select, update
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, sessionmaker

from sealchemy import (
    IntegrationError,
    IntegrationNotFoundError,
    Key,
    KeyRing,
    ReauthorizationRequiredError,
    RefreshFailedError,
    RevocationFailedError,
    attach_key_ring,
)
from sealchemy._column.engine_keys import engine_keys
from sealchemy.integrations import (
    Base,
    Integration,
    TokenGrant,
    disconnect_integration,
    get_valid_token,
    get_valid_token_async,
    upsert_integration,
)
from sealchemy.integrations.failures import Failures
from sealchemy.integrations.integration_row import IntegrationRow
from sealchemy.integrations.retry import retry
from tests.support import processes
from tests.support.cli import run_in_this_process
from tests.support.integrations import WHOSE, TimeLimitError, connect, store, time_limit
from tests.support.leaks import SENTINEL, assert_silent
from tests.support.provider import Answer, Provider

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sqlalchemy import Engine


def row(sessions: sessionmaker[Session]) -> Any:
    names = ("access_token", "refresh_token", "reauthorization_required", "refresh_lease", *Failures._fields)
    with sessions() as session:
        return session.execute(select(*(getattr(Integration, name) for name in names))).one()


def end_pause(sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as session:
        session.execute(update(Integration).values(next_attempt_at=None))


DEAD = {
    "RFC 6749": (400, {"error": "invalid_grant"}, "invalid_grant"),
    "Slack": (200, {"ok": False, "error": "invalid_refresh_token"}, "invalid_refresh_token"),
    "Slack, revoked": (200, {"ok": False, "error": "token_revoked"}, "token_revoked"),
    "GitHub": (200, {"error": "bad_refresh_token", "error_description": SENTINEL}, "bad_refresh_token"),
    "HubSpot": (400, {"status": "BAD_REFRESH_TOKEN", "message": SENTINEL}, "BAD_REFRESH_TOKEN"),
    "Microsoft": (400, {"error": "invalid_grant", "error_description": f"AADSTS70008: {SENTINEL}"}, "invalid_grant"),
    "Microsoft, consent": (400, {"error": "consent_required"}, "consent_required"),
    "Microsoft, login": (400, {"error": "login_required", "suberror": "x"}, "login_required"),
    "Microsoft, interaction": (400, {"error": "interaction_required"}, "interaction_required"),
    "in a list": (422, {"errors": [{"detail": {"code": "invalid_grant"}}]}, "invalid_grant"),
    "without an error": (200, {"result": {"code": "token_revoked"}}, "token_revoked"),
}


@pytest.mark.parametrize("name", DEAD)
def test_a_dead_grant_is_known_by_every_name(
    sessions: sessionmaker[Session], oauth_provider: Provider, name: str
) -> None:
    status, body, code = DEAD[name]
    connect(sessions, oauth_provider)
    oauth_provider.answers.append(Answer(status, body))
    for _ in range(2):
        with pytest.raises(ReauthorizationRequiredError) as caught:
            get_valid_token(sessions, **WHOSE, client=oauth_provider.client())
        assert caught.value.code == code
        assert_silent(caught.value)
    found = row(sessions)
    assert (found.reauthorization_required, found.last_error, oauth_provider.counts["/token"]) == (True, code, 1)
    assert found.failing_since is not None


AMBIGUOUS = {
    "Atlassian": (403, {"error": "unauthorized_client", "error_description": "refresh_token is invalid"}),
    "X": (400, {"error": "invalid_request", "error_description": "Value passed for the token was invalid."}),
    "Salesforce": (400, {"error": "inactive_user"}),
    "a number": (400, {"errcode": 40030}),
}


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_an_ambiguous_code_marks_only_where_the_client_says_so(
    sessions: sessionmaker[Session], oauth_provider: Provider, name: str
) -> None:
    status, body = AMBIGUOUS[name]
    connect(sessions, oauth_provider)
    oauth_provider.answers += [Answer(status, body)] * 2
    with pytest.raises(RefreshFailedError) as caught:
        get_valid_token(sessions, **WHOSE, client=oauth_provider.client())
    assert caught.value.code == body.get("error", "unrecognized_error")
    assert not row(sessions).reauthorization_required
    end_pause(sessions)
    client = oauth_provider.client(
        dead_grant_errors=("unauthorized_client", "invalid_request", "inactive_user", "40030")
    )
    with pytest.raises(ReauthorizationRequiredError):
        get_valid_token(sessions, **WHOSE, client=client)
    assert row(sessions).reauthorization_required


@pytest.mark.parametrize("wrong", ["unauthorized_client", [5], [None], ["a token: " + SENTINEL], 7])
def test_codes_must_be_codes(wrong: Any, oauth_provider: Provider) -> None:
    with pytest.raises(IntegrationError, match="dead_grant_errors"):
        oauth_provider.client(dead_grant_errors=wrong)


def test_five_refusals_in_a_row_mark_as_well(sessions: sessionmaker[Session], oauth_provider: Provider) -> None:
    connect(sessions, oauth_provider)
    oauth_provider.answers += [Answer(401)] * 5
    for number in range(1, 6):
        expected = RefreshFailedError if number < 5 else ReauthorizationRequiredError
        with pytest.raises(expected) as caught:
            get_valid_token(sessions, **WHOSE, client=oauth_provider.client())
        assert caught.value.code == "unrecognized_error"
        found = row(sessions)
        assert (found.failures, found.reauthorization_required) == (number, number == 5)
        if number < 5:  # callers of the time between do not ask
            with pytest.raises(RefreshFailedError, match="asked again") as caught:
                get_valid_token(sessions, **WHOSE, client=oauth_provider.client())
            assert caught.value.retry_after > 50
            assert oauth_provider.counts["/token"] == number
            end_pause(sessions)


@pytest.mark.parametrize(
    "answer",
    [
        Answer(503),
        Answer(429),
        Answer(500, {"error": "some_code"}),
        Answer(400, {"error": "invalid_client"}),
        Answer(200, "not json"),
        Answer(302, "", {"Location": "/other"}),
    ],
    ids=lambda answer: f"{answer.status} {answer.body}",
)
def test_other_failures_never_mark(sessions: sessionmaker[Session], oauth_provider: Provider, answer: Answer) -> None:
    connect(sessions, oauth_provider)
    oauth_provider.answers += [answer] * 8
    for number in range(1, 9):
        with pytest.raises(RefreshFailedError):
            get_valid_token(sessions, **WHOSE, client=oauth_provider.client())
        found = row(sessions)
        assert (found.failures, found.reauthorization_required) == (number, False)
        assert (found.next_attempt_at is not None) == (number > 2)
        end_pause(sessions)
    assert get_valid_token(sessions, **WHOSE, client=oauth_provider.client())
    assert row(sessions)[4:] == (None, 0, None, None)


def test_refusals_after_failures_are_counted_anew() -> None:
    now, found = datetime(2026, 1, 1, tzinfo=UTC), Failures()
    for _ in range(4):
        found = found.and_then("timeout", now, None)
    assert (found.failures, found.shows_a_dead_grant) == (4, False)
    found = found.and_then("unrecognized_error", now, None)
    assert (found.failures, found.failing_since) == (1, now)
    assert found.next_attempt_at == now + timedelta(seconds=60)
    assert found.and_then("x", now, 500.0).next_attempt_at == now + timedelta(seconds=500)


@pytest.mark.parametrize("answer", [Answer(503), Answer(200, {"access_token": "x"}, drip=0.3), Answer(401)])
def test_a_valid_token_is_returned_when_the_refresh_fails(
    sessions: sessionmaker[Session], oauth_provider: Provider, answer: Answer
) -> None:
    connect(sessions, oauth_provider, expires_in=120)
    old = row(sessions).access_token
    oauth_provider.answers += [answer] * 3
    for _ in range(3):
        assert get_valid_token(sessions, **WHOSE, client=oauth_provider.client(timeout=0.5)) == old
    with pytest.raises(RefreshFailedError):
        get_valid_token(sessions, **WHOSE, client=oauth_provider.client(timeout=0.5), rejected=old)


@pytest.mark.slow
def test_a_valid_token_is_returned_while_another_caller_refreshes(
    sessions: sessionmaker[Session], oauth_provider: Provider
) -> None:
    connect(sessions, oauth_provider, expires_in=120)
    old, oauth_provider.delay = row(sessions).access_token, 2
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(get_valid_token, sessions, **WHOSE, client=oauth_provider.client())
        assert oauth_provider.in_request.wait(10)
        start = time.monotonic()
        assert get_valid_token(sessions, **WHOSE, client=oauth_provider.client()) == old
        assert time.monotonic() - start < 1.5
        assert asking.result() != old
    assert oauth_provider.counts["/token"] == 1


def test_a_short_life_does_not_refresh_at_every_call(sessions: sessionmaker[Session], oauth_provider: Provider) -> None:
    connect(sessions, oauth_provider)
    oauth_provider.lifetime = 300  # as long as the leeway
    tokens = {get_valid_token(sessions, **WHOSE, client=oauth_provider.client()) for _ in range(5)}
    assert (len(tokens), oauth_provider.counts["/token"]) == (1, 1)
    with sessions.begin() as session:
        now = datetime.now(UTC)
        times = {"refreshed_at": now - timedelta(seconds=200), "expires_at": now + timedelta(seconds=100)}
        session.execute(update(Integration).values(**times))
    assert get_valid_token(sessions, **WHOSE, client=oauth_provider.client()) not in tokens


def test_a_deadline_ends_the_call_and_not_the_refresh(
    sessions: sessionmaker[Session], oauth_provider: Provider
) -> None:
    connect(sessions, oauth_provider)
    old, oauth_provider.delay = row(sessions).access_token, 1
    start = time.monotonic()
    with pytest.raises(RefreshFailedError, match="deadline") as caught:
        get_valid_token(sessions, **WHOSE, client=oauth_provider.client(), deadline=timedelta(seconds=0.2))
    assert (time.monotonic() - start < 0.9, caught.value.code) == (True, "deadline")
    assert get_valid_token(sessions, **WHOSE, client=oauth_provider.client()) != old
    assert oauth_provider.counts["/token"] == 1
    for wrong in (-1, float("nan")):
        with pytest.raises(IntegrationError, match="deadline"):
            get_valid_token(sessions, **WHOSE, client=oauth_provider.client(), deadline=wrong)


def test_a_signal_handler_that_raises_loses_no_token(sessions: sessionmaker[Session], oauth_provider: Provider) -> None:
    connect(sessions, oauth_provider)
    oauth_provider.delay = 0.6

    with pytest.raises(TimeLimitError), time_limit(0.25):
        get_valid_token(sessions, **WHOSE, client=oauth_provider.client())
    token = get_valid_token(sessions, **WHOSE, client=oauth_provider.client())
    assert token == oauth_provider.tokens[-1].access_token
    assert (oauth_provider.counts["/token"], oauth_provider.counts["reused"]) == (1, 0)
    assert row(sessions).refresh_token == oauth_provider.tokens[-1].refresh_token


def test_a_signal_handler_that_raises_does_not_interrupt_a_disconnect(
    sessions: sessionmaker[Session], oauth_provider: Provider
) -> None:
    connect(sessions, oauth_provider)
    client = oauth_provider.client()
    revoke = client.revoke

    def slowly(token: str) -> None:
        time.sleep(0.5)
        revoke(token)

    client.revoke = slowly  # type: ignore[method-assign]

    with pytest.raises(TimeLimitError), time_limit(0.25):
        disconnect_integration(sessions, **WHOSE, client=client)
    deadline = time.monotonic() + 10
    with sessions() as session:
        while session.scalars(select(Integration)).all() and time.monotonic() < deadline:
            session.rollback()
            time.sleep(0.05)
    assert all(token.revoked for token in oauth_provider.tokens)
    with pytest.raises(IntegrationNotFoundError):
        disconnect_integration(sessions, **WHOSE, client=client)


def test_an_interruption_while_the_thread_starts_sends_nothing_twice(
    sessions: sessionmaker[Session], oauth_provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect(sessions, oauth_provider)
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        start(thread)
        if thread.name == "sealchemy":
            raise RuntimeError

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    token = get_valid_token(sessions, **WHOSE, client=oauth_provider.client())
    assert token == oauth_provider.tokens[-1].access_token
    assert (oauth_provider.counts["/token"], oauth_provider.counts["reused"]) == (1, 0)


def test_a_process_that_ends_after_its_time_limit_stores_the_token(tmp_path: Path, oauth_provider: Provider) -> None:
    key, url = Key.generate(), f"sqlite:///{tmp_path / 'x.db'}"
    engine = attach_key_ring(create_engine(url), KeyRing(primary=key))
    Base.metadata.create_all(engine)
    sessions = sessionmaker(engine)
    connect(sessions, oauth_provider)
    oauth_provider.delay = 1
    told = {"url": url, "keys": [key.reveal()], "token_endpoint": f"{oauth_provider.url}/token"}
    out, err = processes.start("interrupted", **told).communicate(timeout=30)
    assert out == "interrupted\n", err
    assert row(sessions).refresh_token == oauth_provider.tokens[-1].refresh_token
    assert (oauth_provider.counts["/token"], oauth_provider.counts["reused"]) == (1, 0)
    engine.dispose()


def test_a_valid_token_is_returned_while_a_transaction_holds_the_row(
    postgresql_url: str, make_engine: Callable[..., Engine], oauth_provider: Provider
) -> None:
    engine = make_engine(postgresql_url)
    Base.metadata.create_all(engine)
    sessions = sessionmaker(engine)
    connect(sessions, oauth_provider, expires_in=200)
    with sessions() as holder:
        old = holder.scalars(select(Integration.access_token)).one()
        holder.execute(update(Integration).values(scope="x"))
        start = time.monotonic()
        assert get_valid_token(sessions, **WHOSE, client=oauth_provider.client()) == old
        assert time.monotonic() - start < 5
    assert get_valid_token(sessions, **WHOSE, client=oauth_provider.client()) != old


@pytest.mark.slow
@pytest.mark.parametrize("is_async", [False, True])
def test_at_a_deadline_a_valid_token_is_returned_unless_it_was_rejected(
    sessions: sessionmaker[Session], oauth_provider: Provider, is_async: bool
) -> None:
    connect(sessions, oauth_provider, expires_in=100)
    oauth_provider.delay, bind = 0.8, sessions.kw["bind"]

    async def ask_async(**options: Any) -> Any:
        drivers = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+psycopg"}
        engine = create_async_engine(bind.url.set(drivername=drivers[bind.dialect.name]))
        attach_key_ring(engine, engine_keys(bind.dialect).require_ring("test"))
        try:
            return await get_valid_token_async(async_sessionmaker(engine), **options)
        finally:
            await asyncio.sleep(1)  # the refresh goes on
            await engine.dispose()

    def ask(**options: Any) -> Any:
        given = {**WHOSE, "client": oauth_provider.client(), "deadline": 0.2, **options}
        token = asyncio.run(ask_async(**given)) if is_async else get_valid_token(sessions, **given)
        time.sleep(1.2)
        return token

    first = str(row(sessions).access_token)
    with pytest.raises(RefreshFailedError, match="deadline"):
        ask(rejected=first)
    time.sleep(1.2)
    second = str(row(sessions).access_token)
    assert (second != first, oauth_provider.counts["/token"]) == (True, 1)
    with sessions.begin() as session:
        soon = datetime.now(UTC) + timedelta(seconds=100)
        session.execute(update(Integration).values(expires_at=soon, refreshed_at=None))
    assert ask() == second
    assert oauth_provider.counts["/token"] == 2


def test_after_a_failure_a_rejected_token_is_not_returned(
    sessions: sessionmaker[Session], oauth_provider: Provider
) -> None:
    connect(sessions, oauth_provider, expires_in=3600)
    oauth_provider.answers.append(Answer(503))
    with pytest.raises(RefreshFailedError):
        get_valid_token(sessions, **WHOSE, client=oauth_provider.client(), rejected=str(row(sessions).access_token))


def test_a_refused_refresh_token_that_is_not_replaced_is_not_kept(
    sessions: sessionmaker[Session], oauth_provider: Provider
) -> None:
    """Another caller took over and was refused, before the answer to the first, without a refresh token, is stored."""
    oauth_provider.rotates = False
    connect(sessions, oauth_provider)
    oauth_provider.delay = 0.6
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(get_valid_token, sessions, **WHOSE, client=oauth_provider.client())
        assert oauth_provider.in_request.wait(10)
        with sessions.begin() as session:
            session.execute(update(Integration).values(reauthorization_required=True, last_error="invalid_grant"))
        token = asking.result()
    assert row(sessions)[:3] == (token, None, False)


def test_a_refresh_token_that_was_refused_without_a_mark_is_not_kept(
    sessions: sessionmaker[Session], oauth_provider: Provider
) -> None:
    for status, is_kept in ((401, False), (503, True)):
        connect(sessions, oauth_provider)
        oauth_provider.answers.append(Answer(status))
        with pytest.raises(RefreshFailedError):
            get_valid_token(sessions, **WHOSE, client=oauth_provider.client())
        store(sessions, access_token="new", expires_in=60)
        assert (row(sessions).refresh_token is not None) is is_kept


def test_failures_of_the_moment_do_not_make_refusals_forgotten() -> None:
    now, failures = datetime(2026, 1, 1, tzinfo=UTC), Failures()
    for code in ("access_denied", "server_error", "access_denied", "timeout", "access_denied", "access_denied"):
        failures = failures.and_then(code, now, None)
        assert not failures.shows_a_dead_grant
        assert failures.next_attempt_at is not None
    assert failures.and_then("access_denied", now, None).shows_a_dead_grant
    assert failures.and_then("server_error", now, 5000.0).next_attempt_at == now + timedelta(seconds=5000)
    assert failures.and_then("server_error", now, None).next_attempt_at == now + timedelta(seconds=5)


def test_a_grant_of_the_meantime_is_not_forgotten(sessions: sessionmaker[Session], oauth_provider: Provider) -> None:
    connect(sessions, oauth_provider)
    client = oauth_provider.client()

    def fail(_token: str) -> None:
        connect(sessions, oauth_provider)  # the user connects again
        raise RevocationFailedError("503")

    client.revoke = fail  # type: ignore[method-assign]
    with pytest.raises(RevocationFailedError):
        disconnect_integration(sessions, **WHOSE, client=client, forget=True)
    assert row(sessions).refresh_token == oauth_provider.tokens[-1].refresh_token


def test_a_row_that_is_refreshed_before_it_is_forgotten_is_forgotten(
    sessions: sessionmaker[Session], oauth_provider: Provider
) -> None:
    connect(sessions, oauth_provider)
    oauth_provider.delay = 0.8
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(get_valid_token, sessions, **WHOSE, client=oauth_provider.client())
        assert oauth_provider.in_request.wait(10)
        client = oauth_provider.client(revocation_endpoint=f"{oauth_provider.url}/nothing")
        disconnect_integration(sessions, **WHOSE, client=client, forget=True)
        asking.result()
    with sessions() as session:
        assert session.scalars(select(Integration)).all() == []


@pytest.mark.parametrize("what", ["refreshed", "disconnected", "refused", "connected"])
def test_a_token_of_a_row_that_has_changed_is_not_returned(
    sessions: sessionmaker[Session], oauth_provider: Provider, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    connect(sessions, oauth_provider, expires_in=20)
    claim, client = IntegrationRow.claim, oauth_provider.client()

    def late(row_: IntegrationRow, session: Session, *arguments: Any, **options: Any) -> Any:
        monkeypatch.undo()
        if what == "refreshed":
            get_valid_token(sessions, **WHOSE, client=client)
        elif what == "disconnected":
            disconnect_integration(sessions, **WHOSE, client=client)
        elif what == "refused":
            with sessions.begin() as other:
                other.execute(update(Integration).values(reauthorization_required=True, last_error="invalid_grant"))
        else:
            store(sessions, access_token="other", expires_in=3600)
        return claim(row_, session, *arguments, **options)

    old = row(sessions).access_token
    monkeypatch.setattr(IntegrationRow, "claim", late)
    monkeypatch.setenv("AUTHLIB_INSECURE_TRANSPORT", "1")
    expected = {"disconnected": IntegrationNotFoundError, "refused": ReauthorizationRequiredError}
    if what in expected:
        with pytest.raises(expected[what]):
            get_valid_token(sessions, **WHOSE, client=client)
    else:
        assert get_valid_token(sessions, **WHOSE, client=client) != old


def test_a_refused_refresh_token_is_not_kept(sessions: sessionmaker[Session], oauth_provider: Provider) -> None:
    connect(sessions, oauth_provider)
    store(sessions, access_token="a", expires_in=0)
    assert row(sessions).refresh_token is not None
    oauth_provider.answers.append(Answer(400, {"error": "invalid_grant"}))
    with pytest.raises(ReauthorizationRequiredError):
        get_valid_token(sessions, **WHOSE, client=oauth_provider.client())
    assert row(sessions).refresh_token is not None  # `retry` may still send it
    store(sessions, access_token="new", expires_in=60)
    assert row(sessions) == ("new", None, False, None, None, 0, None, None)


def test_marks_can_be_cleared(sessions: sessionmaker[Session], oauth_provider: Provider) -> None:
    connect(sessions, oauth_provider)
    oauth_provider.answers.append(Answer(400, {"error": "invalid_grant"}))
    with pytest.raises(ReauthorizationRequiredError):
        get_valid_token(sessions, **WHOSE, client=oauth_provider.client())
    engine = create_engine(sessions.kw["bind"].url)  # without keys
    assert retry(engine, provider="other") == 0
    assert retry(engine, code="timeout") == 0
    assert retry(engine, provider="google", code="invalid_grant") == 1
    assert retry(engine) == 0
    engine.dispose()
    assert get_valid_token(sessions, **WHOSE, client=oauth_provider.client())


def test_one_stray_401_does_not_lock_a_token_without_refresh_token(
    sessions: sessionmaker[Session], oauth_provider: Provider
) -> None:
    store(sessions, access_token="only")
    client = oauth_provider.client()

    def rejected() -> None:
        with pytest.raises(ReauthorizationRequiredError, match="rejected its access token"):
            get_valid_token(sessions, **WHOSE, client=client, rejected="only")

    for _ in range(10):  # many callers, of one moment
        rejected()
        assert get_valid_token(sessions, **WHOSE, client=client) == "only"
    assert row(sessions).failures == 1
    for _ in range(4):
        end_pause(sessions)
        rejected()
    assert (row(sessions).failures, row(sessions).reauthorization_required) == (5, True)
    with pytest.raises(ReauthorizationRequiredError):
        get_valid_token(sessions, **WHOSE, client=client)
    assert oauth_provider.counts["/token"] == 0


def test_a_row_that_cannot_be_read_can_be_forgotten(sessions: sessionmaker[Session], oauth_provider: Provider) -> None:
    connect(sessions, oauth_provider)
    engine = attach_key_ring(create_engine(sessions.kw["bind"].url), KeyRing(primary=Key.generate()))
    other, client = sessionmaker(engine), oauth_provider.client()
    with pytest.raises(Exception, match=r"unknown|not in the key ring"):
        disconnect_integration(other, **WHOSE, client=client)
    disconnect_integration(other, **WHOSE, client=client, forget=True)
    with pytest.raises(IntegrationNotFoundError):
        disconnect_integration(other, **WHOSE, client=client, forget=True)
    engine.dispose()
    connect(sessions, oauth_provider)
    oauth_provider.answers += [Answer(503)] * 2
    with pytest.raises(RevocationFailedError) as caught:
        disconnect_integration(sessions, **WHOSE, client=client)
    assert caught.value.code == "server_error"
    disconnect_integration(sessions, **WHOSE, client=client, forget=True)
    with sessions() as session:
        assert session.scalars(select(Integration)).all() == []


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "identity, gzip"])
def test_a_compressed_answer_is_not_inflated(
    sessions: sessionmaker[Session], oauth_provider: Provider, encoding: str
) -> None:
    connect(sessions, oauth_provider)
    bomb = gzip.compress(b'{"access_token": "' + b"x" * 50_000_000 + b'"}').decode("latin1")
    oauth_provider.answers.append(Answer(200, bomb, {"Content-Encoding": encoding}))
    with pytest.raises(RefreshFailedError, match="compressed") as caught:
        get_valid_token(sessions, **WHOSE, client=oauth_provider.client())
    assert caught.value.code == "unusable_response"


def test_log_lines_cannot_be_forged(
    sessions: sessionmaker[Session], oauth_provider: Provider, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    whose = {"user_id": "u\rINFO forged", "provider": "p\u2028\x1b[2J\x85forged"}
    token = oauth_provider.grant()
    grant = TokenGrant(access_token=token.access_token, refresh_token=token.refresh_token, expires_in=0)
    with sessions.begin() as session:
        upsert_integration(session, **whose, grant=grant)
    get_valid_token(sessions, **whose, client=oauth_provider.client())
    disconnect_integration(sessions, **whose, client=oauth_provider.client())
    with pytest.raises(IntegrationNotFoundError) as caught:
        get_valid_token(sessions, **whose, client=oauth_provider.client())
    ours = [record.getMessage() for record in caplog.records if record.name == "sealchemy"]
    assert len(ours) >= 3
    assert all(line.isprintable() for line in [*ours, str(caught.value)])


def test_times_of_other_libraries() -> None:
    """`expires_at` of Authlib and requests-oauthlib; `expires_in` beside it is from a request of long ago."""
    at = int(time.time()) + 500
    for given in (at, float(at), str(at)):
        grant = TokenGrant.from_response({"access_token": "a", "expires_in": 3600, "expires_at": given})
        assert (grant.expires_in, grant.expires_at) == (None, datetime.fromtimestamp(at, UTC))
    for odd in (0, 3600, -1, None, "soon", True, 1e300, float("nan"), {}):
        grant = TokenGrant.from_response({"access_token": "a", "expires_in": 3600, "expires_at": odd})
        assert (grant.expires_in, grant.expires_at) == (3600.0, None)


@pytest.mark.slow
def test_a_life_counts_from_the_request(sessions: sessionmaker[Session], oauth_provider: Provider) -> None:
    grant = TokenGrant(access_token="a", expires_in=100)
    grant = grant.requested_at(time.monotonic() - 40)
    assert 59 < (grant.seconds_left() or 0) <= 60
    with sessions.begin() as session:
        upsert_integration(session, **WHOSE, grant=grant)
        left = session.scalars(select(Integration.expires_at)).one() - datetime.now(UTC)
    assert timedelta(seconds=50) < left < timedelta(seconds=61)
    copied = pickle.loads(pickle.dumps(grant))  # noqa: S301 - our own
    assert 58 < copied.seconds_left() <= 60
    connect(sessions, oauth_provider)
    oauth_provider.delay, oauth_provider.lifetime = 2, 100
    get_valid_token(sessions, **WHOSE, client=oauth_provider.client())
    with sessions() as session:
        left = session.scalars(select(Integration.expires_at)).one() - datetime.now(UTC)
    assert left < timedelta(seconds=98.5)


def test_a_database_in_memory_works(oauth_provider: Provider) -> None:
    """Its connection belongs to the thread of the caller."""
    engine = attach_key_ring(create_engine("sqlite://"), KeyRing(primary=Key.generate()))
    Base.metadata.create_all(engine)
    sessions = sessionmaker(engine)
    connect(sessions, oauth_provider)
    assert get_valid_token(sessions, **WHOSE, client=oauth_provider.client())
    disconnect_integration(sessions, **WHOSE, client=oauth_provider.client())
    engine.dispose()


def test_sessions_of_one_connection_work(engine: Engine, oauth_provider: Provider) -> None:
    """As test suites have them, which roll everything back."""
    Base.metadata.create_all(engine)
    with engine.connect() as connection, connection.begin() as transaction:
        sessions = sessionmaker(connection, join_transaction_mode="create_savepoint")
        connect(sessions, oauth_provider)
        assert get_valid_token(sessions, **WHOSE, client=oauth_provider.client())
        transaction.rollback()


def test_a_grant_is_alive_if_a_later_answer_says_so(sessions: sessionmaker[Session], oauth_provider: Provider) -> None:
    """Another caller took over, sent the same refresh token, and was refused, before the first answer is stored."""
    connect(sessions, oauth_provider)
    oauth_provider.delay = 0.6
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(get_valid_token, sessions, **WHOSE, client=oauth_provider.client())
        assert oauth_provider.in_request.wait(10)
        with sessions.begin() as session:
            session.execute(update(Integration).values(reauthorization_required=True, last_error="invalid_grant"))
        token = asking.result()
    assert row(sessions) == (token, oauth_provider.tokens[-1].refresh_token, False, None, None, 0, None, None)


def test_a_reconnect_without_refresh_token_is_not_marked(
    sessions: sessionmaker[Session], oauth_provider: Provider
) -> None:
    connect(sessions, oauth_provider)
    oauth_provider.delay = 0.6
    oauth_provider.answers.append(Answer(400, {"error": "invalid_grant"}))
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(get_valid_token, sessions, **WHOSE, client=oauth_provider.client())
        assert oauth_provider.in_request.wait(10)
        store(sessions, access_token="new", expires_in=3600)
        assert asking.result() == "new"
    assert row(sessions)[:4] == ("new", None, False, None)


@pytest.mark.parametrize(
    "answer",
    [
        Answer(503, {"error": "temporarily_unavailable", "see": ["invalid_grant"]}),
        Answer(429, {"documented_errors": ["invalid_grant"]}),
        Answer(200, {"error": "server_error", "state": "login_required"}),
    ],
    ids=lambda answer: f"{answer.status} {answer.body}",
)
def test_texts_deep_inside_do_not_mark(
    sessions: sessionmaker[Session], oauth_provider: Provider, answer: Answer
) -> None:
    connect(sessions, oauth_provider)
    oauth_provider.answers.append(answer)
    with pytest.raises(RefreshFailedError):
        get_valid_token(sessions, **WHOSE, client=oauth_provider.client())
    assert not row(sessions).reauthorization_required


@pytest.mark.parametrize("coding", ["", "identity", "identity, identity", "UTF-8", "none"])
def test_what_is_not_compressed_is_read(sessions: sessionmaker[Session], oauth_provider: Provider, coding: str) -> None:
    connect(sessions, oauth_provider)
    oauth_provider.answers.append(
        Answer(200, {"access_token": "a", "scope": [{"x": "y"}]}, {"Content-Encoding": coding})
    )
    assert get_valid_token(sessions, **WHOSE, client=oauth_provider.client()) == "a"


def test_a_thread_that_cannot_start_is_done_without(
    sessions: sessionmaker[Session], oauth_provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect(sessions, oauth_provider)
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "sealchemy":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert get_valid_token(sessions, **WHOSE, client=oauth_provider.client()) == oauth_provider.tokens[-1].access_token


def test_the_command_clears_marks(sessions: sessionmaker[Session], oauth_provider: Provider, tmp_path: Path) -> None:
    connect(sessions, oauth_provider)
    oauth_provider.answers.append(Answer(400, {"error": "invalid_grant"}))
    with pytest.raises(ReauthorizationRequiredError):
        get_valid_token(sessions, **WHOSE, client=oauth_provider.client())
    url = sessions.kw["bind"].url.render_as_string(hide_password=False)

    def run(*options: str) -> tuple[int, str]:
        done = run_in_this_process(["integrations", "retry", "--url", url, *options], tmp_path, dict(os.environ))
        lines = (done.stdout + done.stderr).splitlines(keepends=True)
        return done.returncode, "".join(line for line in lines if not line.startswith("database: "))

    assert run("--provider", "other") == (0, "0 integrations are asked again when they are used\n")
    status, said = run("--table", "nothing")
    assert (status, "table nothing has no column" in said) == (1, True)
    assert run("--error", "invalid_grant") == (0, "1 integrations are asked again when they are used\n")
    assert get_valid_token(sessions, **WHOSE, client=oauth_provider.client())


def test_a_token_that_is_repeated_as_a_code_is_not_shown(
    sessions: sessionmaker[Session], oauth_provider: Provider, caplog: pytest.LogCaptureFixture
) -> None:
    connect(sessions, oauth_provider, refresh_token="lowercase_refresh_token")
    for error in ("lowercase_refresh_token", "no_lowercase_refresh_token", {"type": "lowercase_refresh_token"}):
        oauth_provider.answers.append(Answer(400, {"error": error}))
        with pytest.raises(RefreshFailedError) as caught:
            get_valid_token(sessions, **WHOSE, client=oauth_provider.client())
        assert caught.value.code == row(sessions).last_error == "unrecognized_error"
        assert "lowercase_refresh_token" not in f"{caught.value}{caplog.text}"
        end_pause(sessions)


def test_a_reconnect_during_a_refresh_keeps_its_access_token(
    sessions: sessionmaker[Session], oauth_provider: Provider
) -> None:
    """And the refresh token that the provider has rotated meanwhile."""
    connect(sessions, oauth_provider)
    oauth_provider.delay = 0.6
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(get_valid_token, sessions, **WHOSE, client=oauth_provider.client())
        assert oauth_provider.in_request.wait(10)
        store(sessions, access_token="with more scopes", scope="calendar drive", expires_in=3600)
        assert asking.result() == "with more scopes"
    found = row(sessions)
    assert (found.access_token, found.refresh_token) == ("with more scopes", oauth_provider.tokens[-1].refresh_token)
    assert found.refresh_lease is None


@pytest.mark.slow
def test_callers_with_deadlines_do_not_pile_up_threads(
    sessions: sessionmaker[Session], oauth_provider: Provider
) -> None:
    connect(sessions, oauth_provider)
    oauth_provider.delay = 2
    client = oauth_provider.client()
    for _ in range(30):
        with pytest.raises(RefreshFailedError, match="deadline"):
            get_valid_token(sessions, **WHOSE, client=client, deadline=0)
    assert sum(thread.name == "sealchemy" for thread in threading.enumerate()) <= 2
    assert get_valid_token(sessions, **WHOSE, client=client) == oauth_provider.tokens[-1].access_token
    assert oauth_provider.counts["/token"] == 1
